"""Single images of shards at an address, by range: nothing is kept but the index, in shared memory."""

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamgan.core.shared_memory import SharedMemory
from streamgan.core.storage.address import redacted
from streamgan.core.storage.download import read_whole
from streamgan.data.format import INDEX_DTYPE, SplitEntry, load_index

from .coalesce import ByteRange, Coming
from .remote import RemoteFiles
from .verified_download import MAX_DOWNLOADS, never_right


class RangedFiles(RemoteFiles):
    """The shards of a split of which images are read by range."""

    def __init__(self, root: str, split: str, entry: SplitEntry):
        super().__init__(root, split, entry)
        self._coming: Coming | None = None
        self._index: SharedMemory | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_coming": None}

    def load_index(self) -> np.ndarray:
        if self._index is None:
            rows = self._download_index()
            self._index = SharedMemory(rows.nbytes)
            self._index.map[:] = rows.tobytes()
        return np.frombuffer(self._index.map, INDEX_DTYPE)

    def _download_index(self) -> np.ndarray:
        for _ in range(MAX_DOWNLOADS):
            data = read_whole(self.index_address)
            if hashlib.sha256(data).hexdigest() == self.entry.index_sha256:
                return load_index(redacted(self.index_address), io.BytesIO(data), self.entry)
        raise never_right(self.index_address)

    def expect(self, pieces: Sequence[ByteRange]) -> None:
        """These are read next, until `release`: ask for all of them at once."""
        self.release()
        self._coming = Coming(pieces, self.fetch)

    def read(self, shard: int, size: int, offset: int) -> bytes:
        self.num_missed += 1  # whether asked for before or not, it was not here
        data = self._coming and self._coming.take(ByteRange(shard, offset, size), self.heartbeat)
        return self.read_by_range(shard, size, offset) if data is None else data

    def retry(self, shard: int, attempt: int) -> bool:
        """After damaged bytes at the n-th attempt: whether to read once more."""
        return attempt < MAX_DOWNLOADS

    def release(self) -> None:
        """What was expected is no longer."""
        if self._coming:
            self._coming.close()
            self._coming = None

    close = release
