"""PNG files without what Pillow refuses to read though the picture is whole: damaged or exploding metadata.

Pixels and all other chunks stay as they are. https://www.w3.org/TR/png-3/
"""

import io
import struct
import zlib
from typing import BinaryIO

from PIL import PngImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # ancillary by name, and yet of the picture
_LEAST_BYTES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}  # that Pillow asks of a chunk
_MOST_READ = 64 << 20  # bytes of a chunk; the rest of Pillow's limits are its own


def readable_png(file: BinaryIO) -> tuple[BinaryIO, tuple[str, ...]]:
    """A file that starts a PNG, without the chunks that Pillow refuses, and their names.

    The file itself, at its beginning, if there are none; or if it is no PNG.
    """
    bad = _bad_chunks(file) if file.read(len(_SIGNATURE)) == _SIGNATURE else []
    file.seek(0)
    if not bad:
        return file, ()
    data, parts, at = file.read(), [], 0
    for begin, end, _ in bad:
        parts.append(data[at:begin])
        at = end
    return io.BytesIO(b"".join((*parts, data[at:]))), tuple(dict.fromkeys(name for *_, name in bad))


def _bad_chunks(file: BinaryIO) -> list[tuple[int, int, str]]:
    """(begin, end, name) of each, in their order."""
    bad, at, text = [], len(_SIGNATURE), 0
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        end = at + length + 12
        if kind[:1].islower() and kind not in _PIXELS:
            if length > _MOST_READ:
                size = None
            else:
                body = file.read(length)
                if len(body) < length:
                    break  # cut; Pillow says so
                crc = int.from_bytes(file.read(4), "big")
                size = _size(kind, body) if zlib.crc32(body, zlib.crc32(kind)) == crc else None
            text += size or 0
            if size is None or text > PngImagePlugin.MAX_TEXT_MEMORY:
                bad.append((at, end, kind.decode("latin-1")))
        elif kind == b"IEND":
            break
        file.seek(end)
        at = end
    return bad


def _size(kind: bytes, body: bytes) -> int | None:
    """Bytes that a metadata chunk comes to, unpacked; None if it cannot be read."""
    if len(body) < _LEAST_BYTES.get(kind, 0):
        return None
    if kind in (b"zTXt", b"iCCP"):
        _, _, packed = body.partition(b"\0")
        return _unpacked(packed[1:]) if packed[:1] == b"\0" else None
    if kind == b"iTXt":
        _, _, rest = body.partition(b"\0")
        if rest[:1] == b"\1":
            *_, packed = rest[2:].split(b"\0", 2)
            return _unpacked(packed) if rest[1:2] == b"\0" else None
    return len(body)


def _unpacked(packed: bytes) -> int | None:
    limit = PngImagePlugin.MAX_TEXT_CHUNK
    try:
        size = len(zlib.decompressobj().decompress(packed, limit + 1))
    except zlib.error:
        return None
    return size if size <= limit else None
