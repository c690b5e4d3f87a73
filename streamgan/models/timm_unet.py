"""`timm_unet`: a U-Net on any backbone of timm that gives a pyramid of maps, by default EfficientNet-Lite0.

EfficientNet: Tan and Le, ICML 2019, https://arxiv.org/abs/1905.11946; Lite, without squeeze-and-excitation
and with ReLU6: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. The backbones
are timm's; weights of Lite0 and Lite2 come as packages (extra `pretrained`). decoder.py names the papers of
the decoder's parts. No paper has this combination.

Shape suffixes: B batch, C the head's channels, H height, W width, E = H times the enlargement.

| EfficientNet-Lite0, width 32, photos of 64 pixels | output |
|---|---|
| gray, enlarged by 2, as three channels normalised as the backbone expects | 3, 2H |
| backbone: its maps of strides 8, 16 and 32 | 40, H/4; 112, H/8; 320, H/16 |
| stem on the gray itself: conv3x3 with stride 2, norm, ReLU | 32, H/2 |
| up, concat backbone, conv3x3, norm, ReLU, dropout | 128, H/8 |
| up, concat backbone, conv3x3, norm, ReLU | 64, H/4 |
| up, concat stem, conv3x3, norm, ReLU | 32, H/2 |
| conv1x1 (and a sigmoid when bounded), bilinear up | C, H |

Backbones are trained on photos of 224 pixels and more and see little in small ones, so those are enlarged
to `LEAST_SIDE`, and the decoder ends at the size that came in. What is in a photo comes from the maps of
stride 8 and more; where its edges are, from the stem. Chroma is predicted at half of the photo's size, at
which JPEG mostly keeps it too.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamgan.core.errors import ConfigError, in_one_line
from streamgan.core.pretrained import load_backbone

from .decoder import up_blocks
from .layers import Norm, normalization, zero_init
from .padding import crop_like, reflect_to_multiple

DEFAULT = "tf_efficientnet_lite0"
LEAST_SIDE = 128
FINEST = 8  # least stride of the backbone's maps that are used
_FACTORS = {1: 1, 2: 1, 4: 2, 8: 4, 16: 8}  # of the decoder's width at a scale of the photo


class _EvenConv2d(nn.Conv2d):
    """TensorFlow's SAME padding where sides are multiples of the stride: then it is the same for all sizes.

    timm computes it from the size, in terms that no exporter of a graph for any size gets to the end of.
    """

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for kernel, stride in zip(reversed(self.kernel_size), reversed(self.stride), strict=True):
            total = max(0, kernel - stride)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(input, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


class _PointConv2d(nn.Conv2d):
    """1 x 1 pixels with a stride, on the pixels that it meets.

    Of fewer than 8 channels in channels-last order, oneDNN's gradient writes beyond its memory (torch 2.14).
    """

    def forward(self, input: Tensor) -> Tensor:
        down, across = self.stride
        return F.conv2d(input[..., ::down, ::across], self.weight, self.bias, groups=self.groups)


class TimmFeatures(nn.Module):
    """Maps of a backbone: l (B, 1, H, W) in [-1, 1] -> (B, widths[i], H / strides[i], W / strides[i])."""

    def __init__(self, name: str):
        super().__init__()
        import timm  # slow to import

        try:
            self.network = timm.create_model(name, pretrained=False, features_only=True)
            self.network.to(memory_format=torch.channels_last)  # depthwise on CPUs: half the time
        except (RuntimeError, AttributeError, TypeError, ValueError, OSError) as error:
            what = f"timm has no such backbone, with feature maps (got {name!r})"
            todo = f"choose one of timm.list_models(), such as {DEFAULT}"
            raise ConfigError("model.variant", what, todo) from error
        for module in self.network.modules():
            if type(module).__name__ == "Conv2dSame":
                module.__class__ = _EvenConv2d
            elif type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.in_channels < 8:
                module.__class__ = _PointConv2d
        maps: Any = self.network.feature_info
        used = [one for one in zip(maps.reduction(), maps.channels(), strict=True) if one[0] >= FINEST]
        self.strides, self.widths = (tuple(one) for one in zip(*used, strict=True)) if used else ((), ())
        pyramid = tuple(FINEST << level for level in range(max(2, len(self.strides))))
        if self.strides != pyramid:
            strides = tuple(maps.reduction())
            needed = f"{FINEST}, {2 * FINEST}, ..."
            what = f"{name} gives feature maps with strides {strides}, but a U-Net needs {needed}"
            raise ConfigError("model.variant", what, f"choose a pyramid, such as {DEFAULT}")
        expected = timm.get_pretrained_cfg(name)
        mean, std = (expected.mean, expected.std) if expected else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean_311", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", torch.tensor(std).view(3, 1, 1), persistent=False)

    def check(self, side: int) -> None:
        """ConfigError if photos of `side` pixels do not give these maps; asked on the meta device alone."""
        if not next(self.parameters()).is_meta:
            return
        try:
            maps = [tuple(one.shape[1:]) for one in self(torch.empty(2, 1, side, side))]
            reason = f"the last map is {maps[-1]}"
        except Exception as error:  # whatever a network says of a size that it is not made for
            maps, reason = [], in_one_line(error)
        sides = [side // stride for stride in self.strides]
        if maps != list(zip(self.widths, sides, sides, strict=True)):
            what = f"it makes no pyramid of {side} pixels a side ({reason})"
            raise ConfigError("model.variant", what, f"choose a network of convolutions, such as {DEFAULT}")

    def forward(self, input_B1HW: Tensor) -> list[Tensor]:
        mean, std = cast(Tensor, self.mean_311), cast(Tensor, self.std_311)
        image_B3HW = (((input_B1HW + 1) / 2 - mean) / std).contiguous(memory_format=torch.channels_last)
        maps = self.network(image_B3HW)
        return maps[len(maps) - len(self.strides) :]


class TimmUNet(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first, or 0.5 within [0, 1] if bounded.

    `variant` names the backbone; `width`, `norm` and `dropout` are the decoder's. Photos are enlarged for the
    backbone `enlarge` (1, 2, 4 or 8) times; None: by the power of two that makes a `size` below 128 so large.
    The decoder has a level less for each doubling.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        size: int = 256,
        width: int = 32,
        norm: Norm = "batch",
        pretrained: bool | str = False,
        bounded: bool = False,
        dropout: float = 0.0,
        variant: str = DEFAULT,
        enlarge: int | None = None,
    ):
        super().__init__()
        if enlarge not in (None, *_FACTORS.values()):
            what = f"photos are enlarged 1, 2, 4 or 8 times (got {enlarge})"
            raise ConfigError("model.enlarge", what, "choose one of these")
        enlargement = enlarge or 1
        while enlarge is None and enlargement * size < LEAST_SIDE and enlargement < FINEST:
            enlargement *= 2
        self.bounded, self.enlargement = bounded, enlargement
        self.encoder = TimmFeatures(variant)
        fine = [scale for scale in (2, 4) if scale * enlargement < FINEST]  # of the photo
        self.stem = nn.ModuleList()
        skips, num_in = {}, 1
        for scale in fine:
            num_out = width * _FACTORS[scale]
            self.stem.append(_stem(num_in, num_out, norm=norm))
            skips[scale], num_in = num_out, num_out
        *coarse, (bottom, num_in) = zip(self.encoder.strides, self.encoder.widths, strict=True)
        skips |= {stride // enlargement: width for stride, width in coarse}
        scales = sorted(skips)
        widths = [width * _FACTORS[min(scale, max(_FACTORS))] for scale in reversed(scales)]
        self.ups = up_blocks(num_in, [skips[scale] for scale in scales], widths, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.finest, self.multiple = scales[0], bottom // enlargement
        self.encoder.check(-(-size // self.multiple) * bottom)
        self.last = zero_init(nn.Conv2d(widths[-1], out_channels, 1))
        load_backbone(self.encoder.network, variant, pretrained, setting="model.pretrained")

    def forward(self, input_B1HW: Tensor) -> Tensor:
        padded = reflect_to_multiple(input_B1HW, self.multiple)
        return crop_like(self.decode(padded, self.encoder(self.enlarge(padded))), input_B1HW)

    def enlarge(self, input_B1HW: Tensor) -> Tensor:
        """What the backbone sees, (B, 1, E H, E W)."""
        if self.enlargement == 1:
            return input_B1HW
        return F.interpolate(input_B1HW, scale_factor=self.enlargement, mode="bilinear", align_corners=False)

    def decode(self, input_B1HW: Tensor, maps: list[Tensor]) -> Tensor:
        """The output for a photo whose sides are multiples of the last map's stride, and its maps."""
        skips, x = [], input_B1HW
        for stage in self.stem:
            x = stage(x)
            skips.append(x)
        *coarse, x = maps
        for index, (up, skip) in enumerate(zip(self.ups, reversed(skips + coarse), strict=True)):
            x = up(x, skip)
            x = self.dropout(x) if index == 0 else x
        x = self.last(x)
        x = torch.sigmoid(x) if self.bounded else x
        return x if self.finest == 1 else F.interpolate(x, scale_factor=self.finest, mode="bilinear")


def _stem(num_in: int, num_out: int, *, norm: Norm) -> nn.Sequential:
    conv = nn.Conv2d(num_in, num_out, 3, stride=2, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, normalization(norm, num_out), nn.ReLU())
