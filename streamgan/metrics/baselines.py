"""What a table shows beside a model: gray passthrough, the median colour and, for scale, truth as a JPEG.

Shape suffixes: B batch, H height, W width, N histogram bins, 1/2/3 channels.
The first two give ab_n of the `lab` head, for its `decode`. The median is the best constant ab under L1. It
comes from a histogram of integer counts, which ranks can add up: the same number on every machine and in
every order.
"""

import io
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from streamgan.core.color import AB_SCALE, rgb_to_lab, unit_rgb
from streamgan.core.errors import DataError

JPEG_QUALITY = 90  # at 75 blocks of small photos are visible
BIN_WIDTH = 0.1  # Lab units; the median is exact to half of it. Centres are its multiples, so gray stays 0
_REACH = 1100  # bins on either side of 0: +-110 holds the whole sRGB gamut


def gray_passthrough(l_B1HW: Tensor) -> Tensor:
    """No colour: ab_n = 0, (B, 2, H, W)."""
    return torch.zeros_like(l_B1HW, dtype=torch.float32).repeat(1, 2, 1, 1)


def constant_ab(l_B1HW: Tensor, ab_2: Tensor) -> Tensor:
    """The same colour everywhere: ab_2 in Lab units -> ab_n (B, 2, H, W)."""
    batch, _, height, width = l_B1HW.shape
    scaled = (ab_2.to(l_B1HW.device, torch.float32) / AB_SCALE).view(1, 2, 1, 1)
    return scaled.expand(batch, 2, height, width)


def through_jpeg(color_B3HW: Tensor) -> Tensor:
    """uint8 images -> what a JPEG keeps of them, with chroma at half its size: few people see the change."""
    kept = []
    for image_HW3 in color_B3HW.permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image_HW3).save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
        kept.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(kept)).permute(0, 3, 1, 2).to(color_B3HW.device)


def ab_histogram(color_B3HW: Tensor) -> Tensor:
    """Counts of a and of b over all pixels of uint8 images, int64 (2, N) on the CPU; histograms add up."""
    ab_B2HW = rgb_to_lab(unit_rgb(color_B3HW))[:, 1:]
    bins = (ab_B2HW / BIN_WIDTH).round().long().clamp(-_REACH, _REACH) + _REACH
    return torch.stack(
        [channel.flatten().cpu().bincount(minlength=2 * _REACH + 1) for channel in bins.unbind(1)]
    )


def histogram_median(counts_2N: Tensor) -> Tensor:
    """The median of a and of b in Lab units, float32 (2,): the middle of the bin of the lower median."""
    if not counts_2N.sum():
        raise DataError(
            "metrics.median_ab", "no pixel was counted", "give the training set at least one image"
        )
    cumulative_2N = counts_2N.cumsum(1)
    middle_21 = (cumulative_2N[:, -1:] + 1) // 2
    return (torch.searchsorted(cumulative_2N, middle_21)[:, 0] - _REACH).float() * BIN_WIDTH


def median_ab(batches: Iterable[Tensor]) -> Tensor:
    """The per-channel median of ab over all pixels of uint8 batches (B, 3, H, W), float32 (2,) in Lab units.

    Streamed: one batch in memory. Exact to 0.05. DataError if there is no pixel.
    """
    counts_2N = torch.zeros(2, 2 * _REACH + 1, dtype=torch.int64)
    for color_B3HW in batches:
        counts_2N += ab_histogram(color_B3HW)
    return histogram_median(counts_2N)
