"""What a photo file says beside its pixels: EXIF, XMP, IPTC, comments, text, resolution.

All of it is kept where the format of the result has a place for it, and named where it has none. EXIF stays
byte for byte but for the entries about the old pixels; in a TIFF it is written anew, entry by entry.
"""

import re
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from streamgan.core.images import ORIENTATION, exif_bytes, exif_entries, upright_xmp, xmp_bytes

from .formats import FORMATS

SUB_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_IPTC_TAG, _PHOTOSHOP_TAG, _DESCRIPTION = 33723, 34377, 270
# What of a TIFF's own directory describes its old pixels and not the photo; profile and XMP go their own way.
_LAYOUT = {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325}
_LAYOUT |= {330, 338, 339, 347, 530, 531, 532, 700, _IPTC_TAG, _PHOTOSHOP_TAG, 34675, ORIENTATION}
_MAX_SEGMENT = 65533  # bytes in a segment of a JPEG
_XMP_NAME, _PHOTOSHOP_NAME = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_XMP_TEXT = "XML:com.adobe.xmp"
_READ_SEGMENTS = (b"JFIF\0", b"JFXX\0", b"Exif\0", b"http://ns.adobe.com/x", b"ICC_PROFILE\0", b"MPF\0")
_READ_SEGMENTS += (b"Photoshop 3.0\0", b"Adobe")
_THUMBNAILS, _RESOLUTION, _IPTC = (0x0409, 0x040C), 0x03ED, 0x0404  # Photoshop's resources
_RAW = "Raw profile type "  # text of a PNG that ImageMagick and ExifTool keep other formats' metadata in
_MAX_DPI, _UNKNOWN_DPI = 65535, (72.0, 72.0)  # what Pillow says of a JPEG with EXIF that does not say it


@dataclass(frozen=True)
class Metadata:
    """`photoshop` are its resources, of which IPTC is one; `text` that of a PNG; `dpi` across and down."""

    exif: bytes | None = None
    xmp: bytes | None = None
    photoshop: bytes | None = None
    comments: tuple[bytes, ...] = ()
    text: tuple[tuple[str, str], ...] = ()
    dpi: tuple[float, float] | None = None


def read_metadata(image: Image.Image) -> tuple[Metadata, list[str]]:
    """The metadata of a loaded image for pixels that are turned, and words for what of it is lost."""
    lost: list[str] = []
    segments: list[tuple[str, bytes]] = getattr(image, "applist", [])
    comments = [data for name, data in segments if name == "COM"]
    if not segments and isinstance(comment := image.info.get("comment"), bytes):
        comments = [comment]
    lost += sorted(
        {f"{name} data" for name, data in segments if name != "COM" and not data.startswith(_READ_SEGMENTS)}
    )
    xmp = xmp_bytes(image)
    if xmp and b"HasExtendedXMP" in xmp:
        lost.append("extended XMP")
    if _has_aspect(image):
        lost.append("pixels that are not square")
    found = Metadata(
        exif=_exif(image, lost),
        xmp=upright_xmp(xmp) if xmp else None,
        photoshop=_photoshop(image),
        comments=tuple(comments),
        text=tuple(_text(image)),
        dpi=_dpi(image),
    )
    return found, lost


