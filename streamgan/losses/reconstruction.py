"""Reconstruction losses by name: (prediction, target) in the head's units, (B, C, H, W) -> float32 scalar.

Beside them `log_mse`, to be added to one of them: what a mean of PSNRs rewards.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

LOG_MSE_FLOOR = 0.001  # 3.5 units of ab, squared; left gray, half of all photos have more than 0.013
SMOOTH_BETA = 0.1  # quadratic below: 11 units of ab. At torch's 1, ab_n would hardly leave that part


def log_mse(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """log(MSE + LOG_MSE_FLOOR) of each image, averaged over images: a float32 scalar.

    The mean PSNR over images is a mean of logarithms: a photo with little colour counts as much in it as a
    colourful one, whose errors are many times as large and alone move a mean over all pixels. The floor
    keeps photos that are all but gray from ruling instead.
    """
    mse_B = (predicted_BCHW.float() - target_BCHW.float()).square().mean((1, 2, 3))
    return (mse_B + LOG_MSE_FLOOR).log().mean()


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda predicted, target: F.l1_loss(predicted.float(), target.float()),
    "mse": lambda predicted, target: F.mse_loss(predicted.float(), target.float()),
    # d^2 / (2 beta) below beta, |d| - beta / 2 above: Huber's function divided by beta
    "smooth_l1": lambda predicted, target: F.smooth_l1_loss(
        predicted.float(), target.float(), beta=SMOOTH_BETA
    ),
}
