"""Losses: plain functions of tensors that compute in float32 and give the mean over everything.

A mean over everything makes the average over micro-batches of equal size, or over ranks, equal to the loss
of the full batch.
"""

from streamgan.losses.adversarial import ADVERSARIAL, AdversarialLoss
from streamgan.losses.classes import class_weights, rebalanced_cross_entropy
from streamgan.losses.colourfulness import colourfulness_loss
from streamgan.losses.penalties import gradient_penalty, mix, r1_penalty
from streamgan.losses.reconstruction import RECONSTRUCTION, log_mse
from streamgan.losses.vgg_loss import PerceptualLoss

__all__ = [
    "ADVERSARIAL",
    "RECONSTRUCTION",
    "AdversarialLoss",
    "PerceptualLoss",
    "class_weights",
    "colourfulness_loss",
    "gradient_penalty",
    "log_mse",
    "mix",
    "r1_penalty",
    "rebalanced_cross_entropy",
]
