"""Bytes by offset: one pread per member of a sample, its CRC-32 checked.

No tar is parsed while training: the packed index says where every image lies. A reader may be sent to other
processes, each of which opens its own files and asks nothing again that is known.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib

from streamgan.core.errors import DataError, file_error
from streamgan.core.storage.address import is_remote, redacted
from streamgan.data.format import Member, SplitEntry
from streamgan.data.reading import DEFAULT_CACHE, DEFAULT_CACHE_GB, cache_folder

from .cached import CachedFiles
from .coalesce import ByteRange
from .known_set import read_set
from .local import LocalFiles
from .node_cache import NodeCache
from .ranged import RangedFiles


class Encoded(NamedTuple):
    """A sample's encoded images, as they lie in the shard. `gray` is None unless asked for."""

    color: bytes
    gray: bytes | None


Files = LocalFiles | RangedFiles | CachedFiles


@contextmanager
def unplanned(all_files: Sequence[Files]) -> Iterator[None]:
    """For reading what no plan has foreseen: a shard that nobody fetches is read by range, not waited for."""
    for files in all_files:
        files.waits = False
    try:
        yield
    finally:
        for files in all_files:
            files.waits = True


class ShardReader:
    """Random access to the encoded images of one split of a shard set, in a folder or at an address.

    `cache` is the folder for shards that come from an address, which holds at most `cache_gb` GB; None or
    "none" reads single images by range. `files` are the split's shards, wherever they lie.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        *,
        cache: str | Path | None = DEFAULT_CACHE,
        cache_gb: float = DEFAULT_CACHE_GB,
    ):
        root, self.manifest = read_set(str(root), cache)
        self.root = redacted(root)
        self.split = split
        self.entry = self.manifest.split(split, self.root)
        self.files = _files(root, split, self.entry, cache, cache_gb)
        self.shard_sizes = [shard.samples for shard in self.entry.shards]
        self.starts = np.concatenate(([0], np.cumsum(self.shard_sizes)))
        self._expected: dict[int, tuple[int, ...]] = {}  # rows of the index, by sample
        # now, so that a damaged index is known at once
        if isinstance(self.files, LocalFiles) or not self.files.begins_with_part(self._shard(0)):
            self.index = self.files.load_index()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("manifest", "index")}

    @cached_property
    def index(self) -> np.ndarray:
        """The whole index, which of a large set at an address nothing but this property fetches."""
        return self.files.load_index()

    def rows(self, sample_ids: np.ndarray) -> np.ndarray:
        """Where the images of these samples lie, as INDEX_DTYPE."""
        if isinstance(self.files, LocalFiles) or self.files.parts is None:
            return self.index[sample_ids]
        shards = self.shards_of(sample_ids)
        return self.files.rows(shards, sample_ids - self.starts[shards])

    def __len__(self) -> int:
        return self.entry.samples

    @property
    def digest(self) -> str:
        """The identity of the shard set."""
        return self.manifest.digest

    @property
    def has_gray(self) -> bool:
        """Whether the samples have gray twins (a set has them throughout or not at all)."""
        return bool(self.rows(np.zeros(1, np.int64))["gray_size"][0])

    def read(self, sample_id: int, *, gray: bool = False) -> Encoded:
        """The encoded colour image (and gray twin) of a sample; DataError naming shard and key if damaged."""
        try:
            return self._read(sample_id, gray=gray)
        except DataError:
            if not self.files.renew_index():
                raise
        vars(self).pop("index", None)
        self._expected = {}
        return self._read(sample_id, gray=gray)

    def _read(self, sample_id: int, *, gray: bool) -> Encoded:
        row = self._expected.get(sample_id) or self.rows(np.array([sample_id]))[0].item()
        color = self._member(sample_id, "color", *row[:3])
        return Encoded(color, self._member(sample_id, "gray", *row[3:]) if gray else None)

    def expect(self, sample_ids: np.ndarray, *, gray: bool) -> None:
        """These samples are read next, until `release`: images by range are all asked for at once."""
        rows = self.rows(sample_ids)
        self._expected = dict(zip(sample_ids.tolist(), rows.tolist(), strict=True))
        if isinstance(self.files, LocalFiles):
            return
        shards = self.shards_of(sample_ids)
        ranged = np.isin(shards, [one for one in np.unique(shards).tolist() if self.files.is_by_range(one)])
        if ranged.any():
            rows, numbers = rows[ranged], shards[ranged].tolist()
            self.files.expect(
                [
                    ByteRange(shard, offset, size)
                    for kind in (("color", "gray") if gray else ("color",))
                    for shard, offset, size in zip(
                        numbers, rows[f"{kind}_offset"].tolist(), rows[f"{kind}_size"].tolist(), strict=True
                    )
                ]
            )

    def shards_of(self, sample_ids: np.ndarray) -> np.ndarray:
        """The shard that each sample is in."""
        return np.searchsorted(self.starts, sample_ids, side="right") - 1

    def where(self, sample_id: int) -> str:
        """`SHARD, key KEY` of a sample, for messages."""
        shard = self._shard(sample_id)
        number = sample_id - int(self.starts[shard])
        try:
            key = f"key {self.files.samples(shard)[number].key}"
        except (DataError, IndexError):  # its index is damaged as well
            key = f"sample {number}"
        return f"{self.files.name(shard)}, {key}"

    @property
    def all_files(self) -> "list[Files]":
        """The shards of every set; of one here."""
        return [self.files]

    def while_waiting(self, heartbeat: Callable[[], None]) -> None:
        """What to call now and then while bytes are waited for."""
        self.files.heartbeat = heartbeat

    def release(self) -> None:
        """Between batches: close shards whose space may be wanted."""
        self.files.release()

    def close(self) -> None:
        """Close the shards this process has open; reading again reopens them."""
        if hasattr(self, "files"):
            self.files.close()

    def _shard(self, sample_id: int) -> int:
        return int(self.starts.searchsorted(sample_id, "right")) - 1

    def _member(self, sample_id: int, kind: str, offset: int, size: int, crc32: int) -> bytes:
        if kind == "gray" and not size:
            raise DataError(self.where(sample_id), "has no gray twin", "use data.gray=derive")
        lies = Member(f"{kind} image", offset, size, crc32)
        return self.read_member(sample_id, lies, index=f"{self.split}.index")

    def read_member(self, sample_id: int, member: Member, *, index: str) -> bytes:
        """The bytes of a file of a sample, which is where the file `index` says; DataError if damaged."""
        offset, size, shard, attempt = member.offset, member.size, self._shard(sample_id), 0
        if offset + size > (whole := self.entry.shards[shard].bytes):
            what = f"{index} is damaged (bytes {offset}-{offset + size - 1} of {whole})"
            raise DataError(
                self.where(sample_id), what, f"run `streamgan verify {self.root}`, restore the index"
            )
        while True:
            attempt += 1
            try:
                data = self.files.read(shard, size, offset)
            except OSError as error:
                raise file_error(error, self.where(sample_id), what="cannot be read") from error
            if len(data) == size and isal_zlib.crc32(data) == member.crc32:
                return data
            if not self.files.retry(shard, attempt):
                break
        what = f"the {member.suffix} is damaged (CRC)"
        if len(data) < size:
            what = f"cut short ({len(data)} of {size} bytes)"
        todo = f"run `streamgan verify {self.root}`, then restore what it names or shard the source again"
        raise DataError(self.where(sample_id), what, todo)


def _files(root: str, split: str, entry: SplitEntry, cache: str | Path | None, cache_gb: float) -> Files:
    if not is_remote(root):
        return LocalFiles(Path(root), split, entry)
    if (folder := cache_folder(cache)) is None:
        return RangedFiles(root, split, entry)
    return CachedFiles(root, split, entry, NodeCache(folder, int(cache_gb * 1e9)))
