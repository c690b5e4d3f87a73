"""`timm_unet`: a U-Net on any backbone of timm that gives a pyramid of maps, by default EfficientNet-Lite0.

EfficientNet: Tan and Le, ICML 2019, https://arxiv.org/abs/1905.11946; Lite, without squeeze-and-excitation
and with ReLU6: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. The backbones
are timm's (extra `timm`); weights of Lite0 and Lite2 come as packages (extra `pretrained`). decoder.py names
the papers of the decoder's parts. No paper has this combination.

Shape suffixes: B batch, C the head's channels, H height, W width, E = H times the enlargement.

| EfficientNet-Lite0, width 32, photos of 64 pixels | output |
|---|---|
| gray, enlarged by 2, as three channels normalised as the backbone expects | 3, E, E |
| backbone (four skips) | 16, E/2; 24, E/4; 40, E/8; 112, E/16; 320, E/32 |
| up, concat, conv3x3, norm, ReLU | 256, E/16 |
| up, concat, conv3x3, norm, ReLU | 192, E/8 |
| up, concat, conv3x3, norm, ReLU | 128, E/4 |
| up, concat, conv3x3, norm, ReLU | 64, E/2 = H |
| concat the input, conv3x3, ReLU | 32, H |
| conv1x1 (and a sigmoid when bounded) | C, H |

Backbones are trained on photos of 224 pixels and more and see little in small ones, so those are enlarged
to `LEAST_SIDE`, and the decoder ends at the size that came in. Photos of that size or more are not enlarged;
then an "up" to full size, with `width` channels, comes before the input is concatenated.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from streamgan.core.errors import ConfigError
from streamgan.core.pretrained import load_backbone

from .decoder import ShuffleUp, UpBlock
from .layers import Norm, zero_init
from .options import at_least, refuse
from .padding import crop_like, reflect_to_multiple

DEFAULT = "tf_efficientnet_lite0"
LEAST_SIDE = 128
_FACTORS = {1: 1, 2: 2, 4: 4, 8: 6, 16: 8}  # of the decoder's width at a stride


class TimmFeatures(nn.Module):
    """Maps of a backbone: l (B, 1, H, W) in [-1, 1] -> (B, widths[i], H / strides[i], W / strides[i]) each.

    With `frozen_norm` its batch norm keeps the statistics that it came with, also while it is trained.
    """

    def __init__(self, name: str, *, frozen_norm: bool):
        super().__init__()
        self.frozen_norm = frozen_norm
        try:
            import timm
        except ImportError as error:
            raise ConfigError(
                "model.generator", "timm_unet needs timm", "pip install 'streamgan[timm]'"
            ) from error
        try:
            self.network = timm.create_model(name, pretrained=False, features_only=True)
        except (RuntimeError, AttributeError, TypeError) as error:  # no such name, or none that gives maps
            what = f"timm has no backbone with feature maps of this name (got {name!r})"
            todo = f"choose one of timm.list_models(), such as {DEFAULT}"
            raise ConfigError("model.variant", what, todo) from error
        maps: Any = self.network.feature_info
        self.widths, self.strides = tuple(maps.channels()), tuple(maps.reduction())
        if any(after != 2 * before for before, after in zip(self.strides, self.strides[1:], strict=False)):
            what = (
                f"the maps of {name} have strides {self.strides}, and a U-Net needs each twice the one before"
            )
            raise ConfigError("model.variant", what, f"choose a pyramid, such as {DEFAULT}")
        expected = timm.get_pretrained_cfg(name)
        mean, std = (expected.mean, expected.std) if expected else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean_311", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.train()  # what `frozen_norm` means to it

    def train(self, mode: bool = True) -> "TimmFeatures":
        super().train(mode)
        if self.frozen_norm:
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, input_B1HW: Tensor) -> list[Tensor]:
        mean, std = cast(Tensor, self.mean_311), cast(Tensor, self.std_311)
        return self.network(((input_B1HW + 1) / 2 - mean) / std)


class TimmUNet(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first, or 0.5 within [0, 1] if bounded."""

    def __init__(
        self,
        name: str,
        out_channels: int,
        *,
        width: int,
        enlargement: int,
        norm: Norm,
        frozen_norm: bool,
        bounded: bool,
    ):
        super().__init__()
        self.bounded, self.enlargement = bounded, enlargement
        self.encoder = TimmFeatures(name, frozen_norm=frozen_norm)
        skips = dict(zip(self.encoder.strides, self.encoder.widths, strict=True))
        stride, num_in = self.encoder.strides[-1], self.encoder.widths[-1]
        self.strides: list[int] = []
        self.ups = nn.ModuleList()
        while stride > enlargement:
            stride //= 2
            num_out = width * _FACTORS[stride]
            has_skip = stride in skips
            self.ups.append(
                UpBlock(num_in, skips[stride], num_out, norm=norm) if has_skip else ShuffleUp(num_in, num_out)
            )
            self.strides.append(stride)
            num_in = num_out
        self.refine = nn.Conv2d(num_in + 1, width, 3, padding=1)
        self.last = zero_init(nn.Conv2d(width, out_channels, 1))

    def forward(self, input_B1HW: Tensor) -> Tensor:
        padded = reflect_to_multiple(input_B1HW, max(1, self.encoder.strides[-1] // self.enlargement))
        seen = padded
        if self.enlargement > 1:
            seen = F.interpolate(padded, scale_factor=self.enlargement, mode="bilinear", align_corners=False)
        maps = dict(zip(self.encoder.strides, self.encoder(seen), strict=True))
        x = maps[self.encoder.strides[-1]]
        for stride, up in zip(self.strides, self.ups, strict=True):
            x = up(x, maps[stride]) if stride in maps else up(x)
        x = F.relu(self.refine(torch.cat((x, padded), 1)))
        x = crop_like(self.last(x), input_B1HW)
        return torch.sigmoid(x) if self.bounded else x


def build_generator(
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
) -> TimmUNet:
    """A U-Net on timm's `variant`; `width` (32) and `norm` ("group") are the decoder's.

    Any `norm` but None and "batch" also keeps the backbone's batch norm at the statistics of its weights, so
    that the images of a batch stay independent: for fine-tuning in small batches. Where `size` is below 128,
    photos are enlarged for the backbone by the power of two that makes it so.
    """
    refuse("timm_unet", depth=depth, dropout=dropout)
    enlargement = 1
    while enlargement * size < LEAST_SIDE and enlargement < max(_FACTORS):
        enlargement *= 2
    name = variant or DEFAULT
    model = TimmUNet(
        name,
        out_channels,
        width=at_least(1, 32 if width is None else width, "width"),
        enlargement=enlargement,
        norm="group" if norm is None else norm,
        frozen_norm=norm not in (None, "batch"),
        bounded=bounded,
    )
    load_backbone(model.encoder.network, name, pretrained, setting="model.pretrained")
    return model
