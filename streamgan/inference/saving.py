"""A photo in colour as a file again: in its profile, with its alpha and metadata, in every format of FORMATS.

Colours come in bands of rows, so that a large photo need not be in memory twice. Shape suffixes: H height,
W width, 3 the channels of RGB, C those and perhaps alpha.
"""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from . import profiles
from .deep import Shape, TiffWriter, write_png16
from .formats import FORMATS
from .metadata import jpeg_options, options, png_chunks
from .photo import Photo

QUALITY = 95
Colored = tuple[Photo, Iterable[np.ndarray]]  # and the bands of its colours, sRGB: (rows, W, 3)


def to_image(photo: Photo, rgb_HW3: np.ndarray) -> Image.Image:
    """The result as an image of 8 bits, RGB or RGBA, with profile, EXIF and XMP in its `info`."""
    image = _image(photo, [rgb_HW3], frozenset({"profile", "alpha"}))
    image.info |= _described(photo)
    return image


def save_pages(pages: Iterable[Colored], file: BinaryIO, kind: str, *, quality: int = QUALITY) -> None:
    """Write results as `kind`, a key of FORMATS: the pages of a TIFF, frames of an animation, or one photo.

    `quality`, 1 to 100, is for formats that are lossy.
    """
    if kind == "TIFF":
        writer = TiffWriter(file)
        for photo, bands in pages:
            colors = _finished(photo, bands, FORMATS[kind].holds)
            writer.add(_shape(photo, kind), colors, profile=photo.profile, about=photo.about)
        return
    rest = iter(pages)
    photo, bands = next(rest)
    colors = _finished(photo, bands, FORMATS[kind].holds)
    if kind == "PPM":
        file.write(b"P6\n%d %d\n%d\n" % (*photo.size[::-1], np.iinfo(photo.pixels.dtype).max))
        for band in colors:
            file.write(band.astype(band.dtype.newbyteorder(">")).tobytes())
    elif kind == "PNG" and photo.pixels.dtype == np.uint16:
        write_png16(file, _shape(photo, kind), colors, profile=photo.profile, about=photo.about)
    else:
        given, images = _options(photo, kind, quality), [_image(photo, bands, FORMATS[kind].holds)]
        if "frames" in FORMATS[kind].holds:
            durations = [photo.duration_ms]
            for frame, bands in rest:
                images.append(_image(frame, bands, FORMATS[kind].holds))
                durations.append(frame.duration_ms)
            if len(images) > 1:
                more = {"append_images": images[1:], "duration": durations, "loop": photo.loop}
                given |= {"save_all": True, **more}
        images[0].save(file, FORMATS[kind].pillow, **given)


def _image(photo: Photo, bands: Iterable[np.ndarray], holds: frozenset[str]) -> Image.Image:
    """The result in 8 bits, RGB or RGBA."""
    parts = (
        Image.fromarray(np.ascontiguousarray(band)) for band in _finished(photo, bands, holds - {"deep"})
    )
    first, (height, width) = next(parts), photo.size
    if first.height == height:
        return first
    image, top = Image.new(first.mode, (width, height)), first.height
    image.paste(first)
    for part in parts:
        image.paste(part, (0, top))
        top += part.height
    return image


def _finished(photo: Photo, bands: Iterable[np.ndarray], holds: frozenset[str]) -> Iterator[np.ndarray]:
    """sRGB as the pixels (rows, W, C) of a format that `holds` this: in the photo's profile, with its alpha.

    uint8, or uint16 where the photo is and the format holds it.
    """
    top = 0
    for band in bands:
        rows = slice(top, top + len(band))
        top += len(band)
        if band.dtype == np.uint16 and "deep" not in holds:
            band = ((band.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if photo.profile not in (None, profiles.srgb()) and "profile" in holds and band.dtype == np.uint8:
            band = profiles.from_srgb(band, photo.profile)
        if photo.alpha is not None and "alpha" in holds:
            alpha = photo.alpha[rows, :, None].astype(band.dtype) * (257 if band.dtype == np.uint16 else 1)
            band = np.concatenate((band, alpha), 2)
        yield band


def _shape(photo: Photo, kind: str) -> Shape:
    return (*photo.size, 3 if photo.alpha is None or "alpha" not in FORMATS[kind].holds else 4)


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
            comment = {"comment": b"\n".join(photo.about.comments)} if photo.about.comments else {}
            return {"no_jp2": kind == "J2K", "mct": 1, **comment}
    return given


def _described(photo: Photo) -> dict[str, Any]:
    return options(photo.about) | ({"icc_profile": photo.profile} if photo.profile else {})
