"""`vgg16_unet`, `vgg19_unet`: the VGG rows of the paper as U-Nets on torchvision's features.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
https://arxiv.org/abs/1409.1556 (configurations D and E), with BatchNorm as torchvision's `vgg16_bn`.

Shape suffixes: B batch, C the head's channels, H height, W width.

| width 64 | VGG-16 | VGG-19 | output |
|---|---|---|---|
| gray as three channels | | | 3, H, W |
| block 1 (skip) | 2 conv3x3 | 2 | 64, H, W |
| max pool, block 2 (skip) | 2 | 2 | 128, H/2, W/2 |
| max pool, block 3 (skip) | 3 | 4 | 256, H/4, W/4 |
| max pool, block 4 (skip) | 3 | 4 | 512, H/8, W/8 |
| max pool, block 5 | 3 | 4 | 512, H/16, W/16 |
| up, concat block 4, conv3x3, norm, ReLU | | | 256, H/8, W/8 |
| up, concat block 3, conv3x3, norm, ReLU | | | 256, H/4, W/4 |
| up, concat block 2, conv3x3, norm, ReLU | | | 128, H/2, W/2 |
| up, concat block 1, conv3x3, norm, ReLU | | | 64, H, W |
| conv1x1 (and a sigmoid when bounded) | | | C, H, W |

Every conv3x3 of VGG is followed by a norm and a ReLU; "up" is conv1x1, PixelShuffle 2, blur (decoder.py).
"""

from functools import partial

import torch
from torch import Tensor, nn

from streamgan.core.errors import ConfigError
from streamgan.core.pretrained import load_pretrained

from .decoder import UpBlock
from .gray import GrayToImageNet
from .layers import Norm, normalization, zero_init
from .options import at_least, refuse
from .padding import crop_like, reflect_to_multiple

_CONVS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # a block


class VggFeatures(nn.Module):
    """torchvision's `vggNN_bn().features` without the last pooling: (B, 3, H, W) -> five maps, H to H/16.

    The layers stand in one flat list, so that the names of the weights are torchvision's.
    """

    def __init__(self, name: str, *, width: int, norm: Norm):
        super().__init__()
        self.widths = [width * factor for factor in (1, 2, 4, 8, 8)]
        layers: list[nn.Module] = []
        self._ends: list[int] = []
        num_in = 3
        for num_convs, num_out in zip(_CONVS[name], self.widths, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(num_convs):
                conv = nn.Conv2d(num_in, num_out, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                layers += [conv, normalization(norm, num_out), nn.ReLU()]
                num_in = num_out
            self._ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        x, maps = image_B3HW, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._ends:
                maps.append(x)
        return maps


class VggUNet(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first, or 0.5 within [0, 1] if bounded."""

    def __init__(
        self, name: str, out_channels: int, *, width: int, norm: Norm, decoder_norm: Norm, bounded: bool
    ):
        super().__init__()
        self.bounded = bounded
        self.gray = GrayToImageNet()
        self.encoder = VggFeatures(name, width=width, norm=norm)
        *skips, num_in = self.encoder.widths
        self.ups = nn.ModuleList()
        for num_skip, num_out in zip(skips[::-1], (4 * width, 4 * width, 2 * width, width), strict=True):
            self.ups.append(UpBlock(num_in, num_skip, num_out, norm=decoder_norm))
            num_in = num_out
        self.last = zero_init(nn.Conv2d(num_in, out_channels, 1))

    def forward(self, input_B1HW: Tensor) -> Tensor:
        *skips, x = self.encoder(self.gray(reflect_to_multiple(input_B1HW, 16)))
        for up in self.ups:
            x = up(x, skips.pop())
        x = crop_like(self.last(x), input_B1HW)
        return torch.sigmoid(x) if self.bounded else x


def encoder_norm(norm: Norm | None, pretrained: bool | str) -> Norm:
    """The norm of an encoder whose pretrained weights have BatchNorm; ConfigError if another is asked for."""
    if pretrained is not False and norm not in (None, "batch"):
        raise ConfigError(
            "model.norm",
            f"pretrained weights belong to BatchNorm (got {norm!r})",
            "leave model.norm out, or train from scratch",
        )
    return "batch" if norm is None else norm


def _build(
    name: str,
    *,
    out_channels: int,
    size: int = 256,
    width: int | None = None,
    depth: int | None = None,
    norm: Norm | None = None,
    pretrained: bool | str = False,
    bounded: bool = False,
    dropout: float | None = None,
    variant: str | None = None,
) -> VggUNet:
    """A VGG U-Net: `width` (64) channels in the first block, `norm` (batch in the encoder, group after it).

    The name fixes the depth; `size` changes nothing.
    """
    refuse(f"{name}_unet", depth=depth, dropout=dropout, variant=variant)
    model = VggUNet(
        name,
        out_channels,
        width=at_least(1, 64 if width is None else width, "width"),
        norm=encoder_norm(norm, pretrained),
        decoder_norm="group" if norm is None else norm,
        bounded=bounded,
    )
    load_pretrained(model.encoder, f"{name}_bn", pretrained, setting="model.pretrained")
    return model


build_vgg16 = partial(_build, "vgg16")
build_vgg19 = partial(_build, "vgg19")
