"""A photo in colour as a file again: in its profile, with its alpha and metadata, in every format of FORMATS.

Shape suffixes: H height, W width, 3 the channels of RGB.
"""

from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from . import profiles
from .deep import write_png16, write_tiff
from .formats import FORMATS
from .metadata import jpeg_options, options, png_chunks
from .photo import Photo

QUALITY = 95


def finish(photo: Photo, rgb_HW3: np.ndarray, holds: frozenset[str]) -> np.ndarray:
    """sRGB of the network as pixels of a format that `holds` this: in the photo's profile, with its alpha.

    uint8, or uint16 where the photo is and the format holds it.
    """
    if rgb_HW3.dtype == np.uint16 and "deep" not in holds:
        rgb_HW3 = ((rgb_HW3.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if (
        photo.profile
        and "profile" in holds
        and rgb_HW3.dtype == np.uint8
        and photo.profile != profiles.srgb()
    ):
        rgb_HW3 = profiles.from_srgb(rgb_HW3, photo.profile)
    if photo.alpha is None or "alpha" not in holds:
        return rgb_HW3
    alpha = photo.alpha.astype(rgb_HW3.dtype) * (257 if rgb_HW3.dtype == np.uint16 else 1)
    return np.concatenate((rgb_HW3, alpha[..., None]), 2)


def to_image(photo: Photo, rgb_HW3: np.ndarray) -> Image.Image:
    """The result as an image of 8 bits, RGB or RGBA, with profile, EXIF and XMP in its `info`."""
    image = Image.fromarray(finish(photo, rgb_HW3, frozenset({"profile", "alpha"})))
    image.info |= _described(photo)
    return image


def save_photo(
    photo: Photo, rgb_HW3: np.ndarray, file: BinaryIO, kind: str, *, quality: int = QUALITY
) -> None:
    """Write the result as `kind`, a key of FORMATS; `quality`, 1 to 100, is for those that are lossy."""
    pixels = finish(photo, rgb_HW3, FORMATS[kind].holds)
    if kind == "TIFF":
        write_tiff(file, pixels, profile=photo.profile, about=photo.about)
    elif kind == "PPM":
        file.write(b"P6\n%d %d\n%d\n" % (*pixels.shape[1::-1], np.iinfo(pixels.dtype).max))
        file.write(pixels.astype(pixels.dtype.newbyteorder(">")).tobytes())
    elif pixels.dtype == np.uint16:
        write_png16(file, pixels, profile=photo.profile, about=photo.about)
    else:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(file, FORMATS[kind].pillow, **_options(photo, kind, quality))


def _options(photo: Photo, kind: str, quality: int) -> dict[str, Any]:
    """For Pillow's save. Chroma is what was added, so it is stored in full where a format lets one choose."""
    given = _described(photo) if "profile" in FORMATS[kind].holds else options(photo.about)
    match kind:
        case "JPEG":
            return given | jpeg_options(photo.about) | {"quality": quality, "subsampling": "4:4:4"}
        case "PNG":
            return given | {"pnginfo": png_chunks(photo.about)}
        case "WEBP":
            return given | {"lossless": photo.lossless, "quality": quality, "use_sharp_yuv": True}
        case "AVIF":
            return given | {"quality": quality, "subsampling": "4:4:4"}
        case "HEIF":
            return given | {"quality": quality, "chroma": "444"}
        case "JP2" | "J2K":  # without loss
            comment = {"comment": photo.about.comments[0]} if photo.about.comments else {}
            return {"no_jp2": kind == "J2K", "mct": 1, **comment}
    return given


def _described(photo: Photo) -> dict[str, Any]:
    return options(photo.about) | ({"icc_profile": photo.profile} if photo.profile else {})
