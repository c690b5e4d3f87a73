"""A photo as pixels that the network understands and all that must come out again: alpha, profile, EXIF.

Shape suffixes: H height, W width, 3 the channels of RGB.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from . import profiles
from .deep import SUB_DIRECTORIES, write_png16, write_tiff

MAX_PIXELS = 170_000_000  # a little below the size that Pillow takes for an attack
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
DEEP_FORMATS = ("PNG", "TIFF")  # those that can hold 16 bits a channel
QUALITY = 95
_ORIENTATION = 0x0112
# What of a TIFF's own directory describes its old pixels and not the photo; the profile travels by itself.
_LAYOUT = {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325}
_LAYOUT |= {330, 338, 339, 347, 530, 531, 532, 700, 33723, 34377, 34675, _ORIENTATION}
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
    exif: bytes | None = None
    dpi: float | None = None
    lossless: bool = False
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


def check_pixels(image: Image.Image) -> None:
    """ValueError if an opened image, not decoded yet, has more pixels than the cap."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, over the cap of {MAX_PIXELS}")


def read_photo(image: Image.Image) -> Photo:
    """Any image of Pillow's as a Photo; ValueError if it has too many pixels or none that show a photo."""
    check_pixels(image)
    notes = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # cameras put previews into MPO
        notes.append(f"only the first of {getattr(image, 'n_frames')} pictures")  # noqa: B009
    profile, dpi = image.info.get("icc_profile"), _dpi(image)
    image.load()
    try:
        exif = _described(image.getexif())  # turning a TIFF would lose it
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # whatever a parser meets in foreign bytes
        notes.append(f"its EXIF is damaged and dropped ({' '.join(str(error).split())})")
        exif = None
    image, alpha = _without_alpha(image)
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
    return Photo(pixels, alpha, profile, exif, dpi, notes=tuple(notes))


def _without_alpha(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """The image in mode L, I;16, RGB, CMYK or LAB, and its alpha."""
    key = image.info.get("transparency")
    if image.mode in ("P", "PA"):
        image = image.convert("RGB" if image.mode == "P" and key is None else "RGBA")
    elif key is not None and image.mode in ("1", "L", "RGB"):  # one colour is transparent
        image = image.convert("RGBA") if image.mode == "RGB" else image.convert("L").convert("LA")
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode[:-1] + "A")
    alpha = np.array(image.getchannel("A")) if image.mode in ("LA", "RGBA") else None
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode.startswith("I"):
        levels = np.asarray(image)
        if key is not None:
            alpha = np.where(levels == key, 0, 255).astype(np.uint8)
        image = Image.fromarray(levels.clip(0, 65535).astype(np.uint16))
    elif image.mode == "F":
        raise ValueError("pixels are floating point numbers, whose range nobody tells; save 8 or 16 bits")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    return image, alpha


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


def _described(exif: Image.Exif) -> bytes | None:
    """EXIF without what is true of the old pixels alone: orientation, layout, thumbnail."""
    kept = Image.Exif()
    for tag, value in exif.items():
        if tag in SUB_DIRECTORIES:
            kept.get_ifd(tag).update(exif.get_ifd(tag))
        elif tag not in _LAYOUT:
            kept[tag] = value
    data = kept.tobytes()
    return data if len(kept) or any(kept.get_ifd(tag) for tag in SUB_DIRECTORIES) else None


def _dpi(image: Image.Image) -> float | None:
    try:
        dpi = float(image.info["dpi"][0])
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return dpi if 0 < dpi < 1e5 else None


def finish(photo: Photo, rgb_HW3: np.ndarray, *, deep: bool = False) -> np.ndarray:
    """sRGB of the network as the pixels of the result: in the photo's profile, with its alpha.

    uint8, or uint16 where the photo is, if `deep`.
    """
    if rgb_HW3.dtype == np.uint16 and not deep:
        rgb_HW3 = ((rgb_HW3.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if photo.profile and rgb_HW3.dtype == np.uint8 and photo.profile != profiles.srgb():
        rgb_HW3 = profiles.from_srgb(rgb_HW3, photo.profile)
    if photo.alpha is None:
        return rgb_HW3
    alpha = photo.alpha.astype(rgb_HW3.dtype) * (257 if rgb_HW3.dtype == np.uint16 else 1)
    return np.concatenate((rgb_HW3, alpha[..., None]), 2)


def to_image(photo: Photo, rgb_HW3: np.ndarray) -> Image.Image:
    """The result as an image of 8 bits, RGB or RGBA, with profile and EXIF in its `info`."""
    image = Image.fromarray(finish(photo, rgb_HW3))
    image.info |= {key: value for key, value in _about(photo).items() if value is not None}
    return image


def save_photo(photo: Photo, rgb_HW3: np.ndarray, file: BinaryIO, kind: str) -> None:
    """Write the result as `kind`, a value of FORMATS."""
    pixels = finish(photo, rgb_HW3, deep=kind in DEEP_FORMATS)
    if kind == "TIFF":
        write_tiff(file, pixels, profile=photo.profile, exif=photo.exif, dpi=photo.dpi)
        return
    if pixels.dtype == np.uint16:
        write_png16(file, pixels, profile=photo.profile, exif=photo.exif, dpi=photo.dpi)
        return
    options: dict[str, Any] = {key: value for key, value in _about(photo).items() if value is not None}
    if kind == "JPEG":
        pixels = pixels[..., :3]
        options |= {"quality": QUALITY, "subsampling": "4:4:4"}  # chroma is what was added
    elif kind == "WEBP":
        options |= {"lossless": photo.lossless, "quality": QUALITY, "use_sharp_yuv": True}
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **options)


def _about(photo: Photo) -> dict[str, Any]:
    dpi = None if photo.dpi is None else (photo.dpi, photo.dpi)
    return {"icc_profile": photo.profile, "exif": photo.exif, "dpi": dpi}


def load_photo(path: Path, *, kind: str) -> Photo:
    """The photo in a file that will be saved as `kind`; a note where that takes bits or alpha away."""
    # By a file, since Pillow maps one with a name, and then reads turned TIFFs in the wrong order (13.0).
    with open(path, "rb") as file, Image.open(file) as image:
        photo = read_photo(image)
        lossless = image.format == "WEBP" and _is_lossless(file)
    lost = []
    if photo.pixels.dtype == np.uint16 and kind not in DEEP_FORMATS:
        lost.append(f"16 bits become 8 in {kind}")
    if photo.alpha is not None and kind == "JPEG":
        lost.append("JPEG has no transparency")
    return replace(photo, lossless=lossless, notes=(*photo.notes, *lost))


def _is_lossless(webp: BinaryIO) -> bool:
    """Whether the first picture of a WebP file is without loss; its chunks have names and lengths."""
    webp.seek(12)
    while len(head := webp.read(8)) == 8:
        if head[:4] in (b"VP8L", b"VP8 ", b"ANMF"):
            return head[:4] == b"VP8L"
        length = int.from_bytes(head[4:], "little")
        webp.seek(length + length % 2, 1)
    return False
