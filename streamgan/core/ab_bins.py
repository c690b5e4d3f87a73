"""The ab plane in bins: colour as classes, as in "Colorful Image Colorization".

Zhang, Isola, Efros, ECCV 2016, https://arxiv.org/abs/1603.08511 (sections 2.1 to 2.3). Bins are the cells of
a grid of 10 Lab units that hold a colour of 8-bit sRGB: 261 of them. The authors count 313 with another test
of the gamut; `read_bins` takes their file.

Shape suffixes: B batch, H height, W width, Q bins, K nearest bins, 2 the channels a and b.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from .color import AB_SCALE, rgb_to_lab, without_autocast
from .errors import ConfigError

GRID = 10.0  # side of a bin in Lab units
NUM_NEIGHBOURS = 5  # bins that share a pixel, weighted by a Gaussian
SIGMA = 5.0  # of that Gaussian, and of the smoothing of the prior, in Lab units
TEMPERATURE = 0.38  # of the annealed mean
_LARGEST = 120.0  # |a| and |b| of a bin's centre; sRGB reaches 108


@functools.cache
def _centres() -> tuple[tuple[float, float], ...]:
    levels = torch.arange(256, device="cpu") / 255
    one, other = torch.meshgrid(levels, levels, indexing="ij")
    reach = 12  # cells on either side of 0
    used = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.bool, device="cpu")
    # Every ab of the RGB cube is also the ab of a colour on its surface, where the line of its L ends.
    for axis in range(3):
        for level in (0.0, 1.0):
            face = [one, other]
            face.insert(axis, torch.full_like(one, level))
            ab_2HW = rgb_to_lab(torch.stack(face)[None])[0, 1:]
            row, column = (ab_2HW / GRID).round().long() + reach
            used[row, column] = True
    return tuple((float(a - reach) * GRID, float(b - reach) * GRID) for a, b in used.nonzero().tolist())


def bin_centres() -> Tensor:
    """The centres of the bins in Lab units, float32 (Q, 2), on the default device; (0, 0) is among them."""
    return torch.tensor(_centres())


def read_bins(path: str, *, setting: str) -> Tensor:
    """Bins from a .npy file, float32 (Q, 2) in Lab units, on the default device; ConfigError at `setting`."""
    try:
        given = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            setting, f"{path} cannot be read as .npy ({reason})", "give a file of bin centres"
        ) from error
    numbers = isinstance(given, np.ndarray) and given.dtype.kind in "iuf"
    if not (numbers and given.ndim == 2 and given.shape[1] == 2 and len(given) >= NUM_NEIGHBOURS):
        got = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
        raise ConfigError(
            setting, f"{path} does not hold pairs of a and b (got {got})", "give (Q, 2) numbers"
        )
    if not (np.abs(given) <= _LARGEST).all():  # NaN too
        raise ConfigError(
            setting, f"{path} leaves the ab plane of sRGB", f"give Lab units, within +-{_LARGEST:.0f}"
        )
    if len(np.unique(given, axis=0)) < len(given):
        raise ConfigError(setting, f"{path} holds a bin twice", "give every bin once")
    return torch.tensor(given.tolist(), dtype=torch.float32)


def _squared_distance(ab_B2HW: Tensor, centres_Q2: Tensor) -> Tensor:
    """(B, Q, H, W), less |ab|^2, which is the same for all bins."""
    products = torch.einsum("bchw,qc->bqhw", ab_B2HW, centres_Q2)
    return centres_Q2.square().sum(1).view(1, -1, 1, 1) - 2 * products


def nearest_bin(ab_n_B2HW: Tensor, centres_Q2: Tensor) -> Tensor:
    """The nearest bin of every pixel, int64 (B, H, W); the input is ab / 110."""
    with without_autocast(ab_n_B2HW):
        return _squared_distance(ab_n_B2HW.float() * AB_SCALE, centres_Q2).argmin(1)


def soft_encode(ab_n_B2HW: Tensor, centres_Q2: Tensor) -> tuple[Tensor, Tensor]:
    """The 5 nearest bins of every pixel, nearest first (B, K, H, W), and their shares, which add up to 1.

    The shares fall with the distance as a Gaussian of sigma 5. The input is ab / 110.
    """
    with without_autocast(ab_n_B2HW):
        ab_B2HW = ab_n_B2HW.float() * AB_SCALE
        squared, bins = _squared_distance(ab_B2HW, centres_Q2).topk(NUM_NEIGHBOURS, dim=1, largest=False)
        return bins, torch.softmax(-squared / (2 * SIGMA**2), 1)


def annealed_mean(logits_BQHW: Tensor, centres_Q2: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """The mean colour under softmax(logits / temperature), as ab / 110, float32 (B, 2, H, W).

    Temperature 1 gives the mean, towards 0 the mode.
    """
    with without_autocast(logits_BQHW):
        share_BQHW = torch.softmax(logits_BQHW.float() / temperature, 1)
        return torch.einsum("bqhw,qc->bchw", share_BQHW, centres_Q2.float() / AB_SCALE)
