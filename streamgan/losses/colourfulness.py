"""Colourfulness loss: lower for more colour, whatever the truth.

Kang et al., "DDColor", ICCV 2023, https://arxiv.org/abs/2212.11613 (section 3.4), on the colourfulness of
Hasler and Suesstrunk, "Measuring colourfulness in natural images", 2003.

Published: a sum over the photos of a GPU (4) of 1 - CF / 255, with the absolute values of the opponent
colours. Here: the mean of 1 - CF / 100 with their signs, as Hasler and Suesstrunk define CF, so that the
weight does not depend on the batch; theirs of 0.5 is 0.5 * 4 * 100 / 255 = 0.78 here.

Shape suffixes: B batch, H height, W width, 3 channels.
"""

import torch
from torch import Tensor

_TINY = 1e-6  # inside the roots, whose slope at a gray photo would be infinite


def colourfulness_loss(rgb_B3HW: Tensor) -> Tensor:
    """1 - CF / 100, the mean over images of sRGB in [0, 1], a float32 scalar: 1 for gray, less for colour.

    CF = sigma + 0.3 mu in values of [0, 255], of rg = R - G and yb = (R + G) / 2 - B.
    """
    red, green, blue = (255 * rgb_B3HW.float()).flatten(2).unbind(1)
    opponents = torch.stack((red - green, (red + green) / 2 - blue))  # (2, B, pixels)
    sigma_B = (opponents.var(2, correction=0).sum(0) + _TINY).sqrt()
    mu_B = (opponents.mean(2).square().sum(0) + _TINY).sqrt()
    return (1 - (sigma_B + 0.3 * mu_B) / 100).mean()
