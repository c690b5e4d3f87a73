"""`ddcolor`: a pixel decoder, and a colour decoder whose learned queries look at three scales of it.

Kang, Yang, Ouyang, Ren, Li, Xie, "DDColor: Towards Photo-Realistic Image Colorization via Dual Decoders",
ICCV 2023, https://arxiv.org/abs/2212.11613 (section 3). Encoder: Liu et al., "A ConvNet for the 2020s", CVPR
2022, https://arxiv.org/abs/2201.03545 (ConvNeXt-T). Queries: query_decoder.py.

Shape suffixes: B batch, C the head's channels, D = 256 channels, H height, W width, Q = 100 queries.

| ConvNeXt-T, width 96 | output |
|---|---|
| gray as three channels | 3, H, W |
| conv4x4 s4, 3 blocks (skip) | 96, H/4, W/4 |
| conv2x2 s2, 3 blocks (skip) | 192, H/8, W/8 |
| conv2x2 s2, 9 blocks (skip) | 384, H/16, W/16 |
| conv2x2 s2, 3 blocks | 768, H/32, W/32 |
| up, concat, conv3x3, norm, ReLU (scale 1) | 512, H/16, W/16 |
| up, concat, conv3x3, norm, ReLU (scale 2) | 512, H/8, W/8 |
| up, concat, conv3x3, norm, ReLU (scale 3) | 256, H/4, W/4 |
| conv1x1, ReLU, PixelShuffle 4 | 256, H, W |
| 9 layers of queries over scales 1, 2, 3, 1, 2, 3, 1, 2, 3 | 100 x 256 |
| product of pixels and queries | 100, H, W |
| concat the input, conv1x1 (and a sigmoid when bounded) | C, H, W |

A LayerNorm stands on each of the four feature maps, as in networks that use ConvNeXt for dense prediction.

`variant="published"` is the authors' network (https://github.com/piddnad/DDColor), their tiny one at width 96
and their large one at 192, both with 9 layers of queries. Published: a pixel decoder with spectral norm, and
batch norm before each shuffle, on the skips and after each convolution; blur after the last shuffle; the gray
value of sRGB, normalised, in three channels, for the encoder and beside the maps at the end; a last
convolution that starts at random and has spectral norm; positions as query_decoder.py says. Here: the pixel
decoder of the other U-Nets with group norm, so that a photo is coloured alike in any batch; L / 100; a last
layer that starts at zero. Published: ConvNeXt of ImageNet-22k. Here, in either form: torchvision's, of
ImageNet-1k, because it has no other; and no norm after the encoder's global mean, which nothing used.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.models.convnext import CNBlockConfig, ConvNeXt, LayerNorm2d

from streamgan.core.color import AB_SCALE
from streamgan.core.errors import ConfigError
from streamgan.core.pretrained import load_pretrained

from .decoder import ShuffleUp, SpectralShuffleUp, SpectralUpBlock, UpBlock, blur, up_blocks
from .gray import GrayToImageNet
from .layers import Norm, ending, zero_init
from .options import is_published, only_lab
from .padding import reflect_to_multiple
from .query_decoder import QueryDecoder

_BLOCKS = (3, 3, 9, 3)  # ConvNeXt-T
_LARGE = 192  # width of ConvNeXt-L, with 27 blocks for 9
_NUM_QUERIES = 100


class ConvNeXtFeatures(nn.Module):
    """torchvision's ConvNeXt features, a map after every stage: (B, 3, H, W) -> H/4, H/8, H/16, H/32.

    Stochastic depth is off. Below width 96 the stages have 1, 1, 3, 1 blocks instead of 3, 3, 9, 3; `large`:
    3, 3, 27, 3.
    """

    def __init__(self, *, width: int, large: bool = False):
        super().__init__()
        self.widths = [width * 2**level for level in range(4)]
        blocks = (3, 3, 27, 3) if large else _BLOCKS if width >= 96 else (1, 1, 3, 1)
        settings = [
            CNBlockConfig(num_in, num_out, count)
            for num_in, num_out, count in zip(self.widths, [*self.widths[1:], None], blocks, strict=True)
        ]
        self.features = ConvNeXt(settings, num_classes=1).features
        self.norms = nn.ModuleList(LayerNorm2d(channels, eps=1e-6) for channels in self.widths)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        x, maps = image_B3HW, []
        for index, layer in enumerate(self.features):  # stem, stage, downsampling, stage, ...
            x = layer(x)
            if index % 2:
                maps.append(self.norms[index // 2](x))
        return maps


class DDColor(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first, or 0.5 within [0, 1] if bounded.

    `width` channels of the first stage, below 96 with 5 blocks instead of 18; `depth` layers of queries;
    `norm` of the pixel decoder, by default "group". `variant="published"` is the authors' network: it starts
    at random, predicts Lab ab, in Lab units inside, and its norm is "batch".
    """

    def __init__(
        self,
        *,
        out_channels: int,
        width: int = 96,
        depth: int = 9,
        norm: Norm | None = None,
        pretrained: bool | str = False,
        bounded: bool = False,
        variant: str | None = None,
    ):
        super().__init__()
        published = is_published("ddcolor", variant)
        if published:
            only_lab("ddcolor as published", out_channels, bounded)
        norm = norm or ("batch" if published else "group")
        # Published at width 96: 512, 512, 256; heads of 32 channels.
        model_dim = max(32, 256 * width // 96 // 32 * 32)
        if published:
            model_dim = min(256, model_dim)
        widths = (2 * model_dim, 2 * model_dim, model_dim)
        self.bounded, self.published = bounded, published
        self.gray = GrayToImageNet(exact=published)
        self.encoder = ConvNeXtFeatures(width=width, large=published and width >= _LARGE)
        *skips, num_in = self.encoder.widths
        block = SpectralUpBlock if published else UpBlock
        self.ups = up_blocks(num_in, skips, widths, norm=norm, block=block)
        if published:
            # Its blur comes after the queries, when two or three channels are left.
            self.full = SpectralShuffleUp(model_dim, model_dim, norm="none", factor=4, blurred=False)
        else:
            self.full = ShuffleUp(model_dim, model_dim, factor=4)
        self.queries = QueryDecoder(
            widths,
            model_dim=model_dim,
            num_queries=_NUM_QUERIES,
            num_layers=depth,
            published=published,
        )
        self.last = zero_init(nn.Conv2d(_NUM_QUERIES + (3 if published else 1), out_channels, 1))
        if published:
            nn.init.kaiming_normal_(self.last.weight)
            spectral_norm(self.last)
        if pretrained is not False:
            self._load(pretrained, width)

    def _load(self, pretrained: bool | str, width: int) -> None:
        names = {96: "convnext_tiny"} | ({_LARGE: "convnext_large"} if self.published else {})
        if width not in names:
            what = f"pretrained weights are for width {' or '.join(map(str, names))} (got {width})"
            raise ConfigError("model.width", what, "leave model.width out")
        features = self.encoder.features
        load_pretrained(features, names[width], pretrained, setting="model.pretrained", prefix="features.")

    def forward(self, input_B1HW: Tensor) -> Tensor:
        padded = reflect_to_multiple(input_B1HW, 32)
        gray = self.gray(padded)
        *skips, x = self.encoder(gray)
        scales = []
        for up in self.ups:
            x = up(x, skips.pop())
            scales.append(x)
        # `last` of the maps of all queries and the gray, without making the maps: they are 100 per pixel.
        weight_CQ11, weight_CG11 = self.last.weight.tensor_split([_NUM_QUERIES], 1)
        colors_BCD = weight_CQ11.flatten(1) @ self.queries(scales)
        x = torch.einsum("bcd,bdhw->bchw", colors_BCD, self.full(x))
        x = blur(x) if self.published else x
        x = x + F.conv2d(gray if self.published else padded, weight_CG11, self.last.bias)
        return ending(x / AB_SCALE if self.published else x, input_B1HW, bounded=self.bounded)
