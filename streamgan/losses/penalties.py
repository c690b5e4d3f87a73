"""Penalties on the discriminator's gradient.

Shape suffixes: B batch, K channels, H height, W width.
R1: Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?", ICML 2018,
https://arxiv.org/abs/1801.04406. WGAN-GP: Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS
2017, https://arxiv.org/abs/1704.00028.
"""

import torch
from torch import Tensor

from streamgan.core.color import without_autocast

_TINY = 1e-12  # inside the root, whose slope at a gradient of zero would be infinite


def r1_penalty(logits: Tensor, real_BKHW: Tensor) -> Tensor:
    """0.5 E ||grad D(real)||^2 over the images, a differentiable float32 scalar; multiply it by gamma.

    `logits` come from a forward of the (wrapped) discriminator on `real`, a leaf with requires_grad. Where
    an image has N > 1 logits, D is their sum and the squared norm is divided by N: the expected penalty of
    one patch, as far as patches pull in independent directions, so one gamma serves every image size. N = 1
    is the published penalty. `+ 0 * logits` keeps the last bias, which no gradient depends on, in the graph:
    DDP waits for every parameter.
    """
    with without_autocast(real_BKHW):
        squared_B = _squared_gradient(logits, real_BKHW)
        return 0.5 * squared_B.mean() + 0 * logits.float().sum()


def mix(real_BKHW: Tensor, fake_BKHW: Tensor, share_B: Tensor) -> Tensor:
    """A point between each image and its fake, `share_B` of it real, as a leaf with requires_grad.

    The paper draws the shares from [0, 1) for every image.
    """
    share_B111 = share_B.view(-1, 1, 1, 1)
    return torch.lerp(fake_BKHW.float(), real_BKHW.float(), share_B111).detach().requires_grad_()


def gradient_penalty(logits: Tensor, mixed_BKHW: Tensor) -> Tensor:
    """E (||grad D(mixed)|| - 1)^2 over the images, a differentiable float32 scalar; multiply it by lambda.

    `logits` come from a forward of the (wrapped) discriminator on `mix(real, fake)`. Where an image has N > 1
    logits, the norm is that of their sum divided by the root of N, as in `r1_penalty`; N = 1 is as published.
    """
    with without_autocast(mixed_BKHW):
        norm_B = (_squared_gradient(logits, mixed_BKHW) + _TINY).sqrt()
        return (norm_B - 1).square().mean() + 0 * logits.float().sum()


def _squared_gradient(logits: Tensor, image_BKHW: Tensor) -> Tensor:
    """||grad sum D||^2 / N for each image, float32 (B,), differentiable again."""
    (gradient_BKHW,) = torch.autograd.grad(logits.float().sum(), image_BKHW, create_graph=True)
    num_per_image = logits.numel() // logits.shape[0]
    return gradient_BKHW.float().square().sum((1, 2, 3)) / num_per_image
