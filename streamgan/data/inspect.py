"""`streamgan inspect`: what is in a set, from its manifest and indexes, and some of its pairs to look at.

Counts and byte sizes are exact. Widths and heights stand beside the samples in their shards, so of a large
set those of `SIZES_OF` samples, or fewer at an address, chosen by a hash, stand for all.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from PIL import Image, ImageDraw

from streamgan.core.errors import ConfigError, DataError, file_error
from streamgan.core.logs import progress
from streamgan.core.seeding import hash64
from streamgan.core.storage.download import read_range
from streamgan.core.storage.files import atomic_write
from streamgan.core.storage.objects import Place as Address
from streamgan.core.storage.web import readable

from .format import Manifest, Sample, idx_name, open_index, read_idx, read_manifest
from .image import PIL_FORMATS, damage

SIZES_OF, SIZES_OF_REMOTE = 10_000, 100
CELL = 192  # pixels of an image on the sheet, at most, either way
GAP, LABEL = 8, 16
_VERIFY = "run `streamgan verify` on the set, then restore what it names"
_PAPER, _INK = (255, 255, 255), (90, 90, 90)


@dataclass(frozen=True)
class Summary:
    """What a set holds. `color_bytes` and `gray_bytes` are (min, median, max), gray's None without twins.

    `sizes` counts (width, height) over `sized` samples. Of `splits` only those that were asked for.
    """

    manifest: Manifest
    splits: dict[str, dict[str, int]]
    color_bytes: tuple[int, int, int] | None
    gray_bytes: tuple[int, int, int] | None
    sizes: Counter[tuple[int, int]]
    sized: int

    @property
    def samples(self) -> int:
        return sum(split["samples"] for split in self.splits.values())


@dataclass(frozen=True)
class Located:
    """Where a sample lies: its split, its shard, its index entry, its row in `SPLIT.index`."""

    split: str
    shard: str
    sample: Sample
    row: Any  # a record of INDEX_DTYPE


def inspect(root: Address | str, *, split: str | None = None, seed: int = 0) -> Summary:
    """Read the summary of the set in `root`, or of one split; writes nothing. DataError if it is damaged."""
    root = readable(root)
    manifest = read_manifest(root)
    if split is not None:
        manifest.split(split, root)
    names = [split] if split is not None else list(manifest.splits)
    rows = {name: open_index(root, name, manifest.splits[name]) for name in names}
    splits = {
        name: {
            "samples": manifest.splits[name].samples,
            "shards": len(manifest.splits[name].shards),
            "bytes": manifest.splits[name].bytes,
            "color_bytes": int(rows[name]["color_size"].sum(dtype=np.int64)),
            "gray_bytes": int(rows[name]["gray_size"].sum(dtype=np.int64)),
        }
        for name in names
    }
    color = np.concatenate([part["color_size"] for part in rows.values()])
    gray = np.concatenate([part["gray_size"] for part in rows.values()])
    sizes: Counter[tuple[int, int]] = Counter()
    count = SIZES_OF if isinstance(root, Path) else SIZES_OF_REMOTE  # several requests each
    places = choose(root, manifest, names, count=count, seed=seed)
    with progress(total=min(count, len(color)), unit=" samples", label="sizes") as bar:
        for place in places:
            sizes[_size(root, place)] += 1
            bar.update()
    return Summary(manifest, splits, _low_middle_high(color), _low_middle_high(gray), sizes, sizes.total())


def choose(
    root: Address | str, manifest: Manifest, names: Sequence[str], *, count: int, seed: int
) -> Iterator[Located]:
    """`count` random samples of the splits `names` (all, if there are fewer) in the order of the set.

    The choice depends on `seed` and on the number of samples alone.
    """
    root = readable(root)
    total = sum(manifest.splits[name].samples for name in names)
    chosen = np.sort(np.argsort(hash64(seed, 6, np.arange(total)), kind="stable")[:count])
    first = 0
    for name in names:
        rows, begin = open_index(root, name, manifest.splits[name]), 0
        for entry in manifest.splits[name].shards:
            low, high = np.searchsorted(chosen, [first + begin, first + begin + entry.samples])
            if low < high:
                samples = read_idx(root / idx_name(entry.name))
                if len(samples) != entry.samples:
                    what = f"{len(samples)} samples (the manifest says {entry.samples})"
                    raise DataError(root / idx_name(entry.name), what, _VERIFY)
                for number in chosen[low:high] - first:
                    yield Located(name, entry.name, samples[number - begin], rows[number])
            begin += entry.samples
        first += begin


def write_sheet(root: Address | str, path: Path | str, places: Sequence[Located]) -> None:
    """Write a contact sheet as PNG: of each sample gray | colour with its key below.

    A set without gray twins gets the luminance of the colour image. ConfigError if `path` lies in the set,
    where it would be a foreign file.
    """
    root, path = readable(root), Path(path)
    if isinstance(root, Path) and root.resolve() in path.resolve().parents:
        raise ConfigError(path, "lies in the folder of the set", "write the sheet to another folder")
    sheet = _draw_sheet(root, places)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            sheet.save(file, "PNG")
    except OSError as error:
        raise file_error(error, path, what="cannot be written", kind=ConfigError) from error


def _low_middle_high(sizes: np.ndarray) -> tuple[int, int, int] | None:
    present = sizes[sizes > 0]
    return (int(present.min()), int(np.median(present)), int(present.max())) if len(present) else None


def _read(root: Address, place: Located, offset: int, size: int, crc32: int) -> bytes:
    path = root / place.shard
    where = f"{path}, key {place.sample.key}"
    try:
        if isinstance(path, Path):
            with open(path, "rb") as file:
                if offset + size > file.seek(0, io.SEEK_END):
                    what = f"lies outside the shard (bytes {offset}-{offset + size - 1})"
                    raise DataError(where, what, _VERIFY)
                file.seek(offset)
                data = file.read(size)
        else:
            data = read_range(path.url, offset, offset + size)
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise DataError(path, what, "check the disk, restore the shard") from error
    if len(data) != size or isal_zlib.crc32(data) != crc32:
        raise DataError(where, "is damaged (CRC)", _VERIFY)
    return data


def _image(root: Address, place: Located, kind: str) -> Image.Image | None:
    """The colour image or the gray twin (None if there is none), opened but not decoded."""
    offset, size, crc32 = (int(place.row[f"{kind}_{part}"]) for part in ("offset", "size", "crc32"))
    if not size:
        return None
    data = io.BytesIO(_read(root, place, offset, size, crc32))
    return Image.open(data, formats=tuple(PIL_FORMATS.values()))


def _size(root: Address, place: Located) -> tuple[int, int]:
    """(width, height): as written beside the sample, otherwise from the header of the colour image."""
    for member in place.sample.members:
        if member.suffix == "json":
            data = _read(root, place, member.offset, member.size, member.crc32)
            with _naming(root, place):
                about: dict[str, Any] = json.loads(data)
                if "width" in about and "height" in about:
                    return int(about["width"]), int(about["height"])
    with _naming(root, place):
        color = _image(root, place, "color")
    assert color is not None, "every sample has a colour image"
    return color.size


@contextmanager
def _naming(root: Address, place: Located) -> Iterator[None]:
    """An image that does not decode as DataError with shard and key."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # PIL raises half a dozen unrelated types
        where = f"{root / place.shard}, key {place.sample.key}"
        what = f"does not decode ({damage(error)})"
        raise DataError(where, what, "shard the source again with --check decode") from error


