"""Photos of every kind that people have: formats, modes, depths, profiles, EXIF; and broken ones."""

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch
import torchvision
from PIL import Image, ImageCms, ImageOps

from streamgan.core.color import rgb_to_lab
from streamgan.inference.deep import write_png16
from streamgan.inference.metadata import Metadata

ORIENTATION, MAKE, EXIF_IFD, EXPOSURE = 0x0112, 0x010F, 0x8769, 0x829A


@functools.cache  # a profile holds the second of its making
def swapped_profile() -> bytes:
    """sRGB with red and blue exchanged: whoever overlooks it sees other colours."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    place = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = place[b"rXYZ"], place[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


def gray_profile(gamma: float = 1.0) -> bytes:
    """A profile of gray with a plain power curve."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256))
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"gray\0" + bytes(4 + 4 + 2 + 1 + 67 + 1)
    tags, at, body = [], 132 + 3 * 12, b""
    for name, data in ((b"desc", text), (b"wtpt", white), (b"kTRC", curve)):
        tags.append(name + struct.pack(">II", at + len(body), len(data)))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s", at + len(body), 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + b"".join(tags) + body


def sixteen(photo: Image.Image) -> Image.Image:
    """Gray in 16 bits, with levels that 8 bits do not have."""
    levels = np.asarray(photo.convert("L"), np.uint16) * 256
    return Image.fromarray(levels + np.arange(levels.shape[1], dtype=np.uint16) % 256)


def camera_exif(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Kamera", orientation
    exif.get_ifd(EXIF_IFD)[EXPOSURE] = 0.01
    return exif.tobytes()  # an Exif object would lose its inner directory in a TIFF


def _with_alpha(photo: Image.Image, mode: str) -> Image.Image:
    photo = photo.convert(mode)
    photo.putalpha(photo.convert("L").point(lambda level: 255 - level // 2))
    return photo


# name's suffix, how to save a photo so
KINDS: dict[str, tuple[str, Callable[[Image.Image, Path], None]]] = {
    "jpeg": (".jpg", lambda p, to: p.save(to, quality=95)),
    "gray jpeg": (".jpeg", lambda p, to: p.convert("L").save(to, quality=95)),
    "turned": (".jpg", lambda p, to: p.save(to, exif=camera_exif(6), quality=95)),
    "profile": (".jpg", lambda p, to: p.save(to, icc_profile=swapped_profile(), quality=95)),
    "gray profile": (".png", lambda p, to: p.convert("L").save(to, icc_profile=gray_profile())),
    "png": (".png", lambda p, to: p.save(to, exif=camera_exif())),
    "alpha": (".png", lambda p, to: _with_alpha(p, "RGBA").save(to)),
    "gray alpha": (".png", lambda p, to: _with_alpha(p, "LA").save(to)),
    "palette": (".png", lambda p, to: p.quantize(32).save(to, transparency=3)),
    "bilevel": (".png", lambda p, to: p.convert("1").save(to)),
    "16 bit png": (".png", lambda p, to: sixteen(p).save(to)),
    "tiff": (".tif", lambda p, to: p.save(to, exif=camera_exif(3), icc_profile=swapped_profile())),
    "16 bit tiff": (".TIFF", lambda p, to: sixteen(p).save(to, format="TIFF", exif=camera_exif(8))),
    "webp": (".webp", lambda p, to: p.save(to, lossless=True, icc_profile=swapped_profile())),
    "webp alpha": (".webp", lambda p, to: _with_alpha(p, "RGBA").save(to, quality=90)),
    "cmyk": (".jpg", lambda p, to: p.convert("CMYK").save(to, quality=95)),
}
PLACES = ("", "größe", "фото/лето", "写真")


def write_mixed(folder: Path, photo: Callable[[int], Image.Image], count: int) -> dict[Path, str]:
    """`count` photos of all kinds in nested folders with names of many scripts: place -> kind."""
    written = {}
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        suffix, save = KINDS[kind]
        place = Path(PLACES[index // len(KINDS) % len(PLACES)], f"{index} ü {kind}{suffix}")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        save(photo(index), folder / place)
        written[place] = kind
    return written


def write_broken(folder: Path, photo: Image.Image) -> list[Path]:
    """Five files that nobody can read."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    bomb = io.BytesIO()
    write_png16(bomb, (1, 1, 3), [np.zeros((1, 1, 3), np.uint16)], profile=None, about=Metadata())
    huge = bytearray(bomb.getvalue())
    huge[16:24] = struct.pack(">II", 60_000, 60_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    contents = {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "text.png": b"no photo",
        "leer/empty.webp": b"",
        "жуть.tif": b"II*\0" + b"\xff" * 40,
        "bomb.png": bytes(huge),
    }
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]


def lightness(path: Path) -> np.ndarray:
    """L of an image file, upright, in sRGB through its own profile, scaled to levels of 255."""
    if path.suffix.lower() in (".png", ".tiff") and (deep := sixteen_bit_pixels(path)) is not None:
        unit = deep.astype(np.float32) / 65535
        unit = unit[..., :3] if unit.ndim == 3 else np.repeat(unit[..., None], 3, 2)
        if path.suffix == ".TIFF":
            with Image.open(path) as image:
                turned = {8: 1}.get(image.getexif().get(ORIENTATION, 1), 0)
            unit = np.rot90(unit, turned)
    else:
        with Image.open(path) as image:
            profile = image.info.get("icc_profile")
            image = ImageOps.exif_transpose(image)
            plain = image.convert("RGB" if image.mode not in ("L", "1", "LA") else "L")
            if profile:
                to = ImageCms.createProfile("sRGB")
                plain = ImageCms.profileToProfile(
                    plain, ImageCms.ImageCmsProfile(io.BytesIO(profile)), to, outputMode="RGB",
                    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                )  # fmt: skip
            unit = np.asarray(plain.convert("RGB"), np.float32) / 255
    rgb = torch.from_numpy(np.ascontiguousarray(unit)).permute(2, 0, 1)[None]
    return rgb_to_lab(rgb)[0, 0].numpy() * 2.55


def sixteen_bit_pixels(path: Path) -> np.ndarray | None:
    """Pixels as torchvision and tifffile read them, (H, W) or (H, W, C), if they have 16 bits."""
    if path.suffix.lower() == ".png":
        if path.read_bytes()[24] != 16:
            return None
        with warnings.catch_warnings(action="ignore"):  # its decoders move to another package
            pixels = torchvision.io.decode_image(str(path), mode=torchvision.io.ImageReadMode.UNCHANGED)
        return pixels.to(torch.int32).permute(1, 2, 0).numpy().squeeze().astype(np.uint16)
    pixels = tifffile.imread(path)
    return pixels if pixels.dtype == np.uint16 else None
