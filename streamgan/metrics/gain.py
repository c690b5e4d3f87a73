"""How much better than the photo left gray, and how sure that is.

Shape suffixes: B batch, H height, W width, 1/2/3 channels.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from streamgan.core.color import HEADS

from .baselines import gray_passthrough
from .functional import psnr

_NORMAL_95 = 1.96  # standard errors


class GainOverGray(Metric):
    """The mean of each image's PSNR above that of the same image left gray, over valid images and ranks.

    `compute` gives psnr_gain (dB) and psnr_gain_95: half the width of the 95% interval of that mean, from the
    spread over the images (normal approximation), which is what another draw of images would change. NaN of
    a single image, and without any.
    """

    is_differentiable = False
    full_state_update = False
    sums_2: Tensor
    num_images: Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("sums_2", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")  # gain, squared
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred_B3HW: Tensor, lightness_B1HW: Tensor, truth_B3HW: Tensor, valid_B: Tensor) -> None:
        """Add the images that `valid_B` (bool) marks. Images are sRGB, lightness is the lab head's input."""
        gray_B3HW = HEADS["lab"].decode(lightness_B1HW, gray_passthrough(lightness_B1HW))
        gain_B = (psnr(pred_B3HW, truth_B3HW) - psnr(gray_B3HW, truth_B3HW)).double()[valid_B]
        self.sums_2 += torch.stack((gain_B.sum(), gain_B.square().sum()))
        self.num_images += len(gain_B)

    def compute(self) -> dict[str, float]:
        count = int(self.num_images)
        gain, square = (self.sums_2 / count).tolist()
        error = math.sqrt(max(0.0, square - gain**2) / (count - 1)) if count > 1 else math.nan
        return {"psnr_gain": gain, "psnr_gain_95": _NORMAL_95 * error}
