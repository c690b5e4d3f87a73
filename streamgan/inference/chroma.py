"""Chroma that was predicted at the work size, on the pixels of the photo: along its edges, within its gamut.

Shape suffixes: B batch, C chroma channels, H W the photo (or a band of rows), h w the work size, N pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from streamgan.core.color import L_CENTRE, Head

_SIGMA = 5 / L_CENTRE  # of the luminance difference that still is one surface: 5 of L's 100
_FLOOR = 1e-4  # of the weights: with no neighbour of like luminance the place alone decides
_TOLERANCE = 0.5 / L_CENTRE / 2.55  # half a level of 255, in network units
_HALVINGS = 8


def upsample(
    chroma_BChw: Tensor, input_B1hw: Tensor, wanted_B1HW: Tensor, *, top: int = 0, height: int | None = None
) -> Tensor:
    """The chroma at the size of the photo, (B, C, H, W): four neighbours, by distance and likeness.

    Kopf et al., "Joint Bilateral Upsampling", SIGGRAPH 2007, with the support of bilinear upsampling: no
    colour arises that no neighbour has. `wanted_B1HW`, the network input at full size, may be a band of rows
    from `top` on, of a photo of `height`.
    """
    rows, columns = wanted_B1HW.shape[-2:]
    height = rows if height is None else height
    if height < chroma_BChw.shape[-2] or columns < chroma_BChw.shape[-1]:  # smaller than the work size
        whole = F.interpolate(chroma_BChw, (height, columns), mode="bilinear", antialias=True)
        return whole[..., top : top + rows, :]
    device = chroma_BChw.device
    guided = torch.cat((input_B1hw, chroma_BChw), 1)
    total = torch.zeros_like(wanted_B1HW).expand(-1, chroma_BChw.shape[1], -1, -1).clone()
    weights = torch.zeros_like(wanted_B1HW)
    row_taps = _taps(top, rows, height, guided.shape[-2], device)
    column_taps = _taps(0, columns, columns, guided.shape[-1], device)
    for y, y_weight in row_taps:
        line = guided.index_select(-2, y)
        for x, x_weight in column_taps:
            near = line.index_select(-1, x)
            likeness = torch.exp(-((near[:, :1] - wanted_B1HW) / _SIGMA).square() / 2) + _FLOOR
            weight = y_weight[:, None] * x_weight * likeness
            total += weight * near[:, 1:]
            weights += weight
    return total / weights


def _taps(first: int, count: int, size: int, small: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Two neighbours in a side of `small` pixels of `count` pixels of a side of `size`: index, weight."""
    place = (torch.arange(first, first + count, device=device) + 0.5) * (small / size) - 0.5
    place = place.clamp(0, small - 1)
    lower = place.floor().long().clamp_max(max(0, small - 2))
    part = place - lower
    return [(lower, 1 - part), ((lower + 1).clamp_max(small - 1), part)]


def paint(head: Head, input_B1HW: Tensor, chroma_B2HW: Tensor) -> Tensor:
    """sRGB in [0, 1] of this luminance: chroma that no colour of it can have is lowered, the hue stays.

    `head` is one of two channels. Clipping to sRGB alone would change the luminance of such pixels.
    """
    rgb_B3HW = head.decode(input_B1HW, chroma_B2HW)
    off_BHW = ((head.to_input(rgb_B3HW) - input_B1HW).abs() > _TOLERANCE)[:, 0]
    if not off_BHW.any():
        return rgb_B3HW
    given_1N = input_B1HW.permute(1, 0, 2, 3)[:, off_BHW]
    chroma_2N = chroma_B2HW.permute(1, 0, 2, 3)[:, off_BHW]
    low, high = torch.zeros_like(given_1N), torch.ones_like(given_1N)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        there = (head.to_input(_decode(head, given_1N, middle * chroma_2N)) - given_1N[None, ..., None]).abs()
        fits = (there <= _TOLERANCE).reshape(given_1N.shape)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    fixed_3N = _decode(head, given_1N, low * chroma_2N)[0, :, :, 0]
    rgb_3BHW = rgb_B3HW.permute(1, 0, 2, 3).clone()
    rgb_3BHW[:, off_BHW] = fixed_3N
    return rgb_3BHW.permute(1, 0, 2, 3)


def _decode(head: Head, given_1N: Tensor, chroma_2N: Tensor) -> Tensor:
    """The pixels as an image (1, 3, N, 1)."""
    return head.decode(given_1N[None, ..., None], chroma_2N[None, ..., None])
