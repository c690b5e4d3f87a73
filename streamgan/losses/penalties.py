"""Penalties on the discriminator's gradient.

Shape suffixes: B batch, K channels, H height, W width.
R1: Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?", ICML 2018,
https://arxiv.org/abs/1801.04406.
"""

import torch
from torch import Tensor

from streamgan.core.color import without_autocast


def r1_penalty(logits: Tensor, real_BKHW: Tensor) -> Tensor:
    """0.5 E ||grad D(real)||^2 over the images, a differentiable float32 scalar; multiply it by gamma.

    `logits` come from a forward of the (wrapped) discriminator on `real`, a leaf with requires_grad. Where
    an image has N > 1 logits, D is their sum and the squared norm is divided by N: the expected penalty of
    one patch, as far as patches pull in independent directions, so one gamma serves every image size. N = 1
    is the published penalty. `+ 0 * logits` keeps the last bias, which no gradient depends on, in the graph:
    DDP waits for every parameter.
    """
    with without_autocast(real_BKHW):
        total = logits.float().sum()
        (gradient_BKHW,) = torch.autograd.grad(total, real_BKHW, create_graph=True)
        squared_B = gradient_BKHW.float().square().sum((1, 2, 3))
        num_per_image = logits.numel() // logits.shape[0]
        return 0.5 * squared_B.mean() / num_per_image + 0 * total
