"""The formats of photos: the endings they have, which format a result has, and what each of them can hold."""

import functools
import os
from pathlib import Path
from typing import NamedTuple

from PIL import Image, features

PROFILE_EXIF_XMP = frozenset({"profile", "exif", "xmp"})


class Format(NamedTuple):
    """A format that results can have, by Pillow's name of it and its endings, the usual one first.

    `holds`: "alpha", "deep" (16 bits per channel), "pages" (of their own) or "frames" (of an animation),
    "profile", and fields of `metadata.Metadata`.
    """

    pillow: str
    endings: tuple[str, ...]
    holds: frozenset[str] = frozenset()
    lossy: bool = False  # has a quality
    max_side: int = 1 << 31


FORMATS = {
    "JPEG": Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        PROFILE_EXIF_XMP | {"photoshop", "comments", "dpi"},
        lossy=True,
        max_side=65_500,
    ),
    "PNG": Format(
        "PNG",
        (".png",),
        PROFILE_EXIF_XMP | {"alpha", "deep", "frames", "photoshop", "comments", "text", "dpi"},
    ),
    "TIFF": Format(
        "TIFF",
        (".tif", ".tiff"),
        PROFILE_EXIF_XMP | {"alpha", "deep", "pages", "photoshop", "comments", "dpi"},
    ),
    "WEBP": Format("WEBP", (".webp",), PROFILE_EXIF_XMP | {"alpha", "frames"}, lossy=True, max_side=16_383),
    "AVIF": Format("AVIF", (".avif",), PROFILE_EXIF_XMP | {"alpha", "frames"}, lossy=True, max_side=65_536),
    "HEIF": Format("HEIF", (".heic", ".heif"), PROFILE_EXIF_XMP | {"alpha"}, lossy=True, max_side=16_384),
    "JP2": Format("JPEG2000", (".jp2", ".jpx", ".jpf"), frozenset({"alpha", "comments"})),
    "J2K": Format("JPEG2000", (".j2k", ".j2c", ".jpc"), frozenset({"alpha", "comments"})),
    "BMP": Format("BMP", (".bmp",), frozenset({"dpi"})),
    "DIB": Format("DIB", (".dib",), frozenset({"dpi"})),
    "PPM": Format("PPM", (".ppm", ".pnm"), frozenset({"deep"})),
    "TGA": Format("TGA", (".tga",), frozenset({"alpha"}), max_side=65_535),
    "PCX": Format("PCX", (".pcx",), max_side=65_535),
}
# Gray and palettes alone, which have no place for a photo in colour: the results have another ending.
_CHANGED = {".gif": "PNG", ".pgm": "PPM", ".pbm": "PPM"}
# The format of a result by the ending of its source.
ENDINGS = {ending: name for name, one in FORMATS.items() for ending in one.endings} | _CHANGED

# What a photo may be, whatever its name says: of the others Pillow has some that start programs (EPS).
_READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
_BY_ENDING = {".tga": "TGA", ".pcx": "PCX"}  # too little of a mark to be known without their ending
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def result_name(name: str, *, wanted: str | None = None, suffix: str = "") -> str:
    """What the result of a photo called `name` is called.

    `wanted` is the format of every result, `suffix` stands before the ending. A name without an ending of
    ENDINGS gets one.
    """
    stem, ending = os.path.splitext(name)
    kind = ENDINGS.get(ending.lower())
    if kind is None:
        stem, ending = name, ""
    kind = wanted or kind or "PNG"
    endings = FORMATS[kind].endings
    return f"{stem}{suffix}{ending if ending.lower() in endings else endings[0]}"


def readable(path: Path) -> tuple[str, ...]:
    """Pillow's names of what the photo at `path` may be."""
    own = _BY_ENDING.get(path.suffix.lower())
    return (*_READABLE, *(("HEIF",) if _opens_heif() else ()), *((own,) if own else ()))


def missing(path: Path) -> str:
    """What has to be installed to read the photo at `path`; "" if that would not help."""
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] == b"avif" and not features.check("avif"):
        return "AVIF needs Pillow 11.3 or newer; pip install --upgrade pillow"
    if head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS and not _opens_heif():
        return "HEIC needs pillow-heif; pip install 'streamgan[heic]'"
    return ""


@functools.cache
def _opens_heif() -> bool:
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return "HEIF" in Image.OPEN
