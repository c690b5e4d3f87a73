"""RGB and RGBA of 8 or 16 bits as TIFF, and of 16 bits as PNG, which Pillow cannot write.

TIFF 6.0 with Deflate strips (Pillow lays out the directories); PNG: https://www.w3.org/TR/png-3/.
Shape suffixes: H height, W width, C the channels: 3, or 4 with alpha.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .metadata import SUB_DIRECTORIES, Metadata, png_chunks, tiff_tags

Shape = tuple[int, int, int]  # H, W, C
_STRIP_BYTES = 1 << 20
_MOST_BYTES = (1 << 32) - (64 << 20)  # before a directory: a TIFF counts its bytes in 32 bits
_UP = b"\2"  # PNG's filter: the difference to the pixel above
_METRE, _INCH = 1 / 0.0254, 2
_TYPES = {270: 2, 700: 1, 33723: 7, 34377: 1}  # text, XMP, IPTC, Photoshop's resources
_OFFSETS, _LENGTHS = 273, 279  # tags of strips


class TiffWriter:
    """A little-endian TIFF, lossless, a page after the other; each directory stands behind its strips."""

    def __init__(self, file: BinaryIO):
        self._file, self._link = file, 4  # where the place of the next directory is to be written
        file.write(b"II*\0" + bytes(4))

    def add(
        self, shape: Shape, bands_HWC: Iterable[np.ndarray], *, profile: bytes | None, about: Metadata
    ) -> None:
        """A page; ValueError if the file becomes too long for a TIFF."""
        offsets, lengths, rows, bits = [], [], 0, 0
        height, width, channels = shape
        for strip in _strips(bands_HWC):
            packed = zlib.compress(strip.astype(strip.dtype.newbyteorder("<"), copy=False).tobytes())
            offsets.append(self._file.tell())
            lengths.append(self._file.write(packed))
            rows, bits = max(rows, len(strip)), 8 * strip.itemsize
            if self._file.tell() > _MOST_BYTES:
                raise ValueError("a TIFF has 4 GB at most; choose another --format")
        self._file.write(bytes(self._file.tell() % 2))
        place = self._file.tell()
        directory = _described(about)
        directory[256], directory[257] = width, height
        directory[258], directory[259], directory[262] = (bits,) * channels, 8, 2
        directory[_OFFSETS], directory[_LENGTHS] = (0,) * len(offsets), tuple(lengths)
        directory.tagtype[_OFFSETS] = directory.tagtype[_LENGTHS] = 4
        directory[277], directory[278], directory[284] = channels, rows, 1
        if channels == 4:
            directory[338] = 2  # alpha, not multiplied in
        if profile:
            directory[34675] = profile
            directory.tagtype[34675] = 7
        self._file.write(_with_offsets(directory.tobytes(place), place, offsets))
        self._file.seek(self._link)
        self._file.write(struct.pack("<I", place))
        self._file.seek(0, os.SEEK_END)
        self._link = place + 2 + 12 * len(directory)


def _strips(bands_HWC: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows of all bands in strips of equal height but for the last one."""
    rest = None
    for band in bands_HWC:
        band = band if rest is None else np.concatenate((rest, band))
        rows = max(1, _STRIP_BYTES // band[0].nbytes)
        for top in range(0, len(band) - rows + 1, rows):
            yield band[top : top + rows]
        rest = band[len(band) // rows * rows :]
    if rest is not None and len(rest):
        yield rest


def _described(about: Metadata) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2()
    if about.exif:
        described = Image.Exif()
        described.load(about.exif)
        for tag, value in described.items():
            inner = dict(described.get_ifd(tag)) if tag in SUB_DIRECTORIES else {}
            if ExifTags.IFD.Interop in inner:
                inner[ExifTags.IFD.Interop] = described.get_ifd(ExifTags.IFD.Interop)
            directory[tag] = inner if tag in SUB_DIRECTORIES else value
    for tag, data in tiff_tags(about).items():
        directory[tag] = data
        directory.tagtype[tag] = _TYPES[tag]
    if about.dpi:
        (directory[282], directory[283]), directory[296] = about.dpi, _INCH
    return directory


def _with_offsets(directory: bytes, place: int, offsets: list[int]) -> bytes:
    """The bytes of a directory at `place` with the offsets of its strips, which Pillow would move."""
    made = bytearray(directory)
    for at in range(2, 2 + 12 * struct.unpack_from("<H", made)[0], 12):
        tag, _, count, value = struct.unpack_from("<HHII", made, at)
        if tag == _OFFSETS:
            struct.pack_into(f"<{count}I", made, at + 8 if count == 1 else value - place, *offsets)
    return bytes(made)


def write_png16(
    file: BinaryIO, shape: Shape, bands_HWC: Iterable[np.ndarray], *, profile: bytes | None, about: Metadata
) -> None:
    """A PNG of 16 bits per channel."""
    height, width, channels = shape
    put = PngImagePlugin.putchunk
    file.write(b"\x89PNG\r\n\x1a\n")
    put(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 6 if channels == 4 else 2, 0, 0, 0))
    if profile:
        put(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if about.dpi:
        put(file, b"pHYs", struct.pack(">IIB", *(round(value * _METRE) for value in about.dpi), 1))
    if about.exif:
        put(file, b"eXIf", about.exif)
    for kind, data, _ in png_chunks(about).chunks:
        put(file, kind, data)
    packer, above = zlib.compressobj(), np.zeros(width * channels * 2, np.uint8)
    for band in bands_HWC:
        for row in band:
            line = row.astype(">u2").reshape(-1).view(np.uint8)
            if data := packer.compress(_UP + (line - above).tobytes()):
                put(file, b"IDAT", data)
            above = line
    put(file, b"IDAT", packer.flush())
    put(file, b"IEND", b"")
