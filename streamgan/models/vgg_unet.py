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

from torch import Tensor, nn

from streamgan.core.pretrained import load_pretrained

from .decoder import up_blocks
from .gray import GrayToImageNet
from .layers import Norm, ending, normalization, zero_init
from .options import encoder_norm
from .padding import reflect_to_multiple

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
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first, or 0.5 within [0, 1] if bounded.

    `width` channels in the first block; `norm` None: batch in the encoder, group after it.
    """

    def __init__(
        self,
        name: str,
        *,
        out_channels: int,
        width: int = 64,
        norm: Norm | None = None,
        pretrained: bool | str = False,
        bounded: bool = False,
    ):
        super().__init__()
        self.bounded = bounded
        self.gray = GrayToImageNet()
        self.encoder = VggFeatures(name, width=width, norm=encoder_norm(norm, pretrained))
        *skips, num_in = self.encoder.widths
        self.ups = up_blocks(num_in, skips, [factor * width for factor in (4, 4, 2, 1)], norm=norm or "group")
        self.last = zero_init(nn.Conv2d(width, out_channels, 1))
        load_pretrained(self.encoder, f"{name}_bn", pretrained, setting="model.pretrained")

    def forward(self, input_B1HW: Tensor) -> Tensor:
        *skips, x = self.encoder(self.gray(reflect_to_multiple(input_B1HW, 16)))
        for up in self.ups:
            x = up(x, skips.pop())
        return ending(self.last(x), input_B1HW, bounded=self.bounded)
