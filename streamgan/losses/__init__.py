"""Losses: plain functions of tensors that compute in float32 and give the mean over everything.

A mean over everything makes the average over micro-batches of equal size, or over ranks, equal to the loss
of the full batch.
"""

from streamgan.losses.adversarial import ADVERSARIAL, AdversarialLoss
from streamgan.losses.penalties import r1_penalty
from streamgan.losses.reconstruction import RECONSTRUCTION

__all__ = ["ADVERSARIAL", "RECONSTRUCTION", "AdversarialLoss", "r1_penalty"]
