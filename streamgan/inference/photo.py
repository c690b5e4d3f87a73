"""A photo as pixels that the network understands and all that must come out again: alpha, profile, metadata.

Shape suffixes: H height, W width, 3 the channels of RGB.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from streamgan.core.images import bits, plain
from streamgan.core.png import readable_png
from streamgan.data.image import BadImage, is_cut, to_pixels

from . import profiles
from .formats import FORMATS, missing, readable
from .metadata import Metadata, fit, read_metadata

MAX_PIXELS = 170_000_000  # a little below the size that Pillow takes for an attack
_RAISE = "raise it with --max-pixels if that is right"
_SPACES = {"L": ("GRAY", "RGB"), "I;16": ("GRAY", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}


@dataclass(frozen=True)
class Photo:
    """Upright pixels: gray (H, W) in uint8 or uint16, or sRGB (H, W, 3) in uint8; alpha (H, W) in uint8.

    `profile` is the one that the result has, None if the photo had none. `lossless` is about WebP,
    which can be either; `notes` say what was not kept.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    about: Metadata = field(default_factory=Metadata)
    lossless: bool = False
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


@contextmanager
def open_photo(path: Path) -> Iterator[tuple[Image.Image, tuple[str, ...]]]:
    """The header of a photo, and notes about what of it cannot be read."""
    # By a file, since Pillow maps one with a name, and then reads turned TIFFs in the wrong order (13.0).
    with open(path, "rb") as file:
        source, unread = readable_png(file)
        try:
            opened = Image.open(source, formats=readable(path))
        except UnidentifiedImageError as error:  # its text names an object of Python
            raise ValueError(missing(path) or "not an image that can be read") from error
        except Image.DecompressionBombError as error:
            raise ValueError(f"far more pixels than the cap of {MAX_PIXELS}; {_RAISE}") from error
        with opened as image:
            yield image, (f"without its {', '.join(unread)}, which cannot be read",) if unread else ()


def check_pixels(image: Image.Image, most: int) -> None:
    """ValueError if an opened image, not decoded yet, has more than `most` pixels."""
    if image.width * image.height > most:
        raise ValueError(f"{image.width} x {image.height} pixels, over the cap of {most}; {_RAISE}")


def read_photo(image: Image.Image) -> Photo:
    """Any image of Pillow's as a Photo; ValueError if none of its pixels can be understood."""
    notes = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # cameras put previews into MPO
        notes.append(f"only the first of {getattr(image, 'n_frames')} pictures")  # noqa: B009
    profile, depth = image.info.get("icc_profile"), bits(image)
    upright, alpha = plain(image)
    if depth > 8 and upright.mode != "I;16":
        notes.append(f"its {depth} bits per channel are read as 8")
    try:
        about, lost = read_metadata(image)
    except Exception as error:  # whatever a parser meets in foreign bytes
        about, lost = Metadata(), [f"metadata, which is damaged ({' '.join(str(error).split())})"]
    if "icc_profile" in image.info and not profile:  # parts of it are missing, or it does not unpack
        lost.append("colour profile, which is damaged")
    if lost:
        notes.append(f"without its {', '.join(lost)}")
    image = upright
    if profile:
        space, wanted = profiles.color_space(profile), _SPACES.get(image.mode, ())
        if space not in wanted:
            notes.append(f"its colour profile, of {space or 'damaged data'}, does not fit and is dropped")
            profile = None
    try:
        pixels, profile = _pixels(image, profile)
    except ImageCms.PyCMSError as error:
        notes.append(f"its colour profile is dropped ({error})")
        pixels, profile = _pixels(image, None)
    return Photo(pixels, None if alpha is None else np.array(alpha), profile, about, notes=tuple(notes))


def _pixels(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Gray or sRGB pixels, and the profile that the result is to have."""
    if image.mode in ("L", "I;16"):
        gray = np.asarray(image)
        if not profile:
            return gray, None
        keep = image.mode == "L" and profiles.color_space(profile) == "RGB"
        return profiles.gray_to_srgb(gray, profile), profile if keep else profiles.srgb()
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        return np.asarray(profiles.to_srgb(image, lab)), None
    if profile:
        keep = image.mode == "RGB"
        return np.asarray(profiles.to_srgb(image, profile)), profile if keep else profiles.srgb()
    return np.asarray(image.convert("RGB")), None


def load_photo(path: Path, *, kind: str, max_pixels: int = MAX_PIXELS) -> Photo:
    """The photo in a file that will be saved as `kind`, a key of FORMATS; notes of what that takes away.

    ValueError if it cannot be read whole, or if `kind` cannot hold it.
    """
    with open_photo(path) as (image, unread):
        check_pixels(image, max_pixels)
        if max(image.size) > FORMATS[kind].max_side:
            most = FORMATS[kind].max_side
            raise ValueError(
                f"{kind} holds {most} pixels per side at most (got {image.width} x {image.height})"
            )
        damage = _damage(path, image, max_pixels)
        photo = read_photo(image)
        lossless = image.format == "WEBP" and _is_lossless(path)
    about, lost = fit(photo.about, kind)
    notes, holds = [*unread, *damage, *photo.notes], FORMATS[kind].holds
    if photo.pixels.dtype == np.uint16 and "deep" not in holds:
        notes.append(f"16 bits become 8 in {kind}")
    if photo.alpha is not None and "alpha" not in holds:
        notes.append(f"{kind} has no transparency")
    if photo.profile not in (None, profiles.srgb()) and "profile" not in holds:
        notes.append(f"{kind} holds no colour profile: its colours are those of sRGB")
    if lost:
        notes.append(f"{kind} cannot hold its {', '.join(lost)}")
    return replace(photo, about=about, lossless=lossless, notes=tuple(notes))


def _damage(path: Path, image: Image.Image, max_pixels: int) -> tuple[str, ...]:
    """A note about damaged bytes; ValueError if part of the photo is missing, which Pillow paints gray."""
    data = path.read_bytes()
    if not data.startswith(b"\xff\xd8"):
        if is_cut(data):
            raise ValueError("its end is missing")
        return ()
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
