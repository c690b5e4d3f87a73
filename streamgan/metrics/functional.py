"""Quality of coloured images, one value per image.

Shape suffixes: B batch, H height, W width, 2/3 channels.
Both images are sRGB: uint8, or float in [0, 1], which is checked at the door (a generator scored in the
wrong range is how a published PSNR came to be 5 dB). Floats are rounded to uint8 first, because that is what
a file would hold.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.signal.windows import gaussian
from torchmetrics.functional.image import peak_signal_noise_ratio

from streamgan.core.color import rgb_to_lab, to_uint8, unit_rgb, without_autocast
from streamgan.core.errors import DataError

PSNR_CAP_DB = 100.0  # two equal images have no finite PSNR; one grey level off in every value is 48 dB
SMALLEST_SSIM = 11  # the side of SSIM's Gaussian window in pixels
_BELL = gaussian(SMALLEST_SSIM, std=1.5, dtype=torch.float64)
_WINDOW = (_BELL / _BELL.sum()).tolist()
_C1, _C2 = 0.01**2, 0.03**2
_SLACK = 1e-4  # float rounding beyond [0, 1]; a fortieth of a grey level

Cf = Literal["hasler", "ddcolor"]  # definition of colourfulness
_CF_PROTOCOL: dict[Cf, str] = {
    "hasler": "CF: Hasler and Suesstrunk 2003 on 0-255 with population sigma (figures published with DDColor "
    "take absolute values first: --cf ddcolor)",
    "ddcolor": "CF: as in DDColor's code, Hasler and Suesstrunk 2003 of the opponents' absolute values, on "
    "0-255 with population sigma",
}


def protocol(cf: Cf = "hasler") -> str:
    """How the scores are measured, in one line."""
    return (
        "sRGB after the head's decode with the input's luminance, clamped, rounded to uint8, compared in "
        "fp32 at the same size; PSNR: mean over images, data range [0, 1], at most "
        f"{PSNR_CAP_DB:.0f} dB per image; psnr_pooled: of the mean squared error over all images; SSIM: "
        "11 x 11 Gaussian window, sigma 1.5, "
        f"mean over R, G, B and where the window fits, range [0, 1], in fp64; {_CF_PROTOCOL[cf]}; "
        "dCF = |mean CF(pred) - mean CF(truth)|; chroma ratio: mean Lab chroma of pred over "
        "that of truth, all images; ab error: mean |d ab| in Lab units; psnr_at_cf50: mean PSNR with the "
        "predicted ab scaled so that mean CF is half of the truth's, to be compared with gray's psnr"
    )


PROTOCOL = protocol()


def quantised(rgb_B3HW: Tensor, name: str) -> Tensor:
    """sRGB (uint8, or float in [0, 1]) -> float32 in [0, 1] on the 256 levels of uint8; `name` is for errors.

    DataError for another shape, for values outside [0, 1] and for NaN.
    """
    if rgb_B3HW.ndim != 4 or rgb_B3HW.shape[1] != 3:
        raise DataError(
            "metrics", f"{name} is not (B, 3, H, W) (got {tuple(rgb_B3HW.shape)})", "pass sRGB images"
        )
    if rgb_B3HW.dtype == torch.uint8:
        return unit_rgb(rgb_B3HW)
    if not rgb_B3HW.is_floating_point():
        raise DataError(
            "metrics", f"{name} is neither uint8 nor float (got {rgb_B3HW.dtype})", "pass sRGB images"
        )
    if rgb_B3HW.numel():
        low, high = (float(bound) for bound in rgb_B3HW.detach().aminmax())
        if math.isnan(low):
            todo = "lower the learning rates and start again, or take an earlier checkpoint"
            raise DataError("metrics", f"{name} is not a number: the model has diverged", todo)
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise DataError(
                "metrics",
                f"{name} leaves [0, 1] (got {low:.4g} to {high:.4g})",
                "decode it to sRGB with the model's head",
            )
    return unit_rgb(to_uint8(rgb_B3HW))


def _pair(pred_B3HW: Tensor, truth_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    if pred_B3HW.shape != truth_B3HW.shape:
        raise DataError(
            "metrics",
            f"pred and truth differ in shape (got {tuple(pred_B3HW.shape)} and {tuple(truth_B3HW.shape)})",
            "resize both in the same way",
        )
    return quantised(pred_B3HW, "pred"), quantised(truth_B3HW, "truth")


def _psnr(pred_B3HW: Tensor, truth_B3HW: Tensor) -> Tensor:
    value_B = peak_signal_noise_ratio(
        pred_B3HW, truth_B3HW, data_range=(0.0, 1.0), reduction="none", dim=(1, 2, 3)
    )
    return value_B.clamp(max=PSNR_CAP_DB)


def _ssim(pred_B3HW: Tensor, truth_B3HW: Tensor) -> Tensor:
    """Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861; as in scikit-image, where the window fits.

    In float64: E[x^2] - E[x]^2 in float32 is 0.0014 off on flat bright images.
    """
    height, width = pred_B3HW.shape[-2:]
    if min(height, width) < SMALLEST_SSIM:
        raise DataError(
            "metrics.ssim",
            f"images are smaller than its window (got {height} x {width})",
            f"use images of at least {SMALLEST_SSIM} pixels a side",
        )
    pred, truth = pred_B3HW.double(), truth_B3HW.double()
    mu_p, mu_t, pp, tt, pt = (_blur(x) for x in (pred, truth, pred * pred, truth * truth, pred * truth))
    variances, covariance = pp - mu_p * mu_p + tt - mu_t * mu_t, pt - mu_p * mu_t
    lightness = (2 * mu_p * mu_t + _C1) / (mu_p * mu_p + mu_t * mu_t + _C1)
    return (lightness * (2 * covariance + _C2) / (variances + _C2)).mean((1, 2, 3)).float()


def _blur(image_BCHW: Tensor) -> Tensor:
    """SSIM's window where it fits, axis by axis: a float64 convolution would copy each pixel 121 times."""
    for axis in (2, 3):
        length = image_BCHW.shape[axis] - SMALLEST_SSIM + 1
        image_BCHW = sum(w * image_BCHW.narrow(axis, at, length) for at, w in enumerate(_WINDOW))  # type: ignore[assignment]
    return image_BCHW


