"""The PSNR of the source paper with its range bug, to explain a published number; never to judge a model.

The paper's generator ends in a sigmoid, its photos were normalised to [-1, 1], and the one was compared with
the other. Whoever predicts every photo without an error then scores about 4 dB, and a black image 5 dB.
Beside the right PSNR this one shows how 5.07 dB came about.

Shape suffixes: B batch, H height, W width, 3 channels.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from streamgan.core.errors import DataError

from .functional import quantised


class LegacyPsnr(Metric):
    """10 log10(1 / mean (p - (2 t - 1))^2) with prediction p and truth t, both sRGB in [0, 1].

    The mean is over all pixels of all images at once, as torchmetrics pools, and 1 is its data range. p is
    what the generator of an rgb head gives, without the luminance of the input and not rounded, because so
    did the paper; other heads give their decoded photo.
    """

    is_differentiable = False
    full_state_update = False
    squares: Tensor
    num_values: Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_values", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred_B3HW: Tensor, truth_B3HW: Tensor, valid_B: Tensor | None = None) -> None:
        """Add the images that `valid_B` (bool; None: all) marks. The truth is uint8, or float in [0, 1]."""
        if valid_B is not None:
            pred_B3HW, truth_B3HW = pred_B3HW[valid_B], truth_B3HW[valid_B]
        shifted_B3HW = quantised(truth_B3HW, "truth") * 2 - 1
        self.squares += (pred_B3HW.float() - shifted_B3HW).square().sum(dtype=torch.float64)
        self.num_values += shifted_B3HW.numel()

    def compute(self) -> float:
        """In dB, over everything seen since `reset`."""
        if not self.num_values:
            raise DataError("metrics", "no image was evaluated", "give the validation set at least one image")
        return -10 * math.log10(max(float(self.squares / self.num_values), 1e-30))
