"""Shard set, format 1: the files of a set and what stands in them; shards/README.md says it to others.

A set is plain WebDataset tars plus what makes them exact: `manifest.json` (the table of contents, with
a digest of itself), one `.idx` per shard (where each member lies, with its CRC-32), and one packed
`SPLIT.index` per split, a numpy array that readers memory-map. Ids are positions in that array: shards in
manifest order, samples in tar order.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from streamgan.core.errors import DataError, file_error
from streamgan.core.storage.address import is_remote, join, redacted
from streamgan.core.storage.download import read_whole
from streamgan.core.storage.files import atomic_write, canonical_sha256, parse_json, read_json, write_json
from streamgan.core.storage.place import Place, place

FORMAT = "streamgan-shards"
VERSION = 1
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
SPLITS = ("train", "val", "test")

_SAMPLE, _MEMBER = "[%s, %d, %d, {%s}]", "%s: [%d, %d, %d]"  # a line of an .idx file
_RESTORE_IDX = "restore it or shard the source again"

INDEX_DTYPE = np.dtype(
    [
        ("color_offset", "<u8"),  # byte offset of the colour image's data in its shard
        ("color_size", "<u4"),
        ("color_crc32", "<u4"),
        ("gray_offset", "<u8"),
        ("gray_size", "<u4"),  # 0: the sample has no gray twin
        ("gray_crc32", "<u4"),
    ]
)


class Member(NamedTuple):
    """One file of a sample: `suffix` (color.jpg, gray.png, json), where its data lies, its CRC-32."""

    suffix: str
    offset: int
    size: int
    crc32: int


class Sample(NamedTuple):
    """One sample of a shard: its key and members; header and data lie in [offset, offset + span)."""

    key: str
    offset: int
    span: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class ShardEntry:
    """A shard as the manifest lists it. `idx_sha256` seals `NAME.idx`."""

    name: str
    samples: int
    bytes: int
    sha256: str
    idx_sha256: str


@dataclass(frozen=True)
class SplitEntry:
    """A split as the manifest lists it. `index_sha256` seals `SPLIT.index`."""

    samples: int
    bytes: int
    index_sha256: str
    shards: tuple[ShardEntry, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """By columns: every loader process is sent a copy, and objects one by one take ten times as long."""
        columns = [[getattr(shard, one.name) for shard in self.shards] for one in fields(ShardEntry)]
        return _of_columns, (self.samples, self.bytes, self.index_sha256, columns)


def _of_columns(samples: int, size: int, index_sha256: str, columns: list[list[Any]]) -> SplitEntry:
    return SplitEntry(samples, size, index_sha256, tuple(map(ShardEntry, *columns)))


@dataclass(frozen=True)
class Manifest:
    """The table of contents. `digest` is the identity of the set: equal digests, equal shard bytes."""

    source: dict[str, Any]
    options: dict[str, Any]
    splits: dict[str, SplitEntry]
    quarantine: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """What the file says beside the digest; not copied, which takes seconds for 100,000 shards."""
        splits = {
            name: {**vars(split), "shards": [vars(shard) for shard in split.shards]}
            for name, split in self.splits.items()
        }
        head = {"format": FORMAT, "version": VERSION, "source": self.source, "options": self.options}
        return {**head, "splits": splits, "quarantine": self.quarantine}

    @cached_property
    def digest(self) -> str:
        return canonical_sha256(self.body())

    def split(self, name: str, root: Place | str) -> SplitEntry:
        """The split `name`; DataError naming the ones there are if it is missing or empty."""
        if name not in self.splits or not self.splits[name].samples:
            have = ", ".join(
                f"{key} ({value.samples})" for key, value in self.splits.items() if value.samples
            )
            raise DataError(
                root, f"no samples in split {name!r} (got {have or 'none'})", "choose one of these"
            )
        return self.splits[name]


def write_manifest(root: Path | Place, manifest: Manifest) -> None:
    """Publish the set: written last, its presence says that everything it names is complete."""
    write_json(root / MANIFEST, {"digest": manifest.digest, **manifest.body()})


def read_manifest(root: Path | Place | str) -> Manifest:
    """The manifest of the set in the folder, or at the address, `root`, its digest checked."""
    todo = "run the `streamgan shard` command of this set again to finish it"
    if isinstance(root, str) and is_remote(root):
        address = join(root, MANIFEST)
        for last in (False, False, True):
            data = read_whole(address)
            try:
                return checked_manifest(redacted(address), parse_json(redacted(address), data, todo=todo))
            except DataError:  # perhaps it was damaged on the way
                if last:
                    raise
    folder = place(root)
    if isinstance(folder, Path) and not folder.is_dir():
        raise DataError(root, "no such folder of shards", "make one with `streamgan shard SOURCE --out DIR`")
    path = folder / MANIFEST
    return checked_manifest(path, read_json(path, todo=todo))


def checked_manifest(path: Path | Place | str, raw: Any) -> Manifest:
    """The manifest that the JSON value `raw` of `path` is; DataError if it is none, or damaged."""
    from .schema import Body, short, wrong_type  # it takes a tenth of a second; sharders do without

    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise DataError(path, "not a streamgan manifest", "point at a folder written by `streamgan shard`")
    if repr(raw.get("version")) != repr(VERSION):  # true and 1.0 are equal to 1
        what = f"format version {short(raw.get('version'))} (this release reads {VERSION})"
        raise DataError(path, what, "upgrade streamgan")
    todo = "restore the file or shard the source again"
    if what := wrong_type(Body, raw):
        raise DataError(path, f"damaged ({what})", todo)
    splits = {
        name: SplitEntry(**{**split, "shards": tuple(ShardEntry(**shard) for shard in split["shards"])})
        for name, split in raw["splits"].items()
    }
    manifest = Manifest(raw["source"], raw["options"], splits, raw["quarantine"])
    if manifest.digest != raw.get("digest"):
        raise DataError(path, "its digest does not match its content", todo)
    if what := next(_contradictions(manifest), None):
        raise DataError(path, f"contradicts itself: {what}", todo)
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What no program that makes sets rightly writes, though its digest holds."""
    if "files" not in manifest.source:
        yield "source.files is missing"
    for name, split in manifest.splits.items():
        for what in ("samples", "bytes"):
            said, total = getattr(split, what), sum(getattr(shard, what) for shard in split.shards)
            if said != total:
                yield f"splits.{name}.{what} is {said}, its shards have {total}"
    names = Counter(shard.name for split in manifest.splits.values() for shard in split.shards)
    yield from (f"{name} is listed twice" for name, count in names.items() if count > 1)
    rows, reasons = manifest.quarantine["rows"], sum(manifest.quarantine["reasons"].values())
    if rows != reasons:
        yield f"quarantine.rows is {rows}, its reasons add up to {reasons}"


