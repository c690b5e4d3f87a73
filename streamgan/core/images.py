"""What the pixels of an image file mean: their range, which end is white, what is transparent, what is up.

Pillow decodes; this is what it leaves to its callers. EXIF is read from its bytes, entry by entry: the image
is turned whatever else is wrong there.
"""

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_WHITE_IS_ZERO, _SIGNED = 0, 2
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i"}  # types of EXIF; SHORT is the right one
_BAND_PIXELS = 1 << 20
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>)\s*)(\d+)""")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnknownRange(ValueError):
    """Pixels that are numbers of which nobody tells what is black and what is white; `kind` in a word."""

    def __init__(self, kind: str):
        super().__init__(f"pixels are {kind} numbers, whose range nobody tells; save 8 or 16 bits")
        self.kind = kind


class Plain(NamedTuple):
    """Pixels of mode L, I;16, RGB, CMYK or LAB; alpha of mode L, None where the format has none."""

    image: Image.Image
    alpha: Image.Image | None


def plain(image: Image.Image) -> Plain:
    """The upright pixels of an opened image, which is loaded by this.

    UnknownRange if they cannot be understood.
    """
    stored, turn = as_stored(image)
    if turn not in _TURNS:
        return stored
    upright = stored.image.transpose(_TURNS[turn])
    return Plain(upright, stored.alpha.transpose(_TURNS[turn]) if stored.alpha else None)


def as_stored(image: Image.Image) -> tuple[Plain, int]:
    """As `plain`, but not turned yet, and how they must be turned, 1 to 8: see `turned`."""
    _refuse_unknown_range(image)
    depth, tags = bits(image), getattr(image, "tag_v2", {})
    white_is_zero = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if hasattr(image, "tag_v2"):  # Pillow turns a TIFF itself, if the tag has its right type
        turn = orientation(image) if isinstance(tags.get(ORIENTATION), bytes) else 1
        image.load()
    else:
        image.load()  # in a PNG EXIF may stand behind the pixels
        turn = orientation(image)
    image, alpha = _without_alpha(image, depth)
    if image.mode.startswith("I"):

        def sixteen(band: Image.Image) -> np.ndarray:
            levels = np.asarray(band).clip(0, 65535).astype(np.uint32)
            if depth < 16:
                levels = (levels * 65535 + (1 << depth - 1)) // ((1 << depth) - 1)
            return (65535 - levels if white_is_zero else levels).astype(np.uint16)

        if image.mode != "I;16" or depth < 16 or white_is_zero:
            image = Image.fromarray(by_bands(image, sixteen))
    return Plain(image, alpha), turn


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """A view of pixels (H, W, ...) that is turned as EXIF says, 1 to 8."""
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1]


def by_bands(image: Image.Image, convert: Callable[[Image.Image], Any] = np.asarray) -> np.ndarray:
    """`convert`, which looks at single pixels, of a whole image; takes memory for the result alone."""
    rows = max(1, _BAND_PIXELS // image.width)
    result = np.empty(0)
    for top in range(0, image.height, rows):
        end = min(top + rows, image.height)
        band = np.asarray(convert(image.crop((0, top, image.width, end))))
        if not top:
            result = np.empty((image.height, *band.shape[1:]), band.dtype)
        result[top:end] = band
    return result


def bits(image: Image.Image) -> int:
    """Bits per channel in the file of an opened image that is not loaded yet."""
    if (tags := getattr(image, "tag_v2", None)) is not None:
        return max(tags.get(_BITS, (1,)))
    if image.format == "PNG" and (tile := getattr(image, "tile", None)):
        depth = re.search(r"\d+", str(tile[0][3]))  # of a mode as "L;4", "RGB;16B", "1"
        return int(depth[0]) if depth else 8
    return 16 if image.mode.startswith("I") else 8


def orientation(image: Image.Image) -> int:
    """How the pixels must be turned, 1 to 8, by EXIF or else by XMP; 1 where neither says it.

    Of a TIFF before it is loaded, of a PNG afterwards.
    """
    if (tags := getattr(image, "tag_v2", None)) is not None and ORIENTATION in tags:
        value: Any = tags[ORIENTATION]
        found = next(iter(value), 1) if isinstance(value, bytes) else value
    else:
        found = _exif_orientation(exif_bytes(image) or b"")
        if found not in range(1, 9) and (match := _XMP_ORIENTATION.search(xmp_bytes(image) or b"")):
            found = int(match[2])
    return found if found and found in range(1, 9) else 1


def exif_bytes(image: Image.Image) -> bytes | None:
    """EXIF as a TIFF without pixels, of any format but TIFF itself; ImageMagick's form in PNG text too."""
    data = image.info.get("exif")
    for kind in ("exif", "APP1"):
        text = image.info.get(f"Raw profile type {kind}")
        if data is None and isinstance(text, str):
            with suppress(ValueError):
                data = bytes.fromhex("".join(text.split("\n")[3:]))
    if not data or not isinstance(data, bytes):
        return None
    return re.sub(rb"\A(Exif\0\0)+", b"", data)


