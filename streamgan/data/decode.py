"""Encoded image -> uint8 crop of the size that training needs, no larger decode than necessary.

JPEG goes through libjpeg-turbo with DCT scaling (simplejpeg): a 512-pixel photo for a 256-pixel crop is
decoded at half size, four times cheaper. Everything else goes through Pillow. The short side is resized to
`size`, the crop's place along the long side and the flip are hashed from (seed, epoch, sample id).
"""

import io
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image

from streamgan.core.seeding import uniform

MAX_PIXELS = 200_000_000  # refuse decompression bombs before decoding


class Crop(NamedTuple):
    """Where a crop lies (`position` in [0, 1] along the long side, 0.5: the middle), and its mirroring."""

    position: float
    flip: bool


CENTER = Crop(0.5, False)


def sampled_crops(seed: int, epochs: np.ndarray, ids: np.ndarray) -> list[Crop]:
    """The augmentation of samples in their epochs: uniform position, mirrored half of the time."""
    positions, flips = uniform(seed, 4, epochs, ids), uniform(seed, 5, epochs, ids) < 0.5
    return list(map(Crop, positions.tolist(), flips.tolist()))


def luma(image_HW3: np.ndarray) -> np.ndarray:
    """BT.601 luma of an sRGB image, uint8 (H, W): the gray that JPEG and Pillow make of it."""
    return np.asarray(Image.fromarray(image_HW3).convert("L"))


def decode(data: bytes, mode: Literal["RGB", "L"], *, size: int, crop: Crop) -> np.ndarray:
    """A crop as uint8, (size, size, 3) for RGB, (size, size, 1) for L; ValueError if it is no image."""
    is_jpeg = data[:2] == b"\xff\xd8"
    return _cut(_decode_jpeg(data, mode, size) if is_jpeg else _decode_other(data, mode), size, crop)


def _decode_jpeg(data: bytes, mode: Literal["RGB", "L"], size: int) -> np.ndarray:
    height, width = (int(side) for side in simplejpeg.decode_jpeg_header(data)[:2])
    _check_pixels(width, height)
    scale = size / min(height, width)
    # min_factor 1 lets libjpeg choose the smallest n/8 scale whose result still covers the resized image.
    return simplejpeg.decode_jpeg(
        data,
        colorspace="RGB" if mode == "RGB" else "GRAY",
        min_height=min(height, round(height * scale)) if scale < 1 else 0,
        min_width=min(width, round(width * scale)) if scale < 1 else 0,
        min_factor=1,
    )


def _decode_other(data: bytes, mode: Literal["RGB", "L"]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_pixels(*image.size)
            pixels = np.asarray(image.convert(mode))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not decodable ({error})") from error
    return pixels if mode == "RGB" else pixels[:, :, None]


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, over the cap of {MAX_PIXELS}")


def _cut(image_HWC: np.ndarray, size: int, crop: Crop) -> np.ndarray:
    height, width, channels = image_HWC.shape
    short = min(height, width)
    left = round((width - short) * crop.position)
    top = round((height - short) * crop.position)
    if short != size:
        mode = Image.fromarray(image_HWC if channels == 3 else image_HWC[:, :, 0])
        box = (left, top, left + short, top + short)
        cut = np.asarray(mode.resize((size, size), Image.Resampling.BILINEAR, box=box))
        cut = cut.reshape(size, size, channels)
    else:
        cut = image_HWC[top : top + size, left : left + size]
    # torch mirrors: numpy copies a mirrored RGB image pixel by pixel, 14 times slower
    return torch.from_numpy(np.require(cut, requirements="W")).flip(1).numpy() if crop.flip else cut
