"""`paper_cnn`: the generator and the discriminator of the paper that streamgan rebuilds.

The source paper colours images with a residual CNN that is trained as a GAN against a small convolutional
discriminator. Its residual blocks are those of He et al. 2015, https://arxiv.org/abs/1512.03385.

Shape suffixes: B batch, C the head's channels, H height, W width, K the discriminator's input channels.

| generator, width 64 | output |
|---|---|
| input l | 1, H, W |
| conv3x3 s2, norm, ReLU | 64, H/2, W/2 |
| conv3x3 s2, norm, ReLU | 128, H/4, W/4 |
| conv3x3 s2, norm, ReLU | 256, H/8, W/8 |
| 8 x [x + (conv3x3, norm, ReLU, conv3x3, norm)] | 256, H/8, W/8 |
| conv1x1, ReLU (the paper's "fully connected" layer at every position) | 256, H/8, W/8 |
| transposed conv3x3 s2, norm, ReLU | 128, H/4, W/4 |
| transposed conv3x3 s2, norm, ReLU | 64, H/2, W/2 |
| transposed conv3x3 s2, norm, ReLU | 64, H, W |
| conv3x3 (and a sigmoid when bounded) | C, H, W |

| discriminator, width 64 | output |
|---|---|
| conv3x3 s2, LeakyReLU 0.2 | 64, H/2, W/2 |
| conv3x3 s2, norm, LeakyReLU 0.2 | 128, H/4, W/4 |
| conv3x3 s2, norm, LeakyReLU 0.2 | 256, H/8, W/8 |
| conv3x3 s2, norm, LeakyReLU 0.2 | 512, H/16, W/16 |
| mean over all positions, linear | 1 |

The published norm is BatchNorm.
"""

import torch
from torch import Tensor, nn

from .layers import Norm, judging, normalization, zero_init
from .padding import crop_like, reflect_to_multiple


def _down(num_in: int, num_out: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=2, padding=1), normalization(norm, num_out), nn.ReLU()
    )


def _up(num_in: int, num_out: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(num_in, num_out, 3, stride=2, padding=1, output_padding=1),
        normalization(norm, num_out),
        nn.ReLU(),
    )


class ResidualBlock(nn.Module):
    """x + f(x) with f = conv3x3, norm, ReLU, conv3x3, norm; no activation after the sum."""

    def __init__(self, num_channels: int, *, norm: Norm):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, num_channels, 3, padding=1),
            normalization(norm, num_channels),
            nn.ReLU(),
            nn.Conv2d(num_channels, num_channels, 3, padding=1),
            normalization(norm, num_channels),
        )

    def forward(self, input_BCHW: Tensor) -> Tensor:
        return input_BCHW + self.body(input_BCHW)


class PaperGenerator(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first unless bounded.

    `width` channels at half size, `depth` residual blocks. `bounded` is the published form: a sigmoid after
    an ordinarily initialised last layer.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        width: int = 64,
        depth: int = 8,
        norm: Norm = "batch",
        bounded: bool = False,
    ):
        super().__init__()
        half, quarter, eighth = width, 2 * width, 4 * width
        self.encoder = nn.Sequential(
            _down(1, half, norm), _down(half, quarter, norm), _down(quarter, eighth, norm)
        )
        self.residual = nn.Sequential(*(ResidualBlock(eighth, norm=norm) for _ in range(depth)))
        self.connected = nn.Sequential(nn.Conv2d(eighth, eighth, 1), nn.ReLU())
        self.decoder = nn.Sequential(
            _up(eighth, quarter, norm), _up(quarter, half, norm), _up(half, width, norm)
        )
        last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.head = nn.Sequential(last, nn.Sigmoid()) if bounded else zero_init(last)

    def forward(self, input_B1HW: Tensor) -> Tensor:
        code = self.residual(self.encoder(reflect_to_multiple(input_B1HW, 8)))
        return crop_like(self.head(self.decoder(self.connected(code))), input_B1HW)


class PaperDiscriminator(nn.Module):
    """(B, K, H, W) of any size -> one logit per image, (B, 1); `width` channels at half size."""

    def __init__(self, *, in_channels: int = 3, width: int = 64, norm: Norm = "batch"):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for num_in in (width, 2 * width, 4 * width):
            layers += [
                nn.Conv2d(num_in, 2 * num_in, 3, stride=2, padding=1),
                normalization(norm, 2 * num_in),
                nn.LeakyReLU(0.2),
            ]
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(8 * width, 1)

    @judging
    def forward(self, image_BKHW: Tensor) -> Tensor:
        return self.classify(torch.mean(self.features(image_BKHW), dim=(2, 3)))
