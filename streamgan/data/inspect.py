"""`streamgan inspect`: what is in a set, from its manifest and indexes, and some of its pairs to look at.

Counts and byte sizes are exact. Widths and heights stand beside the samples in their shards, so of a large
set those of `SIZES_OF` samples, or fewer at an address, chosen by a hash, stand for all.
"""

import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from streamgan.core.errors import ConfigError, DataError, file_error
from streamgan.core.logs import progress
from streamgan.core.seeding import hash64
from streamgan.core.storage.address import is_remote
from streamgan.core.storage.files import atomic_write

from .format import Manifest, Sample, idx_name
from .image import PIL_FORMATS, damage
from .shards.known_set import read_set, reading_once
from .shards.reader import ShardReader
from .shards.remote import NotArrived

SIZES_OF, SIZES_OF_REMOTE = 10_000, 100
CELL = 192  # pixels of an image on the sheet, at most, either way
GAP, LABEL = 8, 16
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


class Located(NamedTuple):
    """A sample, with the reader that reads it by `id`."""

    reader: ShardReader
    id: int
    sample: Sample

    @property
    def split(self) -> str:
        return self.reader.split

    @property
    def shard(self) -> str:
        return self.reader.entry.shards[int(self.reader.shards_of(np.asarray(self.id)))].name

    @property
    def where(self) -> str:
        return self.reader.where(self.id)


def inspect(root: Path | str, *, split: str | None = None, seed: int = 0) -> Summary:
    """Read the summary of the set in `root`, or of one split; writes nothing. DataError if it is damaged."""
    readers = _open(root, split)
    manifest = readers[0].manifest
    rows = {reader.split: reader.index for reader in readers}
    splits = {
        name: {
            "samples": entry.samples,
            "shards": len(entry.shards),
            "bytes": entry.bytes,
            "color_bytes": int(rows[name]["color_size"].sum(dtype=np.int64)) if name in rows else 0,
            "gray_bytes": int(rows[name]["gray_size"].sum(dtype=np.int64)) if name in rows else 0,
        }
        for name, entry in manifest.splits.items()
        if split in (None, name)
    }
    color = np.concatenate([part["color_size"] for part in rows.values()])
    gray = np.concatenate([part["gray_size"] for part in rows.values()])
    sizes: Counter[tuple[int, int]] = Counter()
    count = SIZES_OF_REMOTE if is_remote(str(root)) else SIZES_OF  # several requests each
    with progress(total=min(count, len(color)), unit=" samples", label="sizes") as bar:
        for place in _choose(readers, count, seed):
            sizes[_size(place)] += 1
            bar.update()
    return Summary(manifest, splits, _low_middle_high(color), _low_middle_high(gray), sizes, sizes.total())


def choose(root: Path | str, split: str | None = None, *, count: int, seed: int) -> Iterator[Located]:
    """`count` random samples of a split, or of all, in the order of the set; all if there are fewer.

    The choice depends on `seed` and on the number of samples alone.
    """
    return _choose(_open(root, split), count, seed)


def _open(root: Path | str, split: str | None) -> list[ShardReader]:
    with reading_once():
        splits = read_set(str(root), None)[1].splits
        names = [split] if split is not None else [name for name, one in splits.items() if one.samples]
        return [ShardReader(root, name, cache=None) for name in names or ["train"]]


def _choose(readers: Sequence[ShardReader], count: int, seed: int) -> Iterator[Located]:
    total = sum(map(len, readers))
    chosen = np.sort(np.argsort(hash64(seed, 6, np.arange(total)), kind="stable")[:count])
    first = 0
    for reader in readers:
        mine = chosen[(chosen >= first) & (chosen < first + len(reader))] - first
        shards = reader.shards_of(mine)
        for shard in np.unique(shards).tolist():
            samples, entry = reader.files.samples(shard), reader.entry.shards[shard]
            if len(samples) != entry.samples:
                what = f"{len(samples)} samples (the manifest says {entry.samples})"
                todo = "run `streamgan verify` on the set, then restore what it names"
                raise DataError(idx_name(reader.files.name(shard)), what, todo)
            for number in mine[shards == shard].tolist():
                yield Located(reader, number, samples[number - int(reader.starts[shard])])
        first += len(reader)


