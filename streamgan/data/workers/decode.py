"""Encoded image -> uint8 crop of the size that training needs, no larger decode than necessary.

A 512-pixel JPEG for a 256-pixel crop is decoded at half size, four times cheaper. The short side is resized
to `size`, the crop's place along the long side and the flip are hashed from (seed, epoch, sample id).
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from streamgan.core.seeding import uniform
from streamgan.data.image import to_pixels


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
    return _cut(to_pixels(data, mode, short=size), size, crop)


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
