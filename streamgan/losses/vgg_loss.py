"""Perceptual loss: distances between VGG features of two photos.

Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016,
https://arxiv.org/abs/1603.08155; layers and weights as Wang et al., "High-Resolution Image Synthesis and
Semantic Manipulation with Conditional GANs", CVPR 2018, https://arxiv.org/abs/1711.11585: L1 after the first
ReLU of each of the five blocks, times 1/32, 1/16, 1/8, 1/4, 1. `vgg16_bn` is DDColor's
(https://github.com/piddnad/DDColor): L1 of the first convolution of each block, before norm and ReLU, times
1/16, 1/8, 1/4, 1/2, 1.

Shape suffixes: B batch, C channels, H height, W width, 1/3 channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from streamgan.core.pretrained import IMAGENET_MEAN, IMAGENET_STD, load_pretrained

_CONFIGURATIONS = {"vgg16": "D", "vgg19": "E", "vgg16_bn": "D"}
BLOCK_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_DDCOLOR_WEIGHTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


class PerceptualLoss(nn.Module):
    """Frozen ImageNet VGG-16 or VGG-19: two photos (B, 3, H, W) in [0, 1] -> a scalar.

    `weights`: True downloads torchvision's, a path is a file of them. The network goes where the first photos
    are. Sides of at least 16 pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: Literal["vgg16", "vgg19", "vgg16_bn"], *, weights: Literal[True] | str = True):
        super().__init__()
        of_ddcolor = name == "vgg16_bn"
        layers = make_layers(cfgs[_CONFIGURATIONS[name]], batch_norm=of_ddcolor)
        pools = [index for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        depth = 0 if of_ddcolor else 1  # the convolution, or the ReLU after it
        self._taps = [start + depth for start in (0, *(index + 1 for index in pools[:-1]))]
        self._weights = _DDCOLOR_WEIGHTS if of_ddcolor else BLOCK_WEIGHTS
        self.features = layers[: self._taps[-1] + 1]
        load_pretrained(self.features, name, weights, setting="loss.perceptual_file", prefix="features.")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # its input is a tap's neighbour in the graph
        self.eval().requires_grad_(False)

    def forward(self, made_B3HW: Tensor, real_B3HW: Tensor) -> Tensor:
        """Differentiable with respect to `made` alone."""
        if self.mean.device != made_B3HW.device:
            self.to(made_B3HW.device)
        with torch.no_grad():
            wanted = self._maps(real_B3HW)
        total = made_B3HW.new_zeros((), dtype=torch.float32)
        for weight, mine, theirs in zip(self._weights, self._maps(made_B3HW), wanted, strict=True):
            total = total + weight * F.l1_loss(mine.float(), theirs.float())
        return total

    def _maps(self, rgb_B3HW: Tensor) -> list[Tensor]:
        x, maps = (rgb_B3HW - self.mean) / self.std, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._taps:
                maps.append(x)
        return maps
