"""Whether a large photo fits into the free memory: said before it is decoded, not by the system's kill."""

from PIL import Image

from streamgan.core.machine import available_memory

from .formats import FORMATS

_ROOM = 64 << 20  # pixels that are not asked about
_STREAMED = ("TIFF", "PPM")  # written in bands
# Bytes per pixel and channel that codecs hold beside the pixels, measured with Pillow 13; HEIF taken as AVIF.
_READING = {"JPEG2000": 4, "WEBP": 3, "AVIF": 1, "HEIF": 1}
_WRITING = {"JPEG2000": 13, "WEBP": 5, "AVIF": 12, "HEIF": 12}
_PROGRESSIVE = 2  # coefficients of a JPEG without subsampling


def check_memory(image: Image.Image, kind: str) -> None:
    """ValueError if an opened image, not decoded yet, cannot become a result of `kind` in the free memory."""
    pixels, free = image.width * image.height, available_memory()
    needed = pixels * bytes_per_pixel(image, kind)
    if pixels > _ROOM and free is not None and needed > free:
        size = f"{image.width} x {image.height} pixels need about {needed / 1e9:.1f} GB of memory"
        advice = "" if kind in _STREAMED else "; --format tiff may need less"
        raise ValueError(f"{size} (got {free / 1e9:.1f} GB that are free){advice}")


def bytes_per_pixel(image: Image.Image, kind: str) -> int:
    """At most at a time: as Pillow decodes it and as an array, or as an array and as Pillow encodes it."""
    deep = image.mode.startswith("I")
    decoded, array = (1, 1) if image.mode in ("1", "L") else (2, 2) if deep else (4, 3)
    channels = 1 if decoded < 4 else 3
    reading = _READING.get(image.format or "", 0) * channels
    reading += _PROGRESSIVE * channels * bool(image.info.get("progressive"))
    streamed = kind in _STREAMED or (kind == "PNG" and deep)
    writing = 0 if streamed else 4 + 3 * _WRITING.get(FORMATS[kind].pillow, 0)
    return array + max(decoded + reading, writing)
