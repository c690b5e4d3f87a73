"""Bytes by offset: one pread a member from a local shard, its CRC-32 checked.

No tar is parsed while training: the packed index says where every image lies. A reader may be used in several
processes (each opens its own files); it keeps at most `MAX_OPEN` shards open.
"""

import os
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from streamgan.core.errors import DataError

from .format import idx_name, open_index, read_idx, read_manifest

MAX_OPEN = 128


class Encoded(NamedTuple):
    """A sample's encoded images, as they lie in the shard. `gray` is None unless asked for."""

    color: bytes
    gray: bytes | None


class ShardReader:
    """Random access to the encoded images of one split of a local shard set."""

    def __init__(self, root: Path | str, split: str):
        self._open: OrderedDict[int, int] = OrderedDict()
        self._pid = os.getpid()
        self.root = Path(root)
        self.split = split
        self.manifest = read_manifest(root)
        self.entry = self.manifest.split(split, self.root)
        self.index = open_index(self.root, split, self.entry)
        self.shard_sizes = [shard.samples for shard in self.entry.shards]
        self.starts = np.concatenate(([0], np.cumsum(self.shard_sizes)))

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # a descriptor has one owner

    def __len__(self) -> int:
        return self.entry.samples

    @property
    def digest(self) -> str:
        """The identity of the shard set."""
        return self.manifest.digest

    @property
    def has_gray(self) -> bool:
        """Whether the samples have gray twins (a set has them throughout or not at all)."""
        return bool(self.index[0]["gray_size"])

    def read(self, sample_id: int, *, gray: bool = False) -> Encoded:
        """The encoded colour image (and gray twin) of a sample; DataError naming shard and key if damaged."""
        row = self.index[sample_id]
        color = self._member(sample_id, row, "color")
        return Encoded(color, self._member(sample_id, row, "gray") if gray else None)

    def where(self, sample_id: int) -> str:
        """`SHARD, key KEY` of a sample, for messages."""
        shard = self._shard(sample_id)
        name = self.entry.shards[shard].name
        key = read_idx(self.root / idx_name(name))[sample_id - int(self.starts[shard])].key
        return f"{self.root / name}, key {key}"

    def close(self) -> None:
        """Close the shards this process has open; reading again reopens them."""
        if self._pid == os.getpid():  # descriptors inherited by a fork belong to the parent
            for descriptor in self._open.values():
                os.close(descriptor)
        self._open.clear()

    def _shard(self, sample_id: int) -> int:
        return int(np.searchsorted(self.starts, sample_id, side="right")) - 1

    def _member(self, sample_id: int, row: np.void, kind: Literal["color", "gray"]) -> bytes:
        offset, size = int(row[f"{kind}_offset"]), int(row[f"{kind}_size"])
        if kind == "gray" and not size:
            raise DataError(self.where(sample_id), "has no gray twin", "use data.gray=derive")
        descriptor = self._descriptor(self._shard(sample_id))
        try:
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
            raise DataError(self.where(sample_id), what, "check the disk, restore the shard") from error
        if len(data) != size or zlib.crc32(data) != int(row[f"{kind}_crc32"]):
            what = (
                f"cut short ({len(data)} of {size} bytes)"
                if len(data) < size
                else f"the {kind} image is damaged (CRC)"
            )
            raise DataError(
                self.where(sample_id), what, "run `streamgan verify`, then restore or re-make the shard"
            )
        return data

    def _descriptor(self, shard: int) -> int:
        if self._pid != os.getpid():
            self._open.clear()
            self._pid = os.getpid()
        if shard not in self._open:
            path = self.root / self.entry.shards[shard].name
            try:
                self._open[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise DataError(
                    path, f"cannot be opened ({error.strerror})", "restore or re-make the shard"
                ) from error
            if len(self._open) > MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]