def _colourfulness(rgb_B3HW: Tensor, cf: Cf) -> Tensor:
    red, green, blue = (rgb_B3HW * 255).flatten(2).unbind(1)
    spread, centre = 0.0, 0.0
    for opponent in (red - green, (red + green) / 2 - blue):
        opponent = opponent.abs() if cf == "ddcolor" else opponent
        spread = spread + opponent.var(1, correction=0)
        centre = centre + opponent.mean(1).square()
    return torch.as_tensor(spread).sqrt() + 0.3 * torch.as_tensor(centre).sqrt()


def _chroma(ab_B2HW: Tensor) -> Tensor:
    """The mean of sqrt(a^2 + b^2)."""
    return ab_B2HW.square().sum(1).sqrt().mean((1, 2))


def psnr(pred_B3HW: Tensor, truth_B3HW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, (B,), at most 100."""
    return _psnr(*_pair(pred_B3HW, truth_B3HW))


def colourfulness(rgb_B3HW: Tensor, cf: Cf = "hasler") -> Tensor:
    """Colourfulness of each image, (B,): 0 for gray, about 30 to 60 for photos (Hasler and Suesstrunk 2003).

    sqrt(var rg + var yb) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2), rg = R - G, yb = (R + G) / 2 - B in 0-255.
    "ddcolor" is `calculate_cf` of https://github.com/piddnad/DDColor, which takes |rg| and |yb|: the figures
    that it published are about a tenth lower than Hasler's would be.
    """
    return _colourfulness(quantised(rgb_B3HW, "image"), cf)


def per_image(pred_B3HW: Tensor, truth_B3HW: Tensor, cf: Cf = "hasler") -> dict[str, Tensor]:
    """Everything that an evaluation sums up, each (B,) in float32: psnr, mse, ssim, cf, cf_truth, chroma,
    chroma_truth, ab_error."""
    with without_autocast(pred_B3HW):
        pred_B3HW, truth_B3HW = _pair(pred_B3HW, truth_B3HW)
        ab_B2HW, ab_truth_B2HW = rgb_to_lab(pred_B3HW)[:, 1:], rgb_to_lab(truth_B3HW)[:, 1:]
        return {
            "psnr": _psnr(pred_B3HW, truth_B3HW),
            "mse": (pred_B3HW - truth_B3HW).square().mean((1, 2, 3)),
            "ssim": _ssim(pred_B3HW, truth_B3HW),
            "cf": _colourfulness(pred_B3HW, cf),
            "cf_truth": _colourfulness(truth_B3HW, cf),
            "chroma": _chroma(ab_B2HW),
            "chroma_truth": _chroma(ab_truth_B2HW),
            "ab_error": (ab_B2HW - ab_truth_B2HW).abs().mean((1, 2, 3)),
        }
