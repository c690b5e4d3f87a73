"""A JPEG or PNG of which a part is missing, completed so that it decodes: what is there stays as it was.

ITU-T T.81, annex B; https://www.w3.org/TR/png-3/.
"""

import io
import struct
import zlib

import numpy as np
import simplejpeg
from PIL import Image

_END = b"\xff\xd9"
_NOISES = (b"\xb5\x6a\xd3\x9c" * 20, b"\x2d\x93\x4e\x71" * 20)  # decode to something, and not to the same
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 4096


def completed(data: bytes, max_pixels: int) -> tuple[bytes, str] | None:
    """Data that decodes to the whole size of a damaged file, and what is missing; None if nothing helps."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > max_pixels:
                return None
            progressive, is_png = bool(image.info.get("progressive")), image.format == "PNG"
        return _png(data) if is_png else _jpeg(data, progressive)
    except (
        Exception
    ):  # whatever a parser meets in foreign bytes; why the file cannot be read is known already
        return None


def _jpeg(data: bytes, progressive: bool) -> tuple[bytes, str]:
    start = data.removesuffix(_END).rstrip(b"\xff")
    if progressive:
        simplejpeg.decode_jpeg(start + _END, "GRAY", min_factor=1, strict=False)
        return start + _END, "its last scans are missing: details, or parts of the picture"
    # What follows the end changes whatever is missing, and nothing else.
    one, other = (simplejpeg.decode_jpeg(start + noise + _END, "GRAY", strict=False) for noise in _NOISES)
    changed = np.flatnonzero((one != other).any((1, 2)))
    what = _rows(int(changed[0]), len(one)) if len(changed) else "parts of it are damaged"
    return start + _END, what


def _png(data: bytes) -> tuple[bytes, str] | None:
    parts, packed, at, head = [_SIGNATURE], b"", len(_SIGNATURE), b""
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            packed += body
        elif len(data) >= at + 12 + length and not packed and kind != b"IEND":
            parts.append(data[at : at + 12 + length])
            head = body if kind == b"IHDR" else head
        at += 12 + length
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    bits = depth * _CHANNELS[color]
    passes = [
        ((width - x + right - 1) // right, (height - y + down - 1) // down)
        for x, y, right, down in (_PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    sizes = [rows * (1 + (columns * bits + 7) // 8) if columns else 0 for columns, rows in passes]
    raw = _unpacked(packed, sum(sizes))
    row = 1 + (width * bits + 7) // 8
    if interlaced:
        what = "its last passes are missing: details, or parts of the picture"
    else:
        raw, what = raw[: len(raw) // row * row], _rows(len(raw) // row, height)
    if len(raw) < row:
        return None
    parts += [_chunk(b"IDAT", zlib.compress(raw.ljust(sum(sizes), b"\0"), 1)), _chunk(b"IEND", b"")]
    return b"".join(parts), what


def _unpacked(packed: bytes, most: int) -> bytes:
    """What comes before the first damage, `most` bytes at most."""
    unpacker, raw = zlib.decompressobj(), bytearray()
    for at in range(0, len(packed), _PIECE):
        before = unpacker.copy()
        try:
            raw += unpacker.decompress(packed[at : at + _PIECE], most - len(raw) + 1)
        except zlib.error:
            for byte in packed[at : at + _PIECE]:
                try:
                    raw += before.decompress(bytes([byte]))
                except zlib.error:
                    break
            break
        if len(raw) > most:
            break
    return bytes(raw[:most])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _rows(there: int, height: int) -> str:
    if there >= height:
        return "its end is missing, though all rows are there"
    return f"{height - there} of {height} rows are missing"
