"""Whether a row is fit for training, and why not. Reasons are stable words: they are counted in the manifest.

An image that any reader can use is left as it is. One that some readers would see differently (turned by
EXIF, palette, CMYK, 16 bits, TIFF) comes back with its pixels made plain, to be encoded again; the table is
in shards/README.md. Details never quote a library's message: those may hold addresses or change between
releases, and the list of bad rows is part of the set's digest.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from PIL import Image

from streamgan.core.images import bits, orientation
from streamgan.core.png import readable_png
from streamgan.data.image import HEADER, BadImage, damage, is_cut, to_pixels
from streamgan.sharding.source.rows import Cell, Data

from .jpeg import plain_size
from .pixels import Unusable, changes_of_mode, look_alike, normalise, open_image, shows_color

Check = Literal["decode", "header", "none"]
Role = Literal["color", "gray"]

# PIL refuses to open anything larger, as a guard against decompression bombs
PIXEL_LIMIT = 178_956_970
BYTE_LIMIT = 2**32 - 1  # of an image: the packed index has 32 bits for it
_OTHER_IMAGES = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
}
_MAGIC_BYTES = 12  # of any format
_JPEG_END = b"\xff\xd9"
_TURNING = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")  # in a PNG, behind its pixels too
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}  # JPEG markers that stand alone (ITU-T T.81, B.1.1.3)


class BadRow(Exception):
    """A row that goes to quarantine."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Checked(NamedTuple):
    """An image fit for a shard. `extension` says what the bytes are; the size is None if nobody looked.

    `pixels` stand in the place of `data` where `changes` says that those cannot be used; `size` is theirs.
    """

    data: Data
    extension: str
    size: tuple[int, int] | None
    orientation: int = 1
    changes: tuple[str, ...] = ()
    pixels: Image.Image | None = None
    one_channel: bool = False  # and certainly gray; a JPEG that PIL has not looked at


def check_image(cell: Cell, role: Role, *, check: Check, max_pixels: int) -> Checked:
    """The image in `cell`, or BadRow. `header` looks at all but the pixels, `none` at the magic."""
    try:
        data = _bytes(cell)
        extension = _extension(bytes(data[:_MAGIC_BYTES]))
        if check == "none" and extension != "tif":
            return Checked(data, extension, None)
        return _inspect(data, extension, role, check == "decode", max_pixels)
    except BadRow as bad:
        if role == "gray":
            raise BadRow(f"gray_{bad.reason}", bad.detail) from bad
        raise


def check_pair(color: Checked, gray: Checked, *, look: bool) -> None:
    """BadRow unless both have one size and are turned alike; `look`: and the twin is gray."""
    if color.size and gray.size and color.size != gray.size:
        sizes = "{}x{} colour, {}x{} gray".format(*color.size, *gray.size)
        raise BadRow("gray_size_differs", sizes)
    # a twin that was made from unturned pixels without its EXIF tag: only one of them would be turned. One of
    # turned pixels needs no tag
    if color.orientation != gray.orientation and not look_alike(
        _pixels(color, "color"), _pixels(gray, "gray")
    ):
        raise BadRow("gray_orientation_differs", f"{color.orientation} colour, {gray.orientation} gray")
    if look and _is_color(gray):
        raise BadRow("gray_is_color")


def _pixels(checked: Checked, role: Role) -> Image.Image:
    """Upright; BadRow if they are damaged."""
    if checked.pixels:
        return checked.pixels
    with _opened(checked, role) as image:
        return normalise(image)


def _is_color(gray: Checked) -> bool:
    if gray.one_channel:
        return False
    if gray.pixels:
        return shows_color(gray.pixels.copy())
    with _opened(gray, "gray") as image:
        return shows_color(image)


@contextmanager
def _opened(checked: Checked, role: Role) -> Iterator[Image.Image]:
    """The image, to be decoded in the block; BadRow if that cannot be done."""
    try:
        with open_image(checked.data, checked.extension) as image:
            yield image
    except MemoryError:
        raise
    except Exception as error:
        raise BadRow("gray_damaged" if role == "gray" else "damaged", damage(error)) from error


def check_text(text: bytes | None) -> str | None:
    """The caption as a string, or BadRow."""
    try:
        return None if text is None else text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow("text_not_utf8", f"byte {error.start}") from None


