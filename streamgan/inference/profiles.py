"""ICC profiles: what a photo's numbers mean. The network sees sRGB; the result means what its profile says.

Shape suffixes: H height, W width, 3 the channels of RGB.
"""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_BLACK_POINT = ImageCms.Flags.BLACKPOINTCOMPENSATION


def color_space(profile: bytes) -> str | None:
    """ "GRAY", "RGB", "CMYK" ...: what the profile describes; None if it is damaged."""
    try:
        opened: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return opened.profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError):
        return None


@functools.cache
def srgb() -> bytes:
    """The profile of sRGB, without the time of its making: equal photos are to be equal files."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[:24] + bytes(12) + made[36:]  # bytes 24 to 35 of a profile's header are its date


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image in the colours of `profile` as sRGB, mode RGB."""
    return _convert(image, profile, srgb())


def from_srgb(rgb_HW3: np.ndarray, profile: bytes) -> np.ndarray:
    """uint8 sRGB -> the numbers of the same colours under `profile`, of RGB too."""
    return np.asarray(_convert(Image.fromarray(rgb_HW3), srgb(), profile))


def gray_to_srgb(gray_HW: np.ndarray, profile: bytes) -> np.ndarray:
    """Gray levels (uint8 or uint16) under a profile of gray or RGB -> the sRGB levels, of the same type.

    Exact to half a level of 8 bits, which is what the library computes in; a profile with the curve of sRGB
    leaves all 16 bits as they are.
    """
    levels = np.arange(256, dtype=np.uint8)
    ramp = Image.fromarray(levels[None])
    ramp = ramp if color_space(profile) == "GRAY" else ramp.convert("RGB")
    curve = np.asarray(to_srgb(ramp, profile))[0, :, 1]
    if np.array_equal(curve, levels):
        return gray_HW
    if gray_HW.dtype == np.uint8:
        return curve[gray_HW]
    deep = np.interp(np.arange(65536) / 257, levels, curve) * 257
    return deep.round().astype(np.uint16)[gray_HW]


def _convert(image: Image.Image, source: bytes, target: bytes) -> Image.Image:
    before, after = (ImageCms.ImageCmsProfile(io.BytesIO(one)) for one in (source, target))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    done = ImageCms.profileToProfile(image, before, after, intent, outputMode="RGB", flags=_BLACK_POINT)
    assert done is not None
    return done
