"""A photo as pixels that the network understands and all that must come out again: alpha, profile, metadata.

Shape suffixes: H height, W width, 3 the channels of RGB.
"""

import functools
import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from streamgan.core.images import as_stored, bits, by_bands, turned
from streamgan.core.png import readable_png
from streamgan.data.image import BadImage, is_cut, to_pixels

from . import profiles
from .formats import FORMATS, missing, readable
from .memory import check_memory
from .metadata import Metadata, fit, read_metadata
from .salvage import completed

MAX_PIXELS = 170_000_000  # a little below the size that Pillow takes for an attack
_SPACES = {"L": ("GRAY", "RGB"), "I;16": ("GRAY", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}


def allow_pixels(most: int) -> None:
    """Raise Pillow's own cap for this process, if photos of so many pixels are to be read."""
    if most > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = most


class TooManyPixels(ValueError):
    """A photo, or a header that claims it, over the cap."""


@dataclass(frozen=True)
class Photo:
    """Upright pixels: gray (H, W) in uint8 or uint16, or sRGB (H, W, 3) in uint8; alpha (H, W) in uint8.

    `profile` is the one that the result has, None if the photo had none. `lossless` is about WebP,
    which can be either; `notes` say what was not kept, `missing` what of the picture was not there.
    `duration_ms` is that of a frame, `loop` how often an animation is played (0: without end).
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    about: Metadata = field(default_factory=Metadata)
    lossless: bool = False
    notes: tuple[str, ...] = ()
    missing: str = ""
    duration_ms: float = 0.0
    loop: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class Limits:
    """What may be read: pixels of a photo (all frames of an animation together), and damaged ones."""

    max_pixels: int = MAX_PIXELS
    salvage: bool = False


LIMITS = Limits()


@contextmanager
def open_photo(path: Path, data: bytes | None = None) -> Iterator[tuple[Image.Image, tuple[str, ...]]]:
    """The header of a photo, and notes about what of it cannot be read; `data` in the place of its bytes."""
    # By a file, since Pillow maps one with a name, and then reads turned TIFFs in the wrong order (13.0).
    with open(path, "rb") if data is None else io.BytesIO(data) as file:
        source, unread = readable_png(file)
        try:
            opened = Image.open(source, formats=readable(path))
        except UnidentifiedImageError as error:  # its text names an object of Python
            raise ValueError(missing(path) or "not an image that can be read") from error
        except Image.DecompressionBombError as error:
            raise TooManyPixels(f"far more pixels than the cap of {MAX_PIXELS}") from error
        with opened as image:
            yield image, (f"without its {', '.join(unread)}, which cannot be read",) if unread else ()


def check_pixels(image: Image.Image, most: int, *, count: int = 1) -> None:
    """TooManyPixels if `count` pictures as an opened image, not decoded yet, have more than `most` pixels."""
    if image.width * image.height * count > most:
        times = f"{count} x " if count > 1 else ""
        raise TooManyPixels(f"{times}{image.width} x {image.height} pixels, over the cap of {most}")


def count_pages(image: Image.Image, kind: str) -> tuple[int, int]:
    """How many pictures an opened file has, and how many of them a result of `kind` keeps."""
    number = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: previews by the camera
    holds = FORMATS[kind].holds
    kept = "frames" in holds and image.format in ("GIF", "PNG", "WEBP", "AVIF")
    return number, number if kept or ("pages" in holds and image.format == "TIFF") else 1


def read_photo(image: Image.Image) -> Photo:
    """Any image of Pillow's as a Photo; ValueError if none of its pixels can be understood."""
    notes = []
    profile, depth = image.info.get("icc_profile"), bits(image)
    (stored, alpha), turn = as_stored(image)
    if depth > 8 and stored.mode != "I;16":
        notes.append(f"its {depth} bits per channel are read as 8")
    try:
        about, lost = read_metadata(image)
    except Exception as error:  # whatever a parser meets in foreign bytes
        about, lost = Metadata(), [f"metadata, which is damaged ({' '.join(str(error).split())})"]
    if "icc_profile" in image.info and not profile:  # parts of it are missing, or it does not unpack
        lost.append("colour profile, which is damaged")
    if lost:
        notes.append(f"without its {', '.join(lost)}")
    if profile:
        space, wanted = profiles.color_space(profile), _SPACES.get(stored.mode, ())
        if space not in wanted:
            notes.append(f"its colour profile, of {space or 'damaged data'}, does not fit and is dropped")
            profile = None
    try:
        pixels, profile = _pixels(stored, profile)
    except ImageCms.PyCMSError as error:
        notes.append(f"its colour profile is dropped ({error})")
        pixels, profile = _pixels(stored, None)
    flat = None if alpha is None else turned(by_bands(alpha), turn)
    return Photo(turned(pixels, turn), flat, profile, about, notes=tuple(notes))


def _pixels(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Gray or sRGB pixels, and the profile that the result is to have."""
    if image.mode in ("L", "I;16"):
        gray = by_bands(image)
        if not profile:
            return gray, None
        keep = image.mode == "L" and profiles.color_space(profile) == "RGB"
        return profiles.gray_to_srgb(gray, profile), profile if keep else profiles.srgb()
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        return by_bands(image, functools.partial(profiles.to_srgb, profile=lab)), None
    if profile:
        keep = image.mode == "RGB"
        pixels = by_bands(image, functools.partial(profiles.to_srgb, profile=profile))
        return pixels, profile if keep else profiles.srgb()
    return by_bands(image, lambda band: band.convert("RGB")), None


def load_photo(path: Path, *, kind: str, limits: Limits = LIMITS) -> Photo:
    """The photo in a file that will be saved as `kind`, a key of FORMATS; notes of what that takes away.

    ValueError if it cannot be read whole, or if `kind` cannot hold it.
    """
    return next(load_pages(path, kind=kind, limits=limits))


def load_pages(path: Path, *, kind: str, limits: Limits) -> Iterator[Photo]:
    """As `load_photo`, for all pages or frames that a file of `kind` keeps, one after the other."""
    try:
        yield from _pages(path, None, kind, limits)
    except Exception:  # whatever a decoder meets in foreign bytes
        whole = completed(path.read_bytes(), limits.max_pixels) if limits.salvage else None
        if whole is None:
            raise
        data, what = whole
        photo = next(_pages(path, data, kind, limits))
        yield replace(photo, missing=what)


def _pages(path: Path, data: bytes | None, kind: str, limits: Limits) -> Iterator[Photo]:
    with open_photo(path, data) as (image, unread):
        number, kept = count_pages(image, kind)
        animated = kept > 1 and "frames" in FORMATS[kind].holds
        check_pixels(image, limits.max_pixels, count=kept if animated else 1)
        damage = _damage(path, image, limits.max_pixels) if data is None else ()
        lossless = image.format == "WEBP" and _is_lossless(path)
        for index in range(kept) if animated else ():
            shown = _page(image, index, kind, limits)  # frames are composed of those before
            duration, loop = image.info.get("duration", 0.0), image.info.get("loop", 1)
            yield replace(shown, duration_ms=duration, loop=loop, lossless=lossless)
    only_first = (f"only the first of {number} pictures",) if kept < number else ()
    del image  # whoever takes a page has it alone: what Pillow decoded for it is gone
    for index in () if animated else range(kept):
        photo = _open_page(path, data, index, kind, limits)
        yield replace(photo, notes=(*unread, *damage, *only_first, *photo.notes), lossless=lossless)


def _open_page(path: Path, data: bytes | None, index: int, kind: str, limits: Limits) -> Photo:
    with open_photo(path, data) as (image, _):
        return _page(image, index, kind, limits)


def _page(image: Image.Image, index: int, kind: str, limits: Limits) -> Photo:
    """One picture of an opened file, without what `kind` cannot hold, which is noted."""
    image.seek(index)
    _forget_other_pages(image)
    check_pixels(image, limits.max_pixels)
    if max(image.size) > FORMATS[kind].max_side:
        most, got = FORMATS[kind].max_side, f"got {image.width} x {image.height}"
        raise ValueError(f"{kind} holds {most} pixels per side at most ({got})")
    check_memory(image, kind)
    photo = read_photo(image)
    about, lost = fit(photo.about, kind)
    notes, holds = list(photo.notes), FORMATS[kind].holds
    if photo.pixels.dtype == np.uint16 and "deep" not in holds:
        notes.append(f"16 bits become 8 in {kind}")
    if photo.alpha is not None and "alpha" not in holds:
        notes.append(f"{kind} has no transparency")
    if photo.profile not in (None, profiles.srgb()) and "profile" not in holds:
        notes.append(f"{kind} holds no colour profile: its colours are those of sRGB")
    if lost:
        notes.append(f"{kind} cannot hold its {', '.join(lost)}")
    return replace(photo, about=about, notes=tuple(notes))


def _forget_other_pages(image: Image.Image) -> None:
    """Without what a TIFF, when Pillow has looked at all its pages, says of a page that does not say it."""
    if (tags := getattr(image, "tag_v2", None)) is not None:
        for name, tag in (("icc_profile", 34675), ("dpi", 282)):
            if tag not in tags:
                image.info.pop(name, None)


def _damage(path: Path, image: Image.Image, max_pixels: int) -> tuple[str, ...]:
    """A note about damaged bytes; ValueError if part of the photo is missing, which Pillow paints gray."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped[:2] != b"\xff\xd8":
            if is_cut(mapped):
                raise ValueError("its end is missing")
            return ()
        data = mapped[:]
    try:
        to_pixels(data, "CMYK" if image.mode == "CMYK" else "RGB", short=1, max_pixels=max_pixels)
    except BadImage as bad:
        if bad.reason == "truncated":
            raise ValueError("part of the picture is missing") from bad
        return ("parts of it are damaged",) if bad.reason == "damaged" else ()
    return ()


def _is_lossless(path: Path) -> bool:
    """Whether the first picture of a WebP file is without loss; its chunks have names and lengths."""
    with open(path, "rb") as webp:
        webp.seek(12)
        while len(head := webp.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 ", b"ANMF"):
                return head[:4] == b"VP8L"
            length = int.from_bytes(head[4:], "little")
            webp.seek(length + length % 2, 1)
    return False
