"""Colour for the frame of a film as films store it: luma untouched, two planes of chroma beside it.

A film has Y'CbCr, mostly with one chroma value for four pixels. So the luma of the source is copied as it is,
and what was predicted at the work size goes to the size of the chroma planes alone. No RGB in between.
Shape suffixes: 2 the channels Cb and Cr, H W the luma, h w the work size, y x the chroma planes.
"""

from typing import NamedTuple

import numpy as np
import torch
from av import VideoFrame
from torch import Tensor

from .chroma import upsample
from .colorizer import Chroma, Colorizer
from .photo import Photo

# Weights of red and blue in luma, by the number of the matrix in ITU-T H.273.
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
_BT601 = (0.299, 0.114)
_RGB, _UNSPECIFIED, _FULL = 0, 2, 2  # a matrix; a matrix; a range


class Space(NamedTuple):
    """How levels of a film stand for R'G'B': the tag and range of its frames, the weights of red and blue."""

    tag: int
    full: bool
    red: float
    blue: float
    bits: int

    @property
    def luma(self) -> tuple[int, int]:
        """The levels of black and white."""
        return (0, 2**self.bits - 1) if self.full else (16 << self.bits - 8, 235 << self.bits - 8)

    @property
    def chroma_levels(self) -> int:
        """Between the chroma of the strongest blue and that of its opposite."""
        return 2**self.bits - 1 if self.full else 224 << self.bits - 8

    def gray(self) -> np.ndarray:
        """Gray of 8 bits for every level of luma."""
        black, white = self.luma
        unit = (np.arange(2**self.bits) - black) / (white - black)
        return (unit.clip(0, 1) * 255).round().astype(np.uint8)


def space_of(frame: VideoFrame, bits: int) -> Space:
    """That of a result of so many bits. A film that does not say its matrix is taken as players take it."""
    tag = _UNSPECIFIED if frame.format.is_rgb or frame.format.has_palette else frame.colorspace
    is_hd = frame.width >= 1280 or frame.height > 576
    red, blue = _WEIGHTS.get(tag, _WEIGHTS[1] if tag in (_RGB, _UNSPECIFIED) and is_hd else _BT601)
    return Space(tag, _is_full(frame), red, blue, bits)


def _is_full(frame: VideoFrame) -> bool:
    """Whether 0 is black. Gray that says nothing is so, as ffmpeg takes and makes it."""
    if frame.color_range == 0 and frame.format.name.startswith("gray"):
        return True
    return frame.color_range == _FULL or frame.format.name.startswith("yuvj")


class Picture:
    """A frame as it will be encoded: the luma of the film, chroma still to be painted.

    A frame of another size or format than that of the result is converted by ffmpeg.
    """

    def __init__(self, given: VideoFrame, size: tuple[int, int], pix_fmt: str, space: Space):
        alike = (given.width, given.height) == size and _is_full(given) == space.full
        alike = alike and given.format.name in _same_luma(pix_fmt)
        source = given if alike else _converted(given, size, pix_fmt, space)
        self.frame = VideoFrame(*size, pix_fmt)
        self.frame.pts, self.frame.time_base = given.pts, given.time_base
        self.luma_HW = _plane(self.frame, 0)
        np.minimum(_plane(source, 0), 2**space.bits - 1, out=self.luma_HW)  # 16 bits may hold anything

    def paint(self, painter: "Painter", chroma: Chroma, turn: int, *, num_fields: int = 1) -> None:
        """Set the chroma: of a prediction for the picture after `turn` quarters.

        The lines of two fields come in turn, in the luma and in the chroma.
        """
        planes = [_plane(self.frame, index) for index in (1, 2)]
        for field in range(num_fields):
            parts = [plane[field::num_fields] for plane in planes]
            levels_2yx = painter(self.luma_HW[field::num_fields], chroma, turn, parts[0].shape)
            for part, levels_yx in zip(parts, levels_2yx, strict=True):
                part[:] = levels_yx


def _same_luma(pix_fmt: str) -> tuple[str, str, str]:
    """Formats with the same plane of luma."""
    return pix_fmt, pix_fmt.replace("yuv", "yuvj"), f"gray{pix_fmt.partition('p')[2]}"


def _converted(frame: VideoFrame, size: tuple[int, int], pix_fmt: str, space: Space) -> VideoFrame:
    levels = {"src_color_range": 1 + _is_full(frame), "dst_color_range": 1 + space.full}
    if frame.format.is_rgb or frame.format.has_palette:
        levels["dst_colorspace"] = 1 if space.red == _WEIGHTS[1][0] else 5
    return frame.reformat(*size, format=pix_fmt, **levels)


