"""The numbers of one evaluation, summed over batches and ranks.

Shape suffixes: B batch, H height, W width, 3 channels.
Every rank sums its own images in float64 and the sums are added, so the result does not depend on how the
images were split. The last batch of a rank is padded to the common size; `valid` says which of its images
count.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from streamgan.core.errors import DataError

from .functional import PSNR_CAP_DB, Cf, per_image

_SUMMED = ("psnr", "mse", "ssim", "cf", "cf_truth", "chroma", "chroma_truth", "ab_error")


class ColorizationMetrics(Metric):
    """Mean quality over all valid images; `protocol(cf)` says exactly how.

    `compute` gives floats: psnr, psnr_pooled (dB), ssim, cf, cf_truth, dcf, chroma_ratio (NaN if the truth
    is gray), ab_error (Lab units), num_images. DataError if no image was counted on any rank.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    num_images: Tensor

    def __init__(self, cf: Cf = "hasler", **kwargs: Any):
        super().__init__(**kwargs)
        self._cf: Cf = cf
        self.add_state("sums", torch.zeros(len(_SUMMED), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred_B3HW: Tensor, truth_B3HW: Tensor, valid_B: Tensor | None = None) -> None:
        """Add the images that `valid_B` (bool; None: all) marks. sRGB: uint8, or float in [0, 1], checked."""
        if valid_B is not None:
            if valid_B.dtype != torch.bool or valid_B.shape != pred_B3HW.shape[:1]:
                raise DataError(
                    "metrics",
                    f"the mask is not one bool an image (got {valid_B.dtype}, {tuple(valid_B.shape)})",
                    f"pass bool of shape ({len(pred_B3HW)},)",
                )
            pred_B3HW, truth_B3HW = pred_B3HW[valid_B], truth_B3HW[valid_B]
        if len(pred_B3HW) == 0:
            return
        values = per_image(pred_B3HW, truth_B3HW, self._cf)
        self.sums += torch.stack([values[name].double().sum() for name in _SUMMED])
        self.num_images += len(pred_B3HW)

    def compute(self) -> dict[str, float]:
        """The means over everything seen since `reset`, on every rank the same."""
        count = int(self.num_images)
        if count == 0:
            raise DataError("metrics", "no image was evaluated", "give the validation set at least one image")
        mean = dict(zip(_SUMMED, (self.sums / count).tolist(), strict=True))
        has_color = mean["chroma_truth"] > 1e-3  # rounding leaves a gray image about 1e-5
        return {
            "psnr": mean["psnr"],
            "psnr_pooled": min(PSNR_CAP_DB, -10 * math.log10(max(mean["mse"], 1e-30))),
            "ssim": mean["ssim"],
            "cf": mean["cf"],
            "cf_truth": mean["cf_truth"],
            "dcf": abs(mean["cf"] - mean["cf_truth"]),
            "chroma_ratio": mean["chroma"] / mean["chroma_truth"] if has_color else math.nan,
            "ab_error": mean["ab_error"],
            "num_images": float(count),
        }
