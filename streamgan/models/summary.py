"""What a model costs and sees: parameters, multiply-adds, receptive field, and the paper it comes from.

Shape suffixes: C output channels, K input channels, H height, W width.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from streamgan.core.errors import ConfigError

from . import build_discriminator, build_generator

_HE = ("He et al. 2016, residual blocks", "https://arxiv.org/abs/1512.03385")
_VGG = ("Simonyan and Zisserman 2015", "https://arxiv.org/abs/1409.1556")
_DDCOLOR = ("Kang et al. 2023, DDColor", "https://arxiv.org/abs/2212.11613")
_PIX2PIX = ("Isola et al. 2017, pix2pix", "https://arxiv.org/abs/1611.07004")
PAPERS = {
    "generator": {
        "ddcolor": _DDCOLOR,
        "koalarization": ("Baldassarre et al. 2017, Deep Koalarization", "https://arxiv.org/abs/1712.03400"),
        "paper_cnn": _HE,
        "resnet18_unet": _HE,
        "resnet34_unet": _HE,
        "resnet50_unet": _HE,
        "timm_unet": ("Tan and Le 2019, EfficientNet, by default", "https://arxiv.org/abs/1905.11946"),
        "unet": _PIX2PIX,
        "vgg16_unet": _VGG,
        "vgg19_unet": _VGG,
        "zhang": ("Zhang et al. 2016, Colorful Image Colorization", "https://arxiv.org/abs/1603.08511"),
    },
    "discriminator": {
        "ddcolor": _DDCOLOR,
        "paper_cnn": _HE,
        "patchgan": _PIX2PIX,
        "pix2pix": _PIX2PIX,
        "unet": ("Schoenfeld et al. 2020, U-Net discriminator", "https://arxiv.org/abs/2002.12655"),
    },
}
_STRIP = (32, 2048)  # pixels on which the receptive field is measured
_NARROW = 4  # channels there
_PHASES = 8  # outputs looked at: what one sees depends on its place between the strides


class Summary(NamedTuple):
    """`gmacs` of one image of `size` pixels a side; `sees`: None means the whole image, however large."""

    name: str
    kind: str
    parameters: int
    gmacs: float
    size: int
    sees: int | None
    paper: str
    url: str


def summarise(kind: Literal["generator", "discriminator"], name: str, *, size: int = 256) -> Summary:
    """The summary of a generator for the lab head, or of a discriminator, at its published width."""
    if kind == "generator":
        channels, build = 1, partial(build_generator, name, out_channels=2, size=size)
    else:
        channels, build = 3, partial(build_discriminator, name)
    with torch.device("meta"):
        model = build()
        # In training mode and with gradients: torch has fused attention for the rest, which is not counted.
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(2, channels, size, size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    gmacs = counter.get_total_flops() / 4 / 1e9  # of two images; a multiply-add is two operations
    sees = receptive_field(_without_norm(build), in_channels=channels)
    return Summary(name, kind, parameters, gmacs, size, sees, *PAPERS[kind].get(name, ("", "")))


def _without_norm(build: Callable[..., nn.Module]) -> nn.Module:
    """A narrow model; a norm's statistics would reach over the whole image."""
    try:
        return build(width=_NARROW, norm="none")
    except ConfigError:  # the norm is fixed: spectral, or over channels
        return build(width=_NARROW)


def receptive_field(model: nn.Module, *, in_channels: int) -> int | None:
    """How many input pixels in a row can change one output; None: all, through attention or a global mean.

    Measured as the extent of the gradient on a strip of 32 x 2,048 pixels. Before, `model` is changed so that
    nothing is cancelled or cut off: small positive weights, means in place of maxima, float64.
    """
    noise = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        fan_in = 2 * parameter[0].numel() if parameter.ndim > 1 else 10
        parameter.data = (0.5 + torch.rand(parameter.shape, generator=noise)) / fan_in
    for module in list(model.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, child_name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    model.double()
    strip = 0.5 + torch.rand(1, in_channels, *_STRIP, generator=noise, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(5):
            model(strip[..., :128])  # spectral norms catch up with the new weights
    output = model.eval()(strip.requires_grad_())
    if output.ndim == 2:
        return None  # one logit per image
    row, column = (side // 2 for side in output.shape[-2:])
    extents = [_extent(output[0, :, row, column + shift], strip) for shift in range(_PHASES)]
    return None if max(extents) >= _STRIP[1] - 1 else max(extents)


def _extent(output_C: Tensor, strip_1KHW: Tensor) -> int:
    """Columns between the first and the last that the output depends on."""
    (gradient,) = torch.autograd.grad(output_C.sum(), strip_1KHW, retain_graph=True)
    columns = gradient.abs().sum((0, 1, 2)).nonzero()
    return int(columns[-1] - columns[0]) + 1
