"""Colour: sRGB <-> CIE Lab and YCbCr, and the three heads that say what a generator predicts.

Shape suffixes: B batch, H height, W width, 1/2/3 channels, C the head's channels.
Everything here computes in float32 even under autocast: Lab in bfloat16 is only good to 39 dB.
Lab: D65, 2 degrees, the matrix of IEC 61966-2-1 as scikit-image writes it. The reference white is the
colour of sRGB (1, 1, 1), so that every gray has a = b = 0; the difference to scikit-image is below 0.01.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

L_CENTRE = 50.0  # l = L / 50 - 1 lies in [-1, 1]
AB_SCALE = (
    110.0  # ab_n = ab / 110 lies in [-0.98, 0.90]: the sRGB gamut spans a in [-86, 98], b in [-108, 95]
)

_RGB_TO_XYZ = torch.tensor(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
    dtype=torch.float64,
)
_WHITE = _RGB_TO_XYZ.sum(1)
_RGB_TO_XYZ_N = (_RGB_TO_XYZ / _WHITE[:, None]).float()  # XYZ relative to white
_XYZ_N_TO_RGB = torch.linalg.inv(_RGB_TO_XYZ / _WHITE[:, None]).float()
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601, the luma of JPEG
_DELTA = 6 / 29


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the tensor's device, if there is any to turn off (not on meta)."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def unit_rgb(color_B3HW: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [0, 1], planes contiguous: mixing channels is three times as fast."""
    return color_B3HW.to(torch.float32, memory_format=torch.contiguous_format) / 255


def to_uint8(rgb_B3HW: Tensor) -> Tensor:
    """float [0, 1] (clamped) -> uint8 [0, 255], rounded to nearest."""
    return rgb_B3HW.float().clamp(0, 1).mul(255).round().to(torch.uint8)


def _matrix(matrix_33: Tensor, image_B3HW: Tensor) -> Tensor:
    # A copy that blocks would make the training loop wait for all the work of the GPU.
    return torch.einsum("ij,bjhw->bihw", matrix_33.to(image_B3HW.device, non_blocking=True), image_B3HW)


def _linear(rgb: Tensor) -> Tensor:
    """sRGB transfer function undone. Bases are clamped inside `where`: no NaN gradient at black."""
    return torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)


def _gamma(linear: Tensor) -> Tensor:
    """sRGB transfer function."""
    return torch.where(
        linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, linear * 12.92
    )


def rgb_to_lab(rgb_B3HW: Tensor) -> Tensor:
    """sRGB [0, 1] -> Lab with L in [0, 100] and a, b in about [-108, 98]."""
    with without_autocast(rgb_B3HW):
        xyz = _matrix(_RGB_TO_XYZ_N, _linear(rgb_B3HW.float()))
        cube = _DELTA**3
        f = torch.where(xyz > cube, xyz.clamp_min(cube) ** (1 / 3), xyz / (3 * _DELTA**2) + 4 / 29)
        x, y, z = f.unbind(1)
        return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def lab_to_rgb(lab_B3HW: Tensor) -> Tensor:
    """Lab -> sRGB clamped to [0, 1] (colours outside the gamut move to its border)."""
    with without_autocast(lab_B3HW):
        lightness, a, b = lab_B3HW.float().unbind(1)
        y = (lightness + 16) / 116
        f = torch.stack((y + a / 500, y, y - b / 200), 1)
        xyz = torch.where(f > _DELTA, f.clamp_min(_DELTA) ** 3, 3 * _DELTA**2 * (f - 4 / 29))
        return _gamma(_matrix(_XYZ_N_TO_RGB, xyz).clamp(0, 1))


def luma(rgb_B3HW: Tensor) -> Tensor:
    """BT.601 luma of sRGB, same range as the input -> (B, 1, H, W)."""
    with without_autocast(rgb_B3HW):
        weights_311 = _LUMA.to(rgb_B3HW.device, non_blocking=True).view(3, 1, 1)
        return (rgb_B3HW.float() * weights_311).sum(1, keepdim=True)


def saturate(rgb_B3HW: Tensor, factor: float) -> Tensor:
    """sRGB [0, 1] with `factor` times the distance of each pixel from its BT.601 gray, clamped to [0, 1]."""
    if factor == 1:
        return rgb_B3HW
    gray_B1HW = luma(rgb_B3HW)
    return (gray_B1HW + factor * (rgb_B3HW.float() - gray_B1HW)).clamp(0, 1)


def _lightness(gray_B1HW: Tensor) -> Tensor:
    """Gray sRGB value [0, 1] -> l in [-1, 1]. For r = g = b, Y is the linear gray value."""
    y = _linear(gray_B1HW.float())
    cube = _DELTA**3
    f = torch.where(y > cube, y.clamp_min(cube) ** (1 / 3), y / (3 * _DELTA**2) + 4 / 29)
    return (116 * f - 16) / L_CENTRE - 1


