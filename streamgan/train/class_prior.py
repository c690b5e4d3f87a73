"""How often the colours of a training set occur: the prior that rebalances a classifier's loss.

Shape suffixes: B batch, H height, W width, h w a quarter of it, Q bins, 2/3 channels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from streamgan.core.ab_bins import nearest_bin
from streamgan.core.color import HEADS, unit_rgb

PRIOR_IMAGES = 4000  # training images that are counted; one of 64 x 64 pixels gives 256 colours


def count_classes(batches: Iterable[Tensor], centres_Q2: Tensor) -> Tensor:
    """Pixels at a quarter of the size of uint8 images (B, 3, H, W) by their nearest bin, int64 (Q,)."""
    counts_Q = torch.zeros(len(centres_Q2), dtype=torch.int64)
    for color_B3HW in batches:
        ab_B2hw = F.avg_pool2d(HEADS["lab"].to_target(unit_rgb(color_B3HW)), 4)
        counts_Q += nearest_bin(ab_B2hw, centres_Q2).flatten().bincount(minlength=len(counts_Q))
    return counts_Q
