"""Encoded image -> uint8 crop of the size that training needs, no larger decode than necessary.

A 512-pixel JPEG for a 256-pixel crop is decoded at half size, four times cheaper. The short side is resized
to `size`, the crop's place along the long side and the flip are hashed from (seed, epoch, sample id).
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from streamgan.core.seeding import uniform
from streamgan.data.image import to_pixels


class Crop(NamedTuple):
    """Where a crop lies (`position` in [0, 1] along the long side, 0.5: the middle), and its mirroring."""

    position: float
    flip: bool


CENTER = Crop(0.5, False)
_AT_ONCE = 1 << 19  # pixels that Pillow gets as one image: few calls, and they still fit into a cache


def sampled_crops(seed: int, epochs: np.ndarray, ids: np.ndarray) -> list[Crop]:
    """The augmentation of samples in their epochs: uniform position, mirrored half of the time."""
    positions, flips = uniform(seed, 4, epochs, ids), uniform(seed, 5, epochs, ids) < 0.5
    return list(map(Crop, positions.tolist(), flips.tolist()))


def write_luma(color_BHW3: np.ndarray, gray_BHW1: np.ndarray) -> None:
    """Write the BT.601 luma of sRGB images, uint8: the gray that JPEG and Pillow make of them."""
    _, height, width, _ = color_BHW3.shape
    count = max(1, _AT_ONCE // (height * width))
    for start in range(0, len(color_BHW3), count):
        part = color_BHW3[start : start + count]
        tall = Image.fromarray(part.reshape(-1, width, 3)).convert("L")
        gray_BHW1[start : start + count] = np.asarray(tall).reshape(-1, height, width, 1)


def decode(
    data: bytes, mode: Literal["RGB", "L"], *, size: int, crop: Crop, out: np.ndarray | None = None
) -> np.ndarray:
    """A crop as uint8, (size, size, 3) for RGB, (size, size, 1) for L; ValueError if it is no image.

    It is written to `out`, which is C-contiguous, if that is given.
    """
    if out is None:
        out = np.empty((size, size, 3 if mode == "RGB" else 1), np.uint8)
    if crop.flip:  # a row of BGR whose bytes are reversed is the mirrored row of RGB
        cut = _cut(to_pixels(data, "BGR" if mode == "RGB" else mode, short=size), size, crop)
        _reverse(cut, out)
    else:
        pixels = to_pixels(data, mode, short=size, out=out)
        if not np.may_share_memory(pixels, out):
            out[:] = _cut(pixels, size, crop)
    return out


def _cut(image_HWC: np.ndarray, size: int, crop: Crop) -> np.ndarray:
    height, width, channels = image_HWC.shape
    short = min(height, width)
    left = round((width - short) * crop.position)
    top = round((height - short) * crop.position)
    if short == size:
        return image_HWC[top : top + size, left : left + size]
    mode = Image.fromarray(image_HWC if channels == 3 else image_HWC[:, :, 0])
    box = (left, top, left + short, top + short)
    cut = np.asarray(mode.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return cut.reshape(size, size, channels)


def _reverse(image_HWC: np.ndarray, out: np.ndarray) -> None:
    """Write the rows with their bytes in reverse, by words of up to eight: single ones are slow in numpy."""
    size, _, channels = out.shape
    word = math.gcd(size * channels, 8)
    rows = image_HWC.reshape(size, -1).view(f">u{word}")
    out.reshape(size, -1).view(f"<u{word}")[:] = rows[:, ::-1]