def xmp_bytes(image: Image.Image) -> bytes | None:
    data = image.info.get("xmp")
    return data if isinstance(data, bytes) else None


def upright_xmp(xmp: bytes) -> bytes:
    """XMP that says of the turned pixels that they are upright."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def exif_entries(exif: bytes) -> tuple[str, int, list[bytes]]:
    """(byte order as in `struct`, place, entries of 12 bytes) of the first directory; ValueError without one.

    The entries are those that are there: of a cut directory less than it says.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            raise ValueError("no byte order")
        (place,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, place)
    except struct.error as error:
        raise ValueError("no directory") from error
    entries = (exif[at : at + 12] for at in range(place + 2, place + 2 + 12 * count, 12))
    return order, place, [entry for entry in entries if len(entry) == 12]


def _exif_orientation(exif: bytes) -> int | None:
    """Also where its type is another one than it should be: viewers take any whole number."""
    with suppress(ValueError):
        order, _, entries = exif_entries(exif)
        for entry in entries:
            tag, kind = struct.unpack_from(f"{order}HH", entry)
            if tag == ORIENTATION and kind in _INTEGERS:
                return struct.unpack_from(order + _INTEGERS[kind], entry, 8)[0]
    return None


def _refuse_unknown_range(image: Image.Image) -> None:
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        raise UnknownRange("floating point")
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and image.mode != "LAB":
        raise UnknownRange("signed")
    if image.mode == "I" and tags:
        raise UnknownRange("32-bit")


def _without_alpha(image: Image.Image, depth: int) -> tuple[Image.Image, Image.Image | None]:
    key, alpha = image.info.get("transparency"), None
    if image.mode in ("P", "PA"):
        image = image.convert("RGB" if image.mode == "P" and key is None else "RGBA")
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode[:-1] + "A")
    elif key is not None and (image.mode in ("1", "L", "RGB") or image.mode.startswith("I")):
        alpha = Image.fromarray(np.where(_is_key(image, key, depth), 0, 255).astype(np.uint8))
    if image.mode in ("LA", "RGBA"):
        image, alpha = image.convert(image.mode[:-1]), image.getchannel("A")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    return image, alpha


def _is_key(image: Image.Image, key: Any, depth: int) -> np.ndarray:
    """Where the pixels have the one colour of a PNG's tRNS, which is given in the depth of the file."""
    if image.mode == "RGB":
        wanted = np.array(key) >> (8 if depth == 16 else 0)  # Pillow has the upper bytes alone
        return (np.asarray(image) == wanted).all(axis=2)
    if image.mode == "L" and depth < 8:
        key = key * 255 // ((1 << depth) - 1)  # as Pillow spreads the levels
    return np.asarray(image.convert("L") if image.mode == "1" else image) == key
