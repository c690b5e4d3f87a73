"""Small pieces that several architectures share: norms by name, the last layer and the ending.

Shape suffixes: B batch, C channels, H height, W width.
"""

import functools
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from streamgan.core.color import without_autocast
from streamgan.core.errors import ConfigError

from .channels_last import GroupNorm, group_norm_nhwc, leaves_channels_last
from .padding import crop_like

Norm = Literal["batch", "instance", "group", "none"]
_Conv = TypeVar("_Conv", nn.Conv2d, nn.ConvTranspose2d)
NORMS: tuple[Norm, ...] = ("batch", "instance", "group", "none")


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm that lets a 1 x 1 map pass: its variance is zero, and nothing would be left of it."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-2] * input.shape[-1] == 1:
            return input
        if leaves_channels_last(input):
            return group_norm_nhwc(input, self.num_features, self.weight, self.bias, self.eps)
        return super().forward(input)


def normalization(norm: Norm, num_channels: int) -> nn.Module:
    """A learnable norm over (B, C, H, W). `group` has about 16 channels per group.

    Only `batch` mixes images, so only the others give the same result however a batch is split over
    processes.
    """
    match norm:
        case "batch":
            return nn.BatchNorm2d(num_channels)
        case "instance":
            return InstanceNorm(num_channels, affine=True)
        case "group":
            return GroupNorm(math.gcd(num_channels, max(1, num_channels // 16)), num_channels)
        case "none":
            return nn.Identity()
        case _:
            raise ConfigError("model.norm", f"unknown norm (got {norm!r})", f"choose from {', '.join(NORMS)}")


def judging(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A discriminator's `forward(self, image)` with two more options.

    `full_precision=True`: float32 without autocast, which, turned off around a module wrapped by accelerate,
    would be turned on again inside it; and attention written out, for the second derivatives of R1 and of the
    gradient penalty, which fused attention lacks. `parts`: how many sets, real photos and made ones, stand
    behind each other in the batch; a module whose `apart` is true normalises each by its own statistics. That
    happens in one forward, because two of them with batch norm crash DistributedDataParallel.
    """

    @functools.wraps(forward)
    def wrapper(self: nn.Module, image: Tensor, *, full_precision: bool = False, parts: int = 1) -> Tensor:
        with ExitStack() as exact:
            if full_precision:
                exact.enter_context(without_autocast(image))
                exact.enter_context(sdpa_kernel(SDPBackend.MATH))
            image = image.float() if full_precision else image
            if parts > 1 and getattr(self, "apart", False):
                return torch.cat([forward(self, part) for part in image.chunk(parts)])
            return forward(self, image)

    return wrapper


def normal_init(module: nn.Module) -> None:
    """The start of pix2pix: weights from N(0, 0.02), those of batch norm from N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def ending(x_BCHW: Tensor, input_B1HW: Tensor, *, bounded: bool) -> Tensor:
    """A generator's output: cropped to the size of its input, and within [0, 1] if bounded."""
    x_BCHW = crop_like(x_BCHW, input_B1HW)
    return torch.sigmoid(x_BCHW) if bounded else x_BCHW


def zero_init(layer: _Conv) -> _Conv:
    """The layer with weight and bias zero: the network starts at 0, which is gray for every head."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
