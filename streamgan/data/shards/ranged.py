"""Single images of shards at an address, by range: nothing is kept but the index, in shared memory."""

import hashlib
import io

import numpy as np

from streamgan.core.shared_memory import SharedMemory
from streamgan.core.storage.address import redacted
from streamgan.core.storage.download import read_whole
from streamgan.data.format import INDEX_DTYPE, SplitEntry, load_index

from .remote import RemoteFiles
from .verified_download import MAX_DOWNLOADS, never_right


class RangedFiles(RemoteFiles):
    """The shards of a split of which images are read by range."""

    def __init__(self, root: str, split: str, entry: SplitEntry):
        super().__init__(root, split, entry)
        self._index: SharedMemory | None = None

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

    def read(self, shard: int, size: int, offset: int) -> bytes:
        return self.read_by_range(shard, size, offset)

    def retry(self, shard: int, attempt: int) -> bool:
        """After damaged bytes at the n-th attempt: whether to read once more."""
        return attempt < MAX_DOWNLOADS

    def release(self) -> None:
        self.forget()

    close = release