def idx_name(shard_name: str) -> str:
    """train-000000.tar -> train-000000.idx"""
    return shard_name.removesuffix(".tar") + ".idx"


def idx_bytes(shard: dict[str, Any], samples: list[Sample]) -> bytes:
    """A shard's index: `shard` (name, bytes, sha256), then one line per sample."""
    head = json.dumps({"format": FORMAT, "version": VERSION, **shard})
    lines = []  # as json.dumps would have them, which makes an encoder for each
    for key, *where, members in samples:
        listed = ", ".join([_MEMBER % (_quoted(suffix), *at) for suffix, *at in members])
        lines.append(_SAMPLE % (_quoted(key), *where, listed))
    return (head[:-1] + ', "samples": [\n' + ",\n".join(lines) + "\n]}\n").encode()


def read_idx(path: Path | Place) -> list[Sample]:
    """The samples that a `.idx` file lists, in tar order."""
    return _samples(path, read_json(path, todo=_RESTORE_IDX))


def parse_idx(path: str, data: bytes) -> list[Sample]:
    """As `read_idx`, of the bytes `data` of `path`."""
    return _samples(path, parse_json(path, data, todo=_RESTORE_IDX))


def _samples(path: Path | Place | str, raw: Any) -> list[Sample]:
    from .schema import Idx, wrong_type

    if what := wrong_type(Idx, raw):
        raise DataError(path, f"damaged ({what})", _RESTORE_IDX)
    return [
        Sample(key, offset, span, tuple(Member(suffix, *where) for suffix, where in members.items()))
        for key, offset, span, members in raw["samples"]
    ]


def pack_index(samples: list[Sample]) -> np.ndarray:
    """Samples as an array of INDEX_DTYPE, one row each, 32 bytes per row."""
    none = (0, 0, 0)
    by_kind = (
        {member.suffix.split(".", 1)[0]: member[1:] for member in sample.members} for sample in samples
    )
    return np.array([(*one.get("color", none), *one.get("gray", none)) for one in by_kind], INDEX_DTYPE)


def index_bytes(rows: np.ndarray) -> bytes:
    """A split's packed index as a .npy file (format version 1.0 of numpy's NEP 1)."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, rows, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def index_size(samples: int) -> int:
    """Bytes of `index_bytes` of so many rows."""
    head = io.BytesIO()
    about = {"descr": INDEX_DTYPE.descr, "fortran_order": False, "shape": (samples,)}
    np.lib.format.write_array_header_1_0(head, about)
    return head.tell() + samples * INDEX_DTYPE.itemsize


def write_index(path: Path | Place, rows: np.ndarray) -> None:
    """Write `index_bytes`, atomically."""
    with atomic_write(path) as file:
        file.write(index_bytes(rows))


def open_index(root: Path | Place, split: str, entry: SplitEntry) -> np.ndarray:
    """The packed index of a split, memory-mapped in a folder, its length checked against the manifest."""
    path = root / f"{split}.index"
    return load_index(path, path if isinstance(path, Path) else io.BytesIO(path.read_bytes()), entry)


def load_index(where: Path | Place | str, file: Path | BinaryIO, entry: SplitEntry) -> np.ndarray:
    """The packed index in `file`, memory-mapped if that is a path; messages call it `where`."""
    todo = "run `streamgan verify` on the set, then shard the source again"
    try:
        if isinstance(file, Path):
            rows = np.lib.format.open_memmap(file, mode="r")
        else:
            rows = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(where, "cannot be read (no such file)", todo) from error
    except OSError as error:
        raise file_error(error, where, what="cannot be read") from error
    except Exception as error:  # numpy evaluates the header, which fails in many ways
        raise DataError(where, "cannot be read (damaged or cut)", todo) from error
    if rows.dtype != INDEX_DTYPE or rows.shape != (entry.samples,):
        what = f"{'x'.join(map(str, rows.shape))} rows of {rows.dtype} (the manifest says {entry.samples})"
        raise DataError(where, what, todo)
    return rows