def write_sheet(root: Path | str, path: Path | str, places: Sequence[Located]) -> None:
    """Write a contact sheet as PNG: of each sample gray | colour with its key below.

    A set without gray twins gets the luminance of the colour image. ConfigError if `path` lies in the set,
    where it would be a foreign file.
    """
    path = Path(path)
    inside = Path(os.path.realpath(root)) in Path(os.path.realpath(path)).parents
    if inside and not is_remote(str(root)):
        raise ConfigError(path, "lies in the folder of the set", "write the sheet to another folder")
    sheet = _draw_sheet(places)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            sheet.save(file, "PNG")
    except OSError as error:
        raise file_error(error, path, what="cannot be written", kind=ConfigError) from error


def _low_middle_high(sizes: np.ndarray) -> tuple[int, int, int] | None:
    present = sizes[sizes > 0]
    return (int(present.min()), int(np.median(present)), int(present.max())) if len(present) else None


def _size(place: Located) -> tuple[int, int]:
    """(width, height): as written beside the sample, otherwise from the header of the colour image."""
    with _naming(place):
        for member in place.sample.members:
            if member.suffix == "json":
                index = idx_name(place.shard)
                about: dict[str, Any] = json.loads(place.reader.read_member(place.id, member, index=index))
                if "width" in about and "height" in about:
                    return int(about["width"]), int(about["height"])
        return _opened(place.reader.read(place.id).color).size


def _opened(data: bytes) -> Image.Image:
    """An image that is not decoded yet."""
    return Image.open(io.BytesIO(data), formats=tuple(PIL_FORMATS.values()))


@contextmanager
def _naming(place: Located) -> Iterator[None]:
    """An image that does not decode as DataError with shard and key; so is one that does not arrive."""
    try:
        yield
    except NotArrived as error:
        raise DataError(error.where, error.what, error.todo) from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # PIL raises half a dozen unrelated types
        what = f"does not decode ({damage(error)})"
        raise DataError(place.where, what, "shard the source again with --check decode") from error


def _pair(place: Located) -> tuple[Image.Image, Image.Image]:
    """(gray, colour) as RGB, each at most `CELL` pixels wide and high."""
    encoded = place.reader.read(place.id, gray=place.reader.has_gray)
    color = _opened(encoded.color)
    color.draft("RGB", (CELL, CELL))  # a JPEG is decoded near the size that is needed
    color = color.convert("RGB")
    gray = color.convert("L") if encoded.gray is None else _opened(encoded.gray)
    small = []
    for image in (gray.convert("RGB"), color):
        image.thumbnail((CELL, CELL))
        small.append(image)
    return small[0], small[1]


def _draw_sheet(places: Sequence[Located]) -> Image.Image:
    """Pairs in rows, about 4:3 altogether."""
    wide, high = 2 * CELL + 3 * GAP, CELL + LABEL + GAP
    columns = max(1, min(len(places), round(math.sqrt(len(places) * 4 / 3 * high / wide))))
    sheet = Image.new("RGB", (columns * wide, -(-len(places) // columns) * high + GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, place in enumerate(places):
        left, top = number % columns * wide + GAP, number // columns * high + GAP
        with _naming(place):
            pair = _pair(place)
        for side, image in enumerate(pair):
            x = left + side * (CELL + GAP) + (CELL - image.width) // 2
            sheet.paste(image, (x, top + (CELL - image.height) // 2))
        draw.text((left, top + CELL + 1), f"{place.split}  {place.sample.key}", fill=_INK)
    return sheet
