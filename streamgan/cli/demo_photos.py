"""Photographs for the demo, cut into crops and written as parquet in the schema of the real sets.

Whole photos are held out for validation and test: no crop of them is trained on.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.seeding import permutation, uniform
from streamgan.core.storage.files import atomic_write

CROP = 128  # pixels
CROPS = {"train": 240, "validation": 64, "test": 64}
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("image", _IMAGE), ("conditioning_image", _IMAGE), ("text", pa.string())])
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def write_parquet(folder: Path, gray_folder: Path, *, images: Path | None) -> list[Path]:
    """Write one parquet file a split; the test photos also whole, as gray JPEGs, whose paths it gives."""
    splits = packaged_photos() if images is None else own_photos(images)
    for path in (folder, gray_folder):
        path.mkdir(parents=True, exist_ok=True)
    for split, photos in splits.items():
        table = pa.Table.from_pylist(list(_rows(photos, CROPS[split])), schema=SCHEMA)
        with atomic_write(folder / f"{split}-00000-of-00001.parquet") as file:
            pq.write_table(table, file, row_group_size=16)
    held_out = []
    for path in splits["test"]:
        target = gray_folder / f"{path.stem}.jpg"
        with atomic_write(target) as file:
            _open(path).convert("L").save(file, "JPEG", quality=95)
        held_out.append(target)
    return held_out


def packaged_photos() -> dict[str, list[Path]]:
    """Photographs that ship inside scikit-image and scikit-learn (the `demo` extra), by split."""
    try:
        import skimage
        import sklearn
    except ImportError as error:
        raise ConfigError(
            "streamgan demo",
            f"{error.name} is not installed",
            "pip install 'streamgan[demo]', or give --images",
        ) from error
    skimage_data = Path(skimage.__file__).parent / "data"
    sklearn_data = Path(sklearn.__file__).parent / "datasets" / "images"
    train = [skimage_data / name for name in ("astronaut.png", "motorcycle_left.png", "rocket.jpg")]
    train += [sklearn_data / name for name in ("china.jpg", "flower.jpg")]
    return {
        "train": train,
        "validation": [skimage_data / "coffee.png"],
        "test": [skimage_data / "chelsea.png"],
    }


def own_photos(folder: Path) -> dict[str, list[Path]]:
    """The photos of a folder, shuffled and split 70/20/10, at least one each."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(paths) < 3:
        raise DataError(folder, f"{len(paths)} photos ({', '.join(sorted(SUFFIXES))})", "give at least three")
    shuffled = [paths[index] for index in permutation(len(paths), 0)]
    num_test = max(1, len(paths) // 10)
    num_validation = max(1, len(paths) // 5)
    held_out = num_test + num_validation
    return {
        "train": shuffled[held_out:],
        "validation": shuffled[num_test:held_out],
        "test": shuffled[:num_test],
    }


def _rows(photos: list[Path], count: int) -> Iterator[dict[str, object]]:
    """`count` rows or one per photo, whichever is more: square crops of a half to all of the short side."""
    for index, path in enumerate(photos):
        photo = _open(path)
        for crop in range(max(1, round(count / len(photos)))):
            short = min(photo.size)
            side = max(min(CROP, short), round(short * (0.5 + 0.5 * uniform(index, crop, 0))))
            left = round((photo.width - side) * uniform(index, crop, 1))
            top = round((photo.height - side) * uniform(index, crop, 2))
            square = photo.resize(
                (CROP, CROP), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)
            )
            gray = square.convert("L")
            yield {
                "image": {"bytes": _jpeg(square), "path": None},
                "conditioning_image": {"bytes": _jpeg(gray), "path": None},
                "text": f"a crop of {path.stem}",
            }


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as photo:
            return ImageOps.exif_transpose(photo).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(path, f"not a readable image ({error})", "remove it from the folder") from error


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
