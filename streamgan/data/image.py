"""An encoded image -> its pixels, or why it has none: the one judgement of checks, training and evaluation.

JPEG is decoded by libjpeg-turbo (simplejpeg), with DCT scaling. It warns of two kinds of things: of what
changes no pixel (bytes before a marker, an incomplete colour profile, a revision nobody knows), and of what
is missing from a scan, where it makes up gray. The first is tolerated, the second is no image. A JPEG without
warnings is decoded once; only the others are looked at closely. Everything else goes through Pillow.
"""

import io
from mmap import mmap
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from .jpeg import plainer, with_noise

Mode = Literal["RGB", "BGR", "L", "CMYK"]
PIL_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF"}  # by the suffix of a member
MAX_PIXELS = 200_000_000  # refuse decompression bombs before decoding

_COLORSPACES = {"RGB": "RGB", "BGR": "BGR", "L": "GRAY", "CMYK": "CMYK"}
_PNG_MAGIC, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_HARMLESS = " extraneous bytes before marker "
_INCOMPLETE = ("remature end", "instead of RST")  # of a message of libjpeg


HEADER, PIXELS = "its header cannot be read", "its pixels cannot be read"


class BadImage(ValueError):
    """Why an image does not decode; `reason` is the word of the quarantine."""

    def __init__(self, reason: Literal["truncated", "damaged", "too_many_pixels"], what: str):
        super().__init__(reason, what)
        self.reason, self.what = reason, what

    def __str__(self) -> str:
        return self.what


def damage(error: BaseException) -> str:
    """What Pillow or simplejpeg could not read; their own words name classes and functions."""
    no_header = isinstance(error, UnidentifiedImageError) or "DecompressHeader" in str(error)
    return HEADER if no_header else PIXELS


def to_pixels(
    data: bytes, mode: Mode, *, short: int, max_pixels: int | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """uint8 (H, W, 3) for RGB, (H, W, 1) for L; BadImage if it does not decode in full. CMYK: JPEG only.

    A JPEG comes as small as its short side still has `short` pixels, and in the memory of `out` if it has
    this shape then. `max_pixels`: None for MAX_PIXELS.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    if data[:2] == b"\xff\xd8":
        return _jpeg(data, _Wanted(mode, short, max_pixels, out))
    if is_cut(data):
        raise BadImage("truncated", "cut short")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "TIFF")) as image:
            _check_pixels(*image.size, max_pixels)
            pixels = np.asarray(image.convert("RGB" if mode == "BGR" else mode))
    except (MemoryError, BadImage):
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", "too many pixels") from error
    except Exception as error:  # PIL raises half a dozen unrelated types
        raise BadImage("damaged", damage(error)) from error
    return pixels[:, :, None] if mode == "L" else pixels[:, :, ::-1] if mode == "BGR" else pixels


def is_cut(data: bytes | mmap) -> bool:
    """Whether the end of a PNG or WebP is missing. Bytes after the end are common and harmless."""
    if data[: len(_PNG_MAGIC)] == _PNG_MAGIC:
        return data.rfind(_PNG_END) < 0
    return data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)


class _Wanted(NamedTuple):
    mode: Mode
    short: float
    max_pixels: int
    out: np.ndarray | None


def _jpeg(data: bytes, wanted: _Wanted) -> np.ndarray:
    try:
        return _decode(data, wanted)
    except BadImage:
        raise
    except ValueError:
        plain = plainer(data)
    if plain is None:
        cut = data.rfind(b"\xff\xd9") < 0
        raise BadImage("truncated", "a JPEG without its end") if cut else BadImage("damaged", "no whole JPEG")
    try:
        return _decode(plain, wanted)
    except BadImage:
        raise
    except ValueError as error:
        message = str(error)
        if _HARMLESS not in message:
            cut = any(words in message for words in _INCOMPLETE)
            what = HEADER if damage(error) == HEADER else message
            raise BadImage("truncated" if cut else "damaged", what) from error
        if not _is_complete(plain, "CMYK" if wanted.mode == "CMYK" else "RGB"):
            raise BadImage("truncated", "part of the picture is missing") from error
    return _decode(plain, wanted, strict=False)


def _decode(data: bytes, wanted: _Wanted, *, strict: bool = True) -> np.ndarray:
    height, width = (int(side) for side in simplejpeg.decode_jpeg_header(data, strict=strict)[:2])
    _check_pixels(width, height, wanted.max_pixels)
    scale, out = wanted.short / min(height, width), wanted.out
    min_height, min_width = (min(side, round(side * scale)) for side in (height, width))
    # min_factor 1 lets libjpeg choose the smallest n/8 scale whose result, rounded up, covers what is wanted.
    eighths = max(8 * (min_height - 1) // height, 8 * (min_width - 1) // width) + 1
    fits = out is not None and out.shape[:2] == (-(-height * eighths // 8), -(-width * eighths // 8))
    return simplejpeg.decode_jpeg(
        data,
        colorspace=_COLORSPACES[wanted.mode],
        min_height=min_height,
        min_width=min_width,
        min_factor=1,
        buffer=out if fits else None,
        strict=strict,
    )


def _is_complete(plain: bytes, mode: Mode) -> bool:
    """Whether nothing is missing behind the first, harmless warning: see `with_noise`."""
    noisy = with_noise(plain)
    if noisy is None:
        return False
    ours, theirs = (simplejpeg.decode_jpeg(one, _COLORSPACES[mode], strict=False) for one in (plain, noisy))
    return np.array_equal(ours, theirs)


def _check_pixels(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise BadImage("too_many_pixels", f"{width} x {height} pixels, over the cap of {most}")
