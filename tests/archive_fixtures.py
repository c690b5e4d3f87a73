"""An archive as people have it: every format, nested, linked, broken, with odd names; and what is right."""

import os
from collections.abc import Callable
from pathlib import Path

from photo_fixtures import PLACES, sixteen, write_broken
from PIL import Image

# Ending of a photo -> ending of its result, and Pillow's name of that.
RESULTS = {
    ".jpg": (".jpg", "JPEG"), ".jpeg": (".jpeg", "JPEG"), ".jpe": (".jpe", "JPEG"),
    ".jfif": (".jfif", "JPEG"),
    ".png": (".png", "PNG"), ".tif": (".tif", "TIFF"), ".tiff": (".tiff", "TIFF"), ".webp": (".webp", "WEBP"),
    ".bmp": (".bmp", "BMP"), ".dib": (".dib", "DIB"), ".gif": (".png", "PNG"), ".jp2": (".jp2", "JPEG2000"),
    ".jpx": (".jpx", "JPEG2000"), ".j2k": (".j2k", "JPEG2000"), ".j2c": (".j2c", "JPEG2000"),
    ".ppm": (".ppm", "PPM"), ".pgm": (".ppm", "PPM"), ".pbm": (".ppm", "PPM"), ".pnm": (".pnm", "PPM"),
    ".tga": (".tga", "TGA"), ".pcx": (".pcx", "PCX"), ".avif": (".avif", "AVIF"),
}  # fmt: skip
_WRITERS = {".jfif": "JPEG", ".jpe": "JPEG", ".dib": "DIB", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"}
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif")


def gray_of(image: Image.Image) -> Image.Image:
    """Middle tones of gray: any luminance in it can be had in colour."""
    return image.convert("L").point(lambda level: 64 + level // 2)


def write_photo(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"quality": 95} if path.suffix in _LOSSY else {}
    image = image.convert("1") if path.suffix == ".pbm" else image
    image.save(path, _WRITERS.get(path.suffix), **given, **options)
    return path


def write_archive(folder: Path, photo: Callable[..., Image.Image], count: int) -> dict[Path, str]:
    """`count` photos and all that lies beside them -> place below `folder`, its outcome."""
    right: dict[Path, str] = {}
    special = ("color", "pages", "frames", "deep")
    for index in range(count):
        kinds = (*RESULTS, *special)
        kind = kinds[index % len(kinds)]
        gray = gray_of(photo(index, (40 + index % 3, 36)))
        place = Path(PLACES[index // len(kinds) % len(PLACES)], f"{index} ü")
        match kind:
            case "color":
                place = place.with_suffix(".jpg")
                write_photo(photo(index, (48, 40)), folder / place)
            case "pages" | "frames":
                place = place.with_suffix(".tif" if kind == "pages" else ".gif")
                write_photo(gray, folder / place, save_all=True, append_images=[gray.rotate(180)])
            case "deep":
                place = place.with_suffix(".png")
                write_photo(sixteen(gray), folder / place)
            case ending:
                place = place.with_suffix(ending)
                write_photo(gray, folder / place)
        right[place] = "left_alone" if kind == "color" else "colored"
    for path in write_broken(folder, gray_of(photo(0))):
        right[path.relative_to(folder)] = "failed"
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "fifo.png")
    elsewhere = folder.parent / f"{folder.name} elsewhere"
    write_photo(gray_of(photo(1)), elsewhere / "a.jpg")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "linked.jpg").symlink_to(elsewhere / "a.jpg")
    (folder / "loop").symlink_to(folder)
    odd = os.fsdecode(b"caf\xe9.png")
    write_photo(gray_of(photo(2)), folder / odd)
    for name in ("notes.txt", "raw.CR2", "LICENSE", ".hidden.jpg"):
        (folder / name).write_text("no photo")
    right |= dict.fromkeys(map(Path, ("gone.jpg", "fifo.png")), "failed")
    right |= dict.fromkeys(map(Path, ("linked/a.jpg", "linked.jpg", odd)), "colored")
    right |= dict.fromkeys(
        map(Path, ("notes.txt", "raw.CR2", "LICENSE", ".hidden.jpg", "loop")), "passed_over"
    )
    return right
