"""A gray input for encoders made for colour photos: three equal channels, normalised as on ImageNet.

Shape suffixes: B batch, H height, W width, 1/3 channels.
"""

import torch
from torch import Tensor, nn

from streamgan.core.color import gray_value
from streamgan.core.pretrained import IMAGENET_MEAN, IMAGENET_STD


class GrayToImageNet(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, 3, H, W): the gray photo as torchvision's ImageNet models expect it.

    Of l = L / 50 - 1 it makes L / 100 in [0, 1], which differs from the gray value of sRGB by 0.05 at most;
    if `exact`, that value.
    """

    mean_3: Tensor
    std_3: Tensor

    def __init__(self, *, exact: bool = False) -> None:
        super().__init__()
        self.exact = exact
        self.register_buffer("mean_3", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std_3", torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, input_B1HW: Tensor) -> Tensor:
        gray_B1HW = gray_value(input_B1HW) if self.exact else (input_B1HW + 1) / 2
        return (gray_B1HW - self.mean_3.view(1, 3, 1, 1)) / self.std_3.view(1, 3, 1, 1)
