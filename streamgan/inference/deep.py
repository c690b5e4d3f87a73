"""RGB and RGBA of 8 or 16 bits as TIFF, and of 16 bits as PNG, which Pillow cannot write.

TIFF 6.0 with Deflate strips (Pillow lays out the directories); PNG: https://www.w3.org/TR/png-3/.
Shape suffixes: H height, W width, C the channels: 3, or 4 with alpha.
"""

import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .metadata import SUB_DIRECTORIES, Metadata, png_chunks

_STRIP_BYTES = 1 << 20
_UP = b"\2"  # PNG's filter: the difference to the pixel above
_METRE, _INCH = 1 / 0.0254, 2


def write_tiff(file: BinaryIO, pixels_HWC: np.ndarray, *, profile: bytes | None, about: Metadata) -> None:
    """A little-endian TIFF with one image, lossless."""
    height, width, channels = pixels_HWC.shape
    flat = np.ascontiguousarray(pixels_HWC).astype(pixels_HWC.dtype.newbyteorder("<"), copy=False)
    rows = max(1, _STRIP_BYTES // (width * channels * flat.itemsize))
    strips = [zlib.compress(flat[top : top + rows].tobytes()) for top in range(0, height, rows)]
    directory = ImageFileDirectory_v2()
    if about.exif:
        described = Image.Exif()
        described.load(about.exif)
        for tag, value in described.items():
            inner = dict(described.get_ifd(tag)) if tag in SUB_DIRECTORIES else {}
            if ExifTags.IFD.Interop in inner:
                inner[ExifTags.IFD.Interop] = described.get_ifd(ExifTags.IFD.Interop)
            directory[tag] = inner if tag in SUB_DIRECTORIES else value
    directory[256], directory[257] = width, height
    directory[258], directory[259], directory[262] = (8 * flat.itemsize,) * channels, 8, 2
    lengths = [len(strip) for strip in strips]
    directory[273], directory[279] = tuple(np.cumsum([0, *lengths[:-1]]).tolist()), tuple(lengths)
    directory.tagtype[273] = directory.tagtype[279] = 4
    directory[277], directory[278], directory[284] = channels, rows, 1
    if channels == 4:
        directory[338] = 2  # alpha, not multiplied in
    if profile:
        directory[34675] = profile
        directory.tagtype[34675] = 7
    if about.xmp:
        directory[700] = about.xmp
    if about.dpi:
        (directory[282], directory[283]), directory[296] = about.dpi, _INCH
    directory.save(file)
    for strip in strips:
        file.write(strip)


def write_png16(file: BinaryIO, pixels_HWC: np.ndarray, *, profile: bytes | None, about: Metadata) -> None:
    """A PNG of 16 bits per channel."""
    height, width, channels = pixels_HWC.shape
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
    for row in pixels_HWC:
        line = row.astype(">u2").reshape(-1).view(np.uint8)
        if data := packer.compress(_UP + (line - above).tobytes()):
            put(file, b"IDAT", data)
        above = line
    put(file, b"IDAT", packer.flush())
    put(file, b"IEND", b"")
