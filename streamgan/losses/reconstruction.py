"""Reconstruction losses by name: (prediction, target) in the head's units, (B, C, H, W) -> float32 scalar."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

SMOOTH_BETA = 0.1  # quadratic below: 11 units of ab. At torch's 1, ab_n would hardly leave that part


def _l1(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    return F.l1_loss(predicted_BCHW.float(), target_BCHW.float())


def _mse(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    return F.mse_loss(predicted_BCHW.float(), target_BCHW.float())


def _smooth_l1(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """d^2 / (2 beta) below beta, |d| - beta / 2 above (Huber's function divided by beta)."""
    return F.smooth_l1_loss(predicted_BCHW.float(), target_BCHW.float(), beta=SMOOTH_BETA)


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": _l1,
    "mse": _mse,
    "smooth_l1": _smooth_l1,
}