def _bytes(cell: Cell) -> Data:
    if cell.data is None:
        if cell.path:
            raise BadRow("only_a_path", cell.path)
        raise BadRow("missing")
    if not cell.data:
        raise BadRow("empty")
    if len(cell.data) > BYTE_LIMIT:
        raise BadRow("too_many_bytes", str(len(cell.data)))
    return cell.data


def _extension(data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "tif"
    for magic, name in _OTHER_IMAGES.items():
        if data.startswith(magic):
            raise BadRow("unsupported_format", name)
    if data[4:8] == b"ftyp":
        raise BadRow("unsupported_format", data[8:12].decode("ascii", "replace"))
    raise BadRow("not_an_image", f"starts with {data[:8].hex()}")


def look_at_pixels(data: bytes, role: Role, mode: str = "") -> None:
    """BadRow if training would refuse the pixels. To be asked before others are made of them."""
    try:
        to_pixels(data, "CMYK" if mode == "CMYK" else "L" if role == "gray" else "RGB", short=1)
    except BadImage as bad:
        details = {"truncated": f"{len(data)} bytes", "damaged": damage(bad.__cause__ or bad)}
        raise BadRow(bad.reason, details.get(bad.reason, bad.what)) from bad


def _inspect(data: Data, extension: str, role: Role, decode: bool, max_pixels: int) -> Checked:
    plain = plain_size(data) if extension == "jpg" and not decode else None
    if not plain or data[-2:] != _JPEG_END:
        data = bytes(data)
        if data.rfind(_JPEG_END, plain[3]) < 0 if plain else _is_cut(data, extension):
            raise BadRow("truncated", f"{len(data)} bytes")
    if plain and plain[0] * plain[1] <= PIXEL_LIMIT:
        width, height, channels, _ = plain
        if width * height > max_pixels:
            raise BadRow("too_many_pixels", f"{width}x{height}")
        return Checked(data, extension, (width, height), one_channel=channels == 1)
    data = bytes(data)
    unread: tuple[str, ...] = ()
    if extension == "png":
        file, unread = readable_png(io.BytesIO(data))
        data = file.read() if unread else data
    try:
        image = open_image(data, extension)
    except Image.DecompressionBombError:
        raise BadRow("too_many_pixels", f"more than {PIXEL_LIMIT}") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL raises half a dozen unrelated types for a malformed header
        raise BadRow("damaged", HEADER) from error
    with image:
        if image.width * image.height > max_pixels:
            raise BadRow("too_many_pixels", f"{image.width}x{image.height}")
        try:
            # a JPEG with several pictures (MPO, from phones) reads as its first everywhere
            if getattr(image, "is_animated", False) and extension != "jpg":
                raise BadRow("animated")
            # the same for both roles: a gray twin may be stored as RGB, a photo may be gray
            modes = changes_of_mode(image, deep=bits(image) > 8)
            turn = _orientation(image, data)
            names = ("tiff" if extension == "tif" else None, *modes, "orientation" if turn > 1 else None)
            changes = tuple(name for name in names if name)
            dropped = ("metadata",) if unread else ()
            found = Checked(data, extension, image.size, turn, (*changes, *dropped))
            if extension == "jpg" if changes else decode:  # PIL overlooks gaps in a JPEG
                look_at_pixels(data, role, image.mode)
            if changes:
                pixels = normalise(image)
                return found._replace(size=pixels.size, pixels=pixels)
            return found
        except Unusable as unusable:
            raise BadRow(*unusable.args) from unusable
        except (MemoryError, BadRow):
            raise
        except Exception as error:
            raise BadRow("damaged", damage(error)) from error


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format != "PNG" or not any(name in data for name in _TURNING):
        return orientation(image)
    with open_image(data, "png") as whole:  # another one: `image` is not to be loaded unless it must be
        whole.load()
        return orientation(whole)


def _is_cut(data: bytes, extension: str) -> bool:
    """Whether the end of the image is missing. Bytes after the end are common and harmless."""
    if extension != "jpg":
        return is_cut(data)
    # inside a scan 0xff is always followed by 0, so an end marker behind the first scan is one; a thumbnail
    # in the EXIF segment has its own end marker, therefore not from the start of the file
    return data.rfind(_JPEG_END, _first_scan(data)) < 0


def _first_scan(data: bytes) -> int:
    """Where the first scan of a JPEG begins (its SOS marker); the end of the data if it is not reached."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return 0  # not a segment: broken, but not short; PIL has the last word
        marker = data[at + 1]
        if marker == 0xDA:
            return at
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return len(data)
