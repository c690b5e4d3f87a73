"""The shards of a split in a folder."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from streamgan.core.errors import DataError, file_error
from streamgan.data.format import Sample, SplitEntry, idx_name, open_index, read_idx

from .open_files import FileId, OpenShards


class LocalFiles:
    """The shards of a split in the folder `root`; each process that reads opens its own."""

    num_missed = 0  # nothing has to arrive first
    waits = True  # unused, as `heartbeat`: nothing has to be waited for
    heartbeat: Callable[[], None]

    def __init__(self, root: Path, split: str, entry: SplitEntry):
        self.root, self.split, self.entry = root, split, entry
        self._open = OpenShards()
        self._index: FileId | None = None

    def load_index(self) -> np.ndarray:
        """The index; DataError if it is another file than the first time, in whatever process that was."""
        path = self.root / f"{self.split}.index"
        found = FileId.of(path)
        if self._index not in (None, found):
            todo = "end what writes there, then run the same command again"
            raise DataError(path, "was replaced while the set is read", todo)
        self._index = found
        return open_index(self.root, self.split, self.entry)

    def name(self, shard: int) -> str:
        return str(self.root / self.entry.shards[shard].name)

    def samples(self, shard: int) -> list[Sample]:
        """The samples of a shard as its `.idx` lists them."""
        return read_idx(self.root / idx_name(self.entry.shards[shard].name))

    def read(self, shard: int, size: int, offset: int) -> bytes:
        descriptor = self._open.get(shard)
        if descriptor is None:
            try:
                descriptor = self._open.add(shard, os.open(self.name(shard), os.O_RDONLY))
            except FileNotFoundError as error:
                todo = "restore it, or shard the source again"
                raise DataError(self.name(shard), f"cannot be opened ({error.strerror})", todo) from error
            except OSError as error:
                raise file_error(error, self.name(shard), what="cannot be opened") from error
        return os.pread(descriptor, size, offset)

    def retry(self, shard: int, attempt: int) -> bool:
        """After damaged bytes at the n-th attempt: whether to read once more."""
        return False

    def renew_index(self) -> bool:
        """Whether the index was damaged since it was read, and is right again: there is no other copy."""
        return False

    def release(self) -> None:
        """What is open may stay so."""

    def close(self) -> None:
        self._open.close()