def gray_value(l_B1HW: Tensor) -> Tensor:
    """l in [-1, 1] -> the gray sRGB value in [0, 1] of this lightness: `_lightness` undone."""
    with without_autocast(l_B1HW):
        f = ((l_B1HW.float() + 1) * L_CENTRE + 16) / 116
        y = torch.where(f > _DELTA, f.clamp_min(_DELTA) ** 3, 3 * _DELTA**2 * (f - 4 / 29))
        return _gamma(y.clamp(0, 1))


def _lab_pair(rgb_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    lab_B3HW = rgb_to_lab(rgb_B3HW)
    return lab_B3HW[:, :1] / L_CENTRE - 1, lab_B3HW[:, 1:] / AB_SCALE


def _lab_decode(l_B1HW: Tensor, ab_B2HW: Tensor) -> Tensor:
    return lab_to_rgb(torch.cat(((l_B1HW.float() + 1) * L_CENTRE, ab_B2HW.float() * AB_SCALE), 1))


def _ycbcr_pair(rgb_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    y_B1HW = luma(rgb_B3HW)
    red, _, blue = rgb_B3HW.float().unbind(1)
    y = y_B1HW[:, 0]
    cbcr = torch.stack(((blue - y) / 0.886, (red - y) / 0.701), 1)  # 2 * (1 - 0.114), 2 * (1 - 0.299)
    return y_B1HW * 2 - 1, cbcr


def _ycbcr_decode(y_B1HW: Tensor, cbcr_B2HW: Tensor) -> Tensor:
    y = (y_B1HW.float()[:, 0] + 1) / 2
    cb, cr = cbcr_B2HW.float().unbind(1)
    red, blue = y + 0.701 * cr, y + 0.886 * cb
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack((red, green, blue), 1).clamp(0, 1)


def _rgb_decode(l_B1HW: Tensor, rgb_B3HW: Tensor) -> Tensor:
    return _lab_decode(l_B1HW, _lab_pair(rgb_B3HW.float().clamp(0, 1))[1])


class Head(NamedTuple):
    """What a generator sees and predicts. All functions take and give float32.

    `to_pair`: sRGB [0, 1] (B, 3, H, W) -> network input (B, 1, H, W) in [-1, 1], and what the generator
    should give for it, (B, channels, H, W). `to_input` and `to_target` are its halves.
    `gray_to_input`: gray sRGB value [0, 1] (B, 1, H, W) -> network input.
    `decode`: (input, prediction) -> sRGB in [0, 1] with the luminance of the input.
    """

    channels: int
    to_pair: Callable[[Tensor], tuple[Tensor, Tensor]]
    gray_to_input: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]
    bounded: bool = False  # the generator ends in a sigmoid

    def encode(self, color_B3HW: Tensor, gray_B1HW: Tensor | None) -> tuple[Tensor, Tensor]:
        """uint8 colour, its gray twin (None: derive it) -> input (B, 1, H, W), target (B, channels, H, W)."""
        given, target = self.to_pair(unit_rgb(color_B3HW))
        return given if gray_B1HW is None else self.gray_to_input(unit_rgb(gray_B1HW)), target

    def to_input(self, rgb_B3HW: Tensor) -> Tensor:
        """sRGB [0, 1] -> network input (B, 1, H, W)."""
        return self.to_pair(rgb_B3HW)[0]

    def to_target(self, rgb_B3HW: Tensor) -> Tensor:
        """sRGB [0, 1] -> what the generator should give, (B, channels, H, W)."""
        return self.to_pair(rgb_B3HW)[1]

    def pair(self, input_B1HW: Tensor, output_BCHW: Tensor) -> Tensor:
        """What a discriminator sees, always 3 channels: (input, chroma), or the RGB image itself."""
        return output_BCHW if self.channels == 3 else torch.cat((input_B1HW, output_BCHW), 1)


HEADS: dict[str, Head] = {
    "lab": Head(2, _lab_pair, _lightness, _lab_decode),
    "ycbcr": Head(2, _ycbcr_pair, lambda gray: gray.float() * 2 - 1, _ycbcr_decode),
    "rgb": Head(3, lambda rgb: (_lab_pair(rgb)[0], rgb.float()), _lightness, _rgb_decode, bounded=True),
    # The BUG of the source paper, reproduced for its row in a comparison and for nothing else: the sigmoid
    # gives [0, 1] but learns from targets in [-1, 1], of which it can reach half. Decoded like `rgb`.
    "rgb_as_published": Head(
        3, lambda rgb: (_lab_pair(rgb)[0], rgb.float() * 2 - 1), _lightness, _rgb_decode, bounded=True
    ),
}
