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


def _log_loss_true(logits: Tensor) -> Tensor:
    """-log sigmoid(x), finite for every finite x."""
    return F.softplus(-logits.float()).mean()


def _log_loss_false(logits: Tensor) -> Tensor:
    """-log(1 - sigmoid(x))."""
    return F.softplus(logits.float()).mean()


def _square_true(logits: Tensor) -> Tensor:
    return (logits.float() - 1).square().mean()


def _square_false(logits: Tensor) -> Tensor:
    return logits.float().square().mean()


def _hinge_true(logits: Tensor) -> Tensor:
    return F.relu(1 - logits.float()).mean()


def _hinge_false(logits: Tensor) -> Tensor:
    return F.relu(1 + logits.float()).mean()


def _raise_logits(logits: Tensor) -> Tensor:
    return -logits.float().mean()


def _lower_logits(logits: Tensor) -> Tensor:
    return logits.float().mean()


ADVERSARIAL: dict[str, AdversarialLoss] = {
    "bce": AdversarialLoss(_log_loss_true, _log_loss_false, _log_loss_true),
    "hinge": AdversarialLoss(_hinge_true, _hinge_false, _raise_logits),
    "lsgan": AdversarialLoss(_square_true, _square_false, _square_true),
    "wgan": AdversarialLoss(_raise_logits, _lower_logits, _raise_logits),
}