def fit(found: Metadata, kind: str) -> tuple[Metadata, list[str]]:
    """What a file of `kind`, a key of formats.FORMATS, can hold of it, and words for the rest."""
    lost, empty, holds = [], Metadata(), FORMATS[kind].holds

    def drop(name: str, word: str) -> None:
        nonlocal found
        if getattr(found, name):
            lost.extend([word] if word else [])
            found = replace(found, **{name: getattr(empty, name)})

    if "text" not in holds and "comments" in holds:
        told = (f"{key}: {value}".encode() for key, value in found.text)
        found = replace(found, text=(), comments=(*found.comments, *told))
    for name, word in (
        ("text", f"text ({', '.join(key for key, _ in found.text)})"),
        ("comments", "comment"),
        ("photoshop", "IPTC or other Photoshop data"),
        ("exif", "EXIF"),
        ("xmp", "XMP"),
        ("dpi", "resolution" if found.dpi != _UNKNOWN_DPI else ""),
    ):
        if name not in holds:
            drop(name, word)
    if kind == "JPEG":
        for name, word, head in (
            ("exif", "EXIF", 6),
            ("xmp", "XMP", len(_XMP_NAME)),
            ("photoshop", "IPTC", 14),
        ):
            if (size := len(getattr(found, name) or b"")) + head > _MAX_SEGMENT:
                drop(name, f"{word} of {size} bytes")
        short = tuple(comment for comment in found.comments if len(comment) <= _MAX_SEGMENT)
        lost += ["comment, which is too long"] * (len(short) < len(found.comments))
        found = replace(found, comments=short)
    if kind == "PNG" and found.xmp and not _is_utf8(found.xmp):
        drop("xmp", "XMP")
    if kind == "TIFF" and found.exif:
        described = Image.Exif()
        described.load(found.exif)
        if _DESCRIPTION in described:
            drop("comments", "comment, beside its description")
        found = replace(found, exif=_written(described, lost))
    return found, lost


def jpeg_options(found: Metadata) -> dict[str, Any]:
    """For Pillow's save."""
    segments = [(0xFE, comment) for comment in found.comments]
    if found.photoshop:
        segments.append((0xED, _PHOTOSHOP_NAME + found.photoshop))
    extra = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
    return {**options(found), **({"extra": extra} if extra else {})}


def png_chunks(found: Metadata) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for key, value in found.text:
        chunks.add_text(key, value, zip=len(value) > 1000)
    for comment in found.comments:
        chunks.add_text("Comment", comment.decode("utf-8", "replace"))
    if found.photoshop:
        lines = "\n".join(re.findall(".{1,72}", found.photoshop.hex()))
        chunks.add_text(f"{_RAW}iptc", f"\niptc\n{len(found.photoshop):8}\n{lines}\n", zip=True)
    if found.xmp:
        chunks.add_itxt(_XMP_TEXT, found.xmp.decode())
    return chunks


def options(found: Metadata) -> dict[str, Any]:
    """What all formats of Pillow's call the same."""
    exif = b"Exif\0\0" + found.exif if found.exif else None
    given = {"exif": exif, "xmp": found.xmp, "dpi": found.dpi}
    return {key: value for key, value in given.items() if value}


def _exif(image: Image.Image, lost: list[str]) -> bytes | None:
    if hasattr(image, "tag_v2"):
        return _written(image.getexif(), lost)
    data = exif_bytes(image)
    if not data:
        return None
    try:
        order, place, entries = exif_entries(data)
        (count,) = struct.unpack_from(f"{order}H", data, place)
        if len(entries) < count:
            raise ValueError("it is cut")
    except ValueError as error:
        lost.append(f"EXIF, which is damaged ({error})")
        return None
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] not in _LAYOUT]
    if not kept:
        return None
    # no directory of a thumbnail follows, and the values stay where they are
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    end = place + 2 + 12 * count + 4
    return data[:place] + directory.ljust(end - place, b"\0") + data[end:]


