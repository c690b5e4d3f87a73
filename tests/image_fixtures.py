"""Image files byte by byte: what Pillow reads and does not write."""

import struct
import zlib

import numpy as np

from parquet_fixtures import encode, picture  # isort: skip

LONG, SHORT, BYTE, ASCII, RATIONAL, SRATIONAL = 4, 3, 1, 2, 5, 10
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def tiff(
    data: bytes, size: tuple[int, int], *, bits: tuple[int, ...], photometric: int, order: str = "<",
    sample_format: int = 1, packed: bool = False, more: tuple[tuple[int, int, int], ...] = (),
) -> bytes:  # fmt: skip
    """A TIFF of one strip; `more` are (tag, type, value) of one number."""
    data = zlib.compress(data) if packed else data
    kinds = {BYTE: "B3x", SHORT: "H2x", LONG: "I"}
    fields = [(256, LONG, size[0]), (257, LONG, size[1]), (259, SHORT, 8 if packed else 1)]
    fields += [
        (262, SHORT, photometric),
        (277, SHORT, len(bits)),
        (278, LONG, size[1]),
        (279, LONG, len(data)),
    ]
    fields += [(339, SHORT, sample_format)] if len(bits) == 1 else []
    fields += [*more, (258, SHORT, bits), (273, LONG, None)]
    fields.sort(key=lambda field: field[0])
    extra_at = 8 + 2 + 12 * len(fields) + 4
    extra = struct.pack(f"{order}{len(bits)}H", *bits) if len(bits) > 1 else b""
    directory = struct.pack(f"{order}H", len(fields))
    for tag, kind, value in fields:
        if tag == 273:
            value = extra_at + len(extra)
        if tag == 258 and len(bits) > 1:
            directory += struct.pack(f"{order}HHII", tag, kind, len(bits), extra_at)
            continue
        value = value[0] if isinstance(value, tuple) else value
        directory += struct.pack(f"{order}HHI{kinds[kind]}", tag, kind, 1, value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + directory + bytes(4) + extra + data


def twelve_bits(levels_HW: np.ndarray) -> bytes:
    """Levels of 0 to 4095, two in three bytes."""
    first, second = levels_HW.reshape(-1, 2).astype(np.uint32).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF of (tag, type, count, value or offset as 4 bytes) entries."""
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return b"Exif\0\0" + head + struct.pack(f"{order}H", len(entries)) + body + bytes(4)


def turned(value: int = 6, *, kind: int = SHORT, order: str = "<", before=(), after=()) -> bytes:
    number = {BYTE: "B", SHORT: "H", LONG: "I"}[kind]
    return exif(*before, (0x0112, kind, 1, struct.pack(order + number, value)), *after, order=order)


def xmp(orientation: int = 6, *, quote: str = '"') -> bytes:
    return (
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
        "<rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' "
        "xmlns:dc='http://purl.org/dc/elements/1.1/' "
        f"dc:source='attic' tiff:Orientation={quote}{orientation}{quote}/></rdf:RDF></x:xmpmeta>"
    ).encode()


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with (marker, payload) segments behind its first two bytes."""
    made = b"".join(b"\xff" + struct.pack(">BH", marker, len(data) + 2) + data for marker, data in segments)
    return jpeg[:2] + made + jpeg[2:]


def chunk(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def with_chunks(png: bytes, *chunks: bytes, behind: bool = False) -> bytes:
    """A PNG with more chunks before its pixels, or behind them."""
    at = len(png) - 12 if behind else 33
    return png[:at] + b"".join(chunks) + png[at:]


def gray_png(levels_HW: np.ndarray, depth: int, *chunks: bytes) -> bytes:
    """A PNG of gray with 1, 2, 4, 8 or 16 bits; the width a whole number of bytes."""
    height, width = levels_HW.shape
    if depth == 16:
        rows = levels_HW.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        spread = (levels_HW[..., None].astype(np.uint8) >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(spread.reshape(height, -1), axis=1)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return PNG_SIGNATURE + head + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb(kind: bytes = b"zTXt") -> bytes:
    """A chunk of a few kilobytes that unpacks to three megabytes."""
    packed = zlib.compress(bytes(3 << 20))
    between = {b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0", b"iCCP": b"\0\0"}[kind]
    return chunk(kind, b"Comment" + between + packed)


PLAIN_PNG, PLAIN_JPEG = encode(picture(1), "PNG"), encode(picture(1))
# name -> a file whose pixels are to be turned by 90 degrees, whatever else is in it
TURNED = {
    "LONG": with_segments(PLAIN_JPEG, (0xE1, turned(kind=LONG))),
    "BYTE": with_segments(PLAIN_JPEG, (0xE1, turned(kind=BYTE))),
    "LONG, big-endian": with_segments(PLAIN_JPEG, (0xE1, turned(kind=LONG, order=">"))),
    "division by zero": with_segments(
        PLAIN_JPEG,
        (0xE1, turned(after=[(282, SRATIONAL, 1, struct.pack("<I", 38))]) + struct.pack("<ii", -1, 0)),
    ),
    "a number too large": with_segments(
        PLAIN_JPEG, (0xE1, turned(before=[(256, LONG, 1, b"\xff\xff\xff\xff")]))
    ),
    "a text without end": with_segments(
        PLAIN_JPEG, (0xE1, turned(before=[(270, ASCII, 1 << 31, struct.pack("<I", 60))]))
    ),
    "an unknown type": with_segments(PLAIN_JPEG, (0xE1, turned(before=[(271, 99, 1, b"abcd")]))),
    "a cut directory": with_segments(
        PLAIN_JPEG, (0xE1, turned().replace(struct.pack("<H", 1), struct.pack("<H", 500), 1))
    ),
    "two segments": with_segments(
        PLAIN_JPEG,
        (0xE1, turned(after=[(37500, 7, 90_000, struct.pack("<I", 38))]) + bytes(60_000)),
        (0xE1, b"Exif\0\0" + bytes(30_000)),
    ),
    "XMP": with_segments(PLAIN_JPEG, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp())),
    "XMP beside EXIF that does not say": with_segments(
        PLAIN_JPEG, (0xE1, turned(0)), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(quote="'"))
    ),
    "EXIF beside XMP that differs": with_segments(
        PLAIN_JPEG, (0xE1, turned()), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(3))
    ),
    "PNG": with_chunks(PLAIN_PNG, chunk(b"eXIf", turned()[6:])),
    "PNG, behind the pixels": with_chunks(PLAIN_PNG, chunk(b"eXIf", turned()[6:]), behind=True),
    "PNG, XMP": with_chunks(PLAIN_PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp())),
    "PNG, packed XMP behind the pixels": with_chunks(
        PLAIN_PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp())), behind=True
    ),
    "PNG, as ImageMagick": with_chunks(
        PLAIN_PNG,
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(turned()), turned().hex().encode())),
        ),
    ),
    "WebP": encode(picture(1), "WEBP", lossless=True, exif=turned(kind=BYTE)),
    "WebP, XMP": encode(picture(1), "WEBP", lossless=True, xmp=xmp()),
    "TIFF": tiff(
        picture(1).tobytes(), (24, 16), bits=(8, 8, 8), photometric=2, more=((0x0112, SHORT, 6),)
    ),
    "TIFF, BYTE": tiff(
        picture(1).tobytes(), (24, 16), bits=(8, 8, 8), photometric=2, more=((0x0112, BYTE, 6),)
    ),
}  # fmt: skip
