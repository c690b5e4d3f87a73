"""The saturation sweep: how right the colour is, apart from how much of it there is.

Shape suffixes: B batch, H height, W width, S saturations, 1/2/3 channels.
PSNR alone rewards caution, since gray is hard to beat; colourfulness alone rewards any colour. So the
predicted ab is scaled by s from 0 (gray) to 3, and PSNR is read where the mean colourfulness is half of the
truth's: there every model shows the same amount of colour, and only the right colour beats gray.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from streamgan.core.color import HEADS
from streamgan.core.errors import DataError

from .functional import Cf, colourfulness, psnr

SATURATIONS = tuple(step / 4 for step in range(13))  # 0, 0.25 .. 3


def psnr_at_colourfulness(psnr_S: list[float], cf_S: list[float], target: float) -> tuple[float, float]:
    """(PSNR, s) where the curve first reaches the target, linear in between; NaN if it never does."""
    for low in range(len(cf_S) - 1):
        if cf_S[low] < target <= cf_S[low + 1]:
            part = (target - cf_S[low]) / (cf_S[low + 1] - cf_S[low])
            between = psnr_S[low] + part * (psnr_S[low + 1] - psnr_S[low])
            return between, SATURATIONS[low] + part * (SATURATIONS[low + 1] - SATURATIONS[low])
    return math.nan, math.nan


class SaturationSweep(Metric):
    """Mean PSNR and colourfulness at every saturation, over valid images and ranks; 13 decodes per batch."""

    is_differentiable = False
    full_state_update = False
    psnr_S: Tensor
    cf_S: Tensor
    cf_truth: Tensor
    num_images: Tensor

    def __init__(self, cf: Cf = "hasler", **kwargs: Any):
        super().__init__(**kwargs)
        self._cf: Cf = cf
        for name in ("psnr_S", "cf_S"):
            self.add_state(name, torch.zeros(len(SATURATIONS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("cf_truth", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, l_B1HW: Tensor, ab_B2HW: Tensor, truth_B3HW: Tensor, valid_B: Tensor | None = None
    ) -> None:
        """Add the images that `valid_B` (bool; None: all) marks.

        `l` and `ab` are input and prediction of the `lab` head; for another head encode its decoded image by
        `lab`. The truth is sRGB: uint8, or float in [0, 1].
        """
        if valid_B is not None:
            l_B1HW, ab_B2HW, truth_B3HW = l_B1HW[valid_B], ab_B2HW[valid_B], truth_B3HW[valid_B]
        if len(truth_B3HW) == 0:
            return
        for index, saturation in enumerate(SATURATIONS):
            pred_B3HW = HEADS["lab"].decode(l_B1HW, saturation * ab_B2HW.float())
            self.psnr_S[index] += psnr(pred_B3HW, truth_B3HW).double().sum()
            self.cf_S[index] += colourfulness(pred_B3HW, self._cf).double().sum()
        self.cf_truth += colourfulness(truth_B3HW, self._cf).double().sum()
        self.num_images += len(truth_B3HW)

    def compute(self) -> dict[str, Any]:
        """psnr_at_cf50 (dB), saturation_at_cf50 (the s), psnr_gray (at s = 0), and the curves as `sweep`.

        The first two are NaN if even s = 3 has less than half of the truth's colourfulness, or truth is gray.
        `sweep` has the lists `saturation`, `psnr` and `cf`.
        """
        count = int(self.num_images)
        if count == 0:
            raise DataError("metrics", "no image was evaluated", "give the validation set at least one image")
        psnr_S, cf_S = (self.psnr_S / count).tolist(), (self.cf_S / count).tolist()
        at_cf50, saturation = psnr_at_colourfulness(psnr_S, cf_S, float(self.cf_truth) / count / 2)
        return {
            "psnr_at_cf50": at_cf50,
            "saturation_at_cf50": saturation,
            "psnr_gray": psnr_S[0],
            "sweep": {"saturation": list(SATURATIONS), "psnr": psnr_S, "cf": cf_S},
        }
