"""How often the colours of a training set occur: the prior that rebalances a classifier's loss.

Shape suffixes: B batch, H height, W width, h w a quarter of it, Q bins, 2/3 channels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from streamgan.core.ab_bins import nearest_bin
from streamgan.core.color import HEADS, unit_rgb
from streamgan.core.logs import say
from streamgan.data.loader import Loader
from streamgan.losses import class_weights
from streamgan.models.zhang import ZhangClassifier

PRIOR_IMAGES = 4000  # training images that are counted; one of 64 x 64 pixels gives 256 colours


def count_classes(batches: Iterable[Tensor], centres_Q2: Tensor) -> Tensor:
    """Pixels at a quarter of the size of uint8 images (B, 3, H, W) by their nearest bin, int64 (Q,)."""
    counts_Q = torch.zeros(len(centres_Q2), dtype=torch.int64)
    for color_B3HW in batches:
        ab_B2hw = F.avg_pool2d(HEADS["lab"].to_target(unit_rgb(color_B3HW)), 4)
        counts_Q += nearest_bin(ab_B2hw, centres_Q2).flatten().bincount(minlength=len(counts_Q))
    return counts_Q


def rebalance(generator: ZhangClassifier, loader: Loader, *, uniform_share: float) -> None:
    """Give a classifier the class weights that fit the images of a loader."""
    images = (batch.color_B3HW[batch.ids_B >= 0] for batch in loader)
    centres_Q2 = generator.centres_Q2.cpu()
    counts_Q = count_classes(images, centres_Q2)
    weights_Q = class_weights(counts_Q, centres_Q2, uniform_share=uniform_share)
    generator.set_class_weights(weights_Q)
    say(
        f"class weights {weights_Q.min():.3g} to {weights_Q.max():.3g} from {loader.num_samples} images; "
        f"{int((counts_Q == 0).sum())} of {len(counts_Q)} colours never occur"
    )
