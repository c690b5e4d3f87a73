"""Images that cannot be copied as they are: turned, converted to 8-bit RGB or gray, made smaller, encoded.

Nothing here touches an image that a reader can use as it is: copying is the rule. Pixels are kept exactly
wherever 8 bits and three channels can hold them, and PNG is what they are kept in, unless asked otherwise.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from streamgan.core.images import UnknownRange, plain
from streamgan.data.image import PIL_FORMATS
from streamgan.sharding.source.rows import Data

PLAIN_MODES = ("RGB", "L")
DEFAULT_QUALITY = 95
# modes that have another meaning of their numbers than RGB and gray: a colour profile is lost with them
_CONVERTED = {"CMYK": "cmyk", "YCbCr": "ycbcr", "I;16": "16_bit", "I;16B": "16_bit", "I;16L": "16_bit"}
_CHANGES = {**_CONVERTED, "P": "palette", "PA": "palette", "RGBA": "alpha", "LA": "alpha", "1": "bilevel"}
_THUMBNAIL = (64, 64)
_ALIKE = 0.9  # correlation of two small gray pictures, from -1 to 1
_SPREAD = 24  # between the channels of a pixel, out of 255: more than JPEG makes of gray
_SHARE = 0.02  # of the pixels of a thumbnail


@dataclass(frozen=True)
class Encoding:
    """How images are made smaller (`size` of the short side) and encoded (None: PNG, resized ones JPEG)."""

    size: int | None = None
    encode: Literal["jpeg", "png"] | None = None
    quality: int | None = None

    def kind(self, *, resized: bool) -> Literal["jpeg", "png"]:
        return self.encode or ("jpeg" if resized else "png")


class Unusable(Exception):
    """Pixels that no conversion makes 8-bit RGB or gray without loss of meaning: (reason, detail)."""


def open_image(data: Data, extension: str) -> Image.Image:
    """The header of an image, as the format that its first bytes say and no other."""
    return Image.open(io.BytesIO(data), formats=[PIL_FORMATS[extension]])


def changes_of_mode(image: Image.Image, *, deep: bool) -> tuple[str, ...]:
    """Why `image` cannot be used as it is, in words; Unusable if nothing can be done."""
    if image.mode not in (*PLAIN_MODES, *_CHANGES):
        raise Unusable("unsupported_mode", image.mode)
    keyed = image.mode in PLAIN_MODES and "transparency" in image.info
    change = "alpha" if keyed else _CHANGES.get(image.mode)
    return tuple(dict.fromkeys(filter(None, (change, "16_bit" if deep else None))))


def normalise(image: Image.Image) -> Image.Image:
    """The pixels of an opened image, upright, as RGB or L; Unusable if some of them are transparent."""
    profile = None if image.mode in _CONVERTED else image.info.get("icc_profile")
    try:
        image, alpha = plain(image)
    except UnknownRange as error:
        raise Unusable("unsupported_mode", error.kind) from error
    if alpha and alpha.getextrema() != (255, 255):
        raise Unusable("transparent", "")
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image if image.mode in PLAIN_MODES else image.convert("RGB")
    image.info = {"icc_profile": profile} if profile else {}
    return image


def look_alike(first: Image.Image, second: Image.Image) -> bool:
    """Whether two images of one size show one picture, the same way up. They may differ in colour."""
    small = [
        np.asarray(one.convert("L").resize((32, 32), Image.Resampling.BOX), float) for one in (first, second)
    ]
    off_HW = [levels - levels.mean() for levels in small]
    scale = np.sqrt((off_HW[0] ** 2).sum() * (off_HW[1] ** 2).sum())
    return bool(scale) and float((off_HW[0] * off_HW[1]).sum() / scale) > _ALIKE


def shows_color(image: Image.Image) -> bool:
    """Whether an opened image has colours: not those of noise, nor of a few pixels. May decode in part."""
    if image.mode == "L":
        return False
    small = image.copy() if image.mode != "RGB" else image
    small.thumbnail(_THUMBNAIL, Image.Resampling.BOX)  # lets libjpeg decode at an eighth
    pixels_HWC = np.asarray(small.convert("RGB"), np.int16)
    spread_HW = pixels_HWC.max(axis=2) - pixels_HWC.min(axis=2)
    return float((spread_HW > _SPREAD).mean()) > _SHARE


def smaller(size: tuple[int, int], short: int | None) -> tuple[int, int] | None:
    """`size` with its short side scaled down to `short`; None if it is no longer than that."""
    width, height = size
    side = min(size)
    if short is None or side <= short:
        return None
    return (width * short + side // 2) // side, (height * short + side // 2) // side


def resize(image: Image.Image, size: tuple[int, int], mode: str) -> Image.Image:
    """An opened or normalised image at `size`, decoded no larger than about twice that."""
    width, height = size
    image.draft(None, (2 * width, 2 * height))  # only of a JPEG that is not loaded yet
    profile = image.info.get("icc_profile")
    image.load()
    image = image.convert(mode).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    image.info = {"icc_profile": profile} if profile and mode == "RGB" else {}
    return image


def encode(image: Image.Image, kind: Literal["jpeg", "png"], quality: int | None) -> bytes:
    """JPEG without chroma subsampling, since colour is what is learned from it, or PNG."""
    buffer = io.BytesIO()
    profile = image.info.get("icc_profile")
    if kind == "jpeg":
        image.save(
            buffer, "JPEG", quality=quality or DEFAULT_QUALITY, subsampling="4:4:4", icc_profile=profile
        )
    else:
        image.save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue()