def _plane(frame: VideoFrame, index: int) -> np.ndarray:
    """The levels of a plane, in place."""
    plane = frame.planes[index]
    deep = max(part.bits for part in frame.format.components) > 8
    rows = np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8).reshape(plane.height, -1)
    return rows[:, : plane.width]


class Painter:
    """Chroma planes for pictures of one space from what a Colorizer predicts."""

    def __init__(self, colorizer: Colorizer, space: Space):
        self._colorizer, self._space = colorizer, space
        self._gray = space.gray()
        self._inputs = colorizer.to_input(self._gray[None]).flatten()

    def photo(self, luma_HW: np.ndarray, turn: int) -> Photo:
        """What the generator is to see, upright after `turn` quarters."""
        return Photo(np.ascontiguousarray(np.rot90(self._gray[luma_HW], turn)))

    @torch.inference_mode()
    def __call__(self, luma_HW: np.ndarray, chroma: Chroma, turn: int, size: tuple[int, int]) -> np.ndarray:
        """Levels of Cb and Cr, (2, y, x) with `size` (y, x), which show every pixel in a colour of sRGB.

        The hue stays, and the luma: where these allow less chroma than was predicted it is lowered.
        """
        rgb_13hw = torch.rot90(self._colorizer.colors(chroma), -turn, (2, 3))
        given_11hw = torch.rot90(chroma.input_11hw, -turn, (2, 3))
        low, middle, high = (
            torch.from_numpy(one.astype(np.int32)).to(rgb_13hw.device) for one in _blocks(luma_HW, size)
        )
        wanted_11yx = self._inputs[middle][None, None]
        cbcr_12yx = upsample(_to_chroma(rgb_13hw, self._space), given_11hw, wanted_11yx)
        fitting_12yx = _limited(cbcr_12yx, self._unit(low), self._unit(high), self._space)
        levels_2yx = fitting_12yx[0] * self._space.chroma_levels + (1 << self._space.bits - 1)
        return levels_2yx.round().cpu().numpy().astype(luma_HW.dtype)

    def _unit(self, luma_yx: Tensor) -> Tensor:
        black, white = self._space.luma
        return ((luma_yx - black) / (white - black)).clamp(0, 1)


def _blocks(luma_HW: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least, mean and largest luma of the pixels that share a chroma value, each (y, x)."""
    if luma_HW.shape == size:
        return luma_HW, luma_HW, luma_HW
    height, width = luma_HW.shape
    if height % 2 or width % 2:
        luma_HW = np.pad(luma_HW, ((0, height % 2), (0, width % 2)), "edge")
    parts = [luma_HW[y::2, x::2] for y in (0, 1) for x in (0, 1)]
    low = np.minimum(np.minimum(*parts[:2]), np.minimum(*parts[2:]))
    high = np.maximum(np.maximum(*parts[:2]), np.maximum(*parts[2:]))
    total = np.sum(parts, 0, dtype=np.uint32)
    return low, ((total + 2) >> 2).astype(luma_HW.dtype), high


def _to_chroma(rgb_13hw: Tensor, space: Space) -> Tensor:
    """(Cb, Cr) in [-0.5, 0.5] of R'G'B' in [0, 1]."""
    red, green, blue = rgb_13hw.unbind(1)
    luma = space.red * red + (1 - space.red - space.blue) * green + space.blue * blue
    return torch.stack(((blue - luma) / (2 - 2 * space.blue), (red - luma) / (2 - 2 * space.red)), 1)


def _limited(cbcr_12yx: Tensor, low_yx: Tensor, high_yx: Tensor, space: Space) -> Tensor:
    """The chroma times the largest factor up to 1 that keeps R', G' and B' in [0, 1] for either luma."""
    red_1yx = (2 - 2 * space.red) * cbcr_12yx[:, 1]
    blue_1yx = (2 - 2 * space.blue) * cbcr_12yx[:, 0]
    green_1yx = -(space.red * red_1yx + space.blue * blue_1yx) / (1 - space.red - space.blue)
    factor = torch.ones_like(red_1yx)
    for change_1yx in (red_1yx, green_1yx, blue_1yx):
        room = torch.where(change_1yx > 0, 1 - high_yx, low_yx)
        factor = torch.minimum(factor, room / change_1yx.abs().clamp_min(1e-6))
    return cbcr_12yx * factor[:, None]