def _pair(root: Address, place: Located) -> tuple[Image.Image, Image.Image]:
    """(gray, colour) as RGB, each at most `CELL` pixels wide and high."""
    color = _image(root, place, "color")
    assert color is not None, "every sample has a colour image"
    color.draft("RGB", (CELL, CELL))  # a JPEG is decoded near the size that is needed
    color = color.convert("RGB")
    gray = _image(root, place, "gray") or color.convert("L")
    small = []
    for image in (gray.convert("RGB"), color):
        image.thumbnail((CELL, CELL))
        small.append(image)
    return small[0], small[1]


def _draw_sheet(root: Address, places: Sequence[Located]) -> Image.Image:
    """Pairs in rows, about 4:3 altogether."""
    wide, high = 2 * CELL + 3 * GAP, CELL + LABEL + GAP
    columns = max(1, min(len(places), round(math.sqrt(len(places) * 4 / 3 * high / wide))))
    sheet = Image.new("RGB", (columns * wide, -(-len(places) // columns) * high + GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, place in enumerate(places):
        left, top = number % columns * wide + GAP, number // columns * high + GAP
        with _naming(root, place):
            pair = _pair(root, place)
        for side, image in enumerate(pair):
            x = left + side * (CELL + GAP) + (CELL - image.width) // 2
            sheet.paste(image, (x, top + (CELL - image.height) // 2))
        draw.text((left, top + CELL + 1), f"{place.split}  {place.sample.key}", fill=_INK)
    return sheet
