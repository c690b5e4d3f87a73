"""`koalarization`: an encoder-decoder that knows what the photo shows, from a global embedding.

Baldassarre, Gonzalez Morin, Rodes-Guirao, "Deep Koalarization: Image Colorization using CNNs and
Inception-ResNet-v2", 2017, https://arxiv.org/abs/1712.03400 (section 2, table 1).

Shape suffixes: B batch, C the head's channels, E the embedding, H height, W width.

| width 64; every conv3x3 with a ReLU | output |
|---|---|
| conv s2 | 64, H/2, W/2 |
| conv, conv s2 | 128, H/4, W/4 |
| conv, conv s2 | 256, H/8, W/8 |
| conv, conv | 512, H/8, W/8 |
| conv | 256, H/8, W/8 |
| concat the embedding (1000) at every position, conv1x1, ReLU | 256, H/8, W/8 |
| conv, nearest x2 | 128, H/4, W/4 |
| conv, conv, nearest x2 | 64, H/2, W/2 |
| conv | 32, H/2, W/2 |
| conv without ReLU, nearest x2 (and a sigmoid when bounded) | C, H, W |

Published: a frozen Inception-ResNet-v2 as embedder, its 1001 class scores before the softmax; convolutions
of stride 2 padded at the right and the bottom alone, as TensorFlow does; Glorot's start; a tanh that gives
ab / 127. Here: a ResNet-18 with 1000 scores, trained jointly, because it is five times smaller; padding on
all sides, as torch does; He's start, and a linear last layer that starts at zero, because that is gray.

`variant="published"` is the authors' network (https://github.com/baldassarreFe/deep-koalarization,
network_definition.py) but for the score of the background class, which timm leaves out;
`variant="inception_resnet_v2"` has its embedder alone (inception_resnet.py).
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamgan.core.color import AB_SCALE
from streamgan.core.pretrained import load_pretrained

from .gray import GrayToImageNet
from .inception_resnet import NAME, InceptionResNetScores
from .layers import Norm, ending, normalization, zero_init
from .options import encoder_norm, is_published, only_lab
from .padding import reflect_to_multiple
from .resnet import ResNetFeatures

_NUM_CLASSES = 1000  # of ImageNet, at width 64


def _glorot(conv: nn.Conv2d) -> None:
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]


def _conv(
    num_in: int, num_out: int, norm: Norm, published: bool, *, stride: int = 1, kernel: int = 3
) -> nn.Sequential:
    one_sided = published and stride == 2
    conv = nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=0 if one_sided else kernel // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if published:
        _glorot(conv)
    pad = [nn.ZeroPad2d((0, 1, 0, 1))] if one_sided else []
    return nn.Sequential(*pad, conv, normalization(norm, num_out), nn.ReLU())


class Embedder(ResNetFeatures):
    """torchvision's ResNet-18 with all its names: (B, 3, H, W) -> class scores (B, E)."""

    def __init__(self, *, width: int, norm: Norm, num_classes: int):
        super().__init__("resnet18", width=width, norm=norm)
        self.num_classes = num_classes
        self.fc = nn.Linear(self.widths[-1], num_classes)

    def scores(self, image_B3HW: Tensor) -> Tensor:
        return self.fc(self(image_B3HW)[-1].mean((2, 3)))


class Koalarization(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first, or 0.5 within [0, 1] if bounded."""

    def __init__(
        self,
        out_channels: int,
        *,
        width: int,
        norm: Norm,
        embedder: nn.Module,
        bounded: bool,
        published: bool = False,
    ):
        super().__init__()
        num_classes = embedder.num_classes
        assert isinstance(num_classes, int)
        conv = partial(_conv, norm=norm, published=published)
        half, w2, w4, w8 = max(1, width // 2), 2 * width, 4 * width, 8 * width
        self.bounded, self.published = bounded, published
        self.gray = GrayToImageNet()
        self.embedder = embedder
        self.encoder = nn.Sequential(
            conv(1, width, stride=2),
            conv(width, w2),
            conv(w2, w2, stride=2),
            conv(w2, w4),
            conv(w4, w4, stride=2),
            conv(w4, w8),
            conv(w8, w8),
            conv(w8, w4),
        )
        self.fusion = conv(w4 + num_classes, w4, kernel=1)
        self.decoder = nn.Sequential(
            conv(w4, w2),
            nn.Upsample(scale_factor=2),
            conv(w2, width),
            conv(width, width),
            nn.Upsample(scale_factor=2),
            conv(width, half),
        )
        self.last = zero_init(nn.Conv2d(half, out_channels, 3, padding=1))
        if published:
            _glorot(self.last)

    def forward(self, input_B1HW: Tensor) -> Tensor:
        padded = reflect_to_multiple(input_B1HW, 32)
        code = self.encoder(padded)
        if isinstance(self.embedder, Embedder):
            scores_BE = self.embedder.scores(self.gray(padded))
        else:
            scores_BE = self.embedder(input_B1HW)
        tiled = scores_BE[:, :, None, None].expand(-1, -1, *code.shape[-2:])
        x = self.last(self.decoder(self.fusion(torch.cat((code, tiled), 1))))
        if self.published:
            x = torch.tanh(x) * (127 / AB_SCALE)
        return ending(F.interpolate(x, scale_factor=2), input_B1HW, bounded=self.bounded)


def build_generator(
    *,
    out_channels: int,
    width: int = 64,
    norm: Norm | None = None,
    pretrained: bool | str = False,
    bounded: bool = False,
    variant: str | None = None,
) -> Koalarization:
    """Deep Koalarization: `width` channels at half size, `norm` None for none, and in the embedder batch.

    `variant` "inception_resnet_v2" is an embedder of its own width and norm in place of ResNet-18;
    "published", the authors' network, has it too. `pretrained` is about the embedder.
    """
    published = is_published("koalarization", variant, NAME)
    if published:
        only_lab("koalarization as published", out_channels, bounded)
    if variant is None:
        num_classes = max(1, _NUM_CLASSES * width // 64)
        embedder = Embedder(width=width, norm=encoder_norm(norm, pretrained), num_classes=num_classes)
        load_pretrained(embedder, "resnet18", pretrained, setting="model.pretrained")
    else:
        embedder = InceptionResNetScores(pretrained=pretrained)
    return Koalarization(
        out_channels,
        width=width,
        norm=norm or "none",
        embedder=embedder,
        bounded=bounded,
        published=published,
    )
