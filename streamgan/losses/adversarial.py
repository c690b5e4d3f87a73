"""Adversarial losses by name, each three functions of logits of any shape (one per image, or one per patch).

The discriminator minimises d_real(D(real)) + d_fake(D(fake)), the generator g(D(fake)). No factor 1/2 is
hidden in the sum; pix2pix halves it, which is a smaller learning rate under SGD and nothing under Adam.

`bce`: Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, with the non-saturating generator. `lsgan`:
Mao et al. 2017, https://arxiv.org/abs/1611.04076, labels 0, 1, 1. `hinge`: Lim and Ye 2017,
https://arxiv.org/abs/1705.02894; Miyato et al. 2018, https://arxiv.org/abs/1802.05957. `wgan`: Arjovsky et
al. 2017, https://arxiv.org/abs/1701.07875, the critic kept smooth by `penalties.gradient_penalty`.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class AdversarialLoss(NamedTuple):
    """Functions from logits to a float32 scalar, the mean over all of them."""

    d_real: Callable[[Tensor], Tensor]
    d_fake: Callable[[Tensor], Tensor]
    g: Callable[[Tensor], Tensor]


ADVERSARIAL: dict[str, AdversarialLoss] = {
    "bce": AdversarialLoss(  # -log sigmoid(x) and -log(1 - sigmoid(x)), finite for every finite x
        d_real=lambda logits: F.softplus(-logits.float()).mean(),
        d_fake=lambda logits: F.softplus(logits.float()).mean(),
        g=lambda logits: F.softplus(-logits.float()).mean(),
    ),
    "hinge": AdversarialLoss(
        d_real=lambda logits: F.relu(1 - logits.float()).mean(),
        d_fake=lambda logits: F.relu(1 + logits.float()).mean(),
        g=lambda logits: -logits.float().mean(),
    ),
    "lsgan": AdversarialLoss(
        d_real=lambda logits: (logits.float() - 1).square().mean(),
        d_fake=lambda logits: logits.float().square().mean(),
        g=lambda logits: (logits.float() - 1).square().mean(),
    ),
    "wgan": AdversarialLoss(
        d_real=lambda logits: -logits.float().mean(),
        d_fake=lambda logits: logits.float().mean(),
        g=lambda logits: -logits.float().mean(),
    ),
}
