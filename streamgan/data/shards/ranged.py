"""Single images of shards at an address, by range: nothing is kept but the index, in shared memory."""

import io

import numpy as np

from streamgan.core.shared_memory import SharedMemory
from streamgan.core.storage.address import redacted
from streamgan.data.format import INDEX_DTYPE, SplitEntry, load_index

from .known_set import once
from .remote import RemoteFiles
from .verified_download import MAX_DOWNLOADS, read_sealed


class RangedFiles(RemoteFiles):
    """The shards of a split of which images are read by range."""

    def __init__(self, root: str, split: str, entry: SplitEntry):
        super().__init__(root, split, entry)
        self._index: SharedMemory | None = None

    def load_index(self) -> np.ndarray:
        if self._index is None:
            self._index = once(self._fetch_index, "index", self.index_address, self.entry.index_sha256)
        return np.frombuffer(self._index.map, INDEX_DTYPE)

    def _fetch_index(self) -> SharedMemory:
        data = read_sealed(self.index_address, self.entry.index_sha256)
        rows = load_index(redacted(self.index_address), io.BytesIO(data), self.entry)
        index = SharedMemory(rows.nbytes)
        index.map[:] = rows.tobytes()
        return index

    def read(self, shard: int, size: int, offset: int) -> bytes:
        return self.read_by_range(shard, size, offset)

    def retry(self, shard: int, attempt: int) -> bool:
        """After damaged bytes at the n-th attempt: whether to read once more."""
        return attempt < MAX_DOWNLOADS

    def release(self) -> None:
        self.forget()

    close = release