def _written(exif: Image.Exif, lost: list[str]) -> bytes | None:
    """EXIF written anew, without what is true of the old pixels alone and what cannot be written."""
    kept = Image.Exif()
    for tag in exif:
        if tag in SUB_DIRECTORIES:
            inner = dict(exif.get_ifd(tag))
            if ExifTags.IFD.Interop in inner:
                inner[ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
            for one, value in inner.items():
                if _can_be_written(one, value):
                    kept.get_ifd(tag)[one] = value
                else:
                    lost.append(
                        _tag_name(one, ExifTags.GPSTAGS if tag == ExifTags.IFD.GPSInfo else ExifTags.TAGS)
                    )
        elif tag not in _LAYOUT:
            if _can_be_written(tag, exif[tag]):
                kept[tag] = exif[tag]
            else:
                lost.append(_tag_name(tag, ExifTags.TAGS))
    if not len(kept) and not any(kept.get_ifd(tag) for tag in SUB_DIRECTORIES):
        return None
    return kept.tobytes()[6:]


def _can_be_written(tag: int, value: Any) -> bool:
    probe = Image.Exif()
    probe[tag] = value
    try:
        probe.tobytes()
    except Exception:  # numbers that no field holds, types that no field has: Pillow's errors are many
        return False
    return True


def _tag_name(tag: int, names: dict[int, str]) -> str:
    return f"EXIF {names.get(tag, hex(tag))}"


def tiff_tags(found: Metadata) -> dict[int, bytes]:
    """What a TIFF has beside EXIF, by tag."""
    iptc = [data for code, data in _resources(found.photoshop or b"") if code == _IPTC]
    tags = {700: found.xmp, _PHOTOSHOP_TAG: found.photoshop, _IPTC_TAG: iptc[0] if iptc else None}
    return {tag: data for tag, data in tags.items() if data} | (
        {_DESCRIPTION: b"\n".join(found.comments)} if found.comments else {}
    )


def _photoshop(image: Image.Image) -> bytes | None:
    """Photoshop's resources, of which IPTC is one, without thumbnails and resolution."""
    found = [one for one in (image.info.get("photoshop") or {}).items() if isinstance(one[1], bytes)]
    iptc = b""
    if (tags := getattr(image, "tag_v2", None)) is not None:
        raw = tags._tagdata  # as values Pillow cuts what has another type than it expects
        found, iptc = _resources(raw.get(_PHOTOSHOP_TAG, b"")), raw.get(_IPTC_TAG, b"")
    for kind in ("8bim", "iptc"):
        if image.format == "PNG" and isinstance(text := image.info.get(_RAW + kind), str):
            with suppress(ValueError):
                data = bytes.fromhex("".join(text.split("\n")[3:]))
                found += _resources(data)
                iptc = b"" if data.startswith(b"8BIM") else data
    if iptc and all(code != _IPTC for code, _ in found):
        found.append((_IPTC, iptc))
    kept = {code: data for code, data in found if code not in (*_THUMBNAILS, _RESOLUTION)}
    made = (
        b"8BIM" + struct.pack(">HHI", code, 0, len(data)) + data + b"\0" * (len(data) % 2)
        for code, data in kept.items()
    )
    return b"".join(made) or None


def _resources(data: bytes) -> list[tuple[int, bytes]]:
    """(code, data) of each of Photoshop's resources, as far as they are whole."""
    found, at = [], 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        start = at + 6 + (data[at + 6] + 2) // 2 * 2  # behind its name, which is padded
        length = int.from_bytes(data[start : start + 4], "big")
        body = data[start + 4 : start + 4 + length]
        if len(body) == length:
            found.append((int.from_bytes(data[at + 4 : at + 6], "big"), body))
        at = start + 4 + length + length % 2
    return found


def _text(image: Image.Image) -> list[tuple[str, str]]:
    """Text of a PNG but for XMP and EXIF, which travel by themselves."""
    text: dict[str, str] = getattr(image, "text", {}) if image.format == "PNG" else {}
    apart = (_XMP_TEXT, *(_RAW + kind for kind in ("exif", "APP1", "8bim", "iptc")))
    return [(key, value) for key, value in text.items() if key not in apart]


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across <= _MAX_DPI and 0 < down <= _MAX_DPI else None


def _has_aspect(image: Image.Image) -> bool:
    """Whether the file gives its pixels a shape, and no resolution."""
    density = image.info.get("aspect")
    if image.info.get("jfif_unit") == 0:
        density = image.info.get("jfif_density")
    return bool(density) and density[0] != density[1]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
