"""The index of a large split at an address, shard by shard, in memory that loader processes share.

`SPLIT.index` has one seal for all of it, so none of it may be used before all of it is here. The `.idx` of a
shard says the same of its samples and has a seal of its own: it is five times as long, and a thousandth of
its shard. What is made of it here takes memory from when it is put until it is dropped.
"""

import mmap

import numpy as np

from streamgan.core.shared_memory import SharedMemory
from streamgan.data.format import INDEX_DTYPE, SplitEntry, index_size

WHOLE_BYTES = 256_000_000  # an index up to here (8 million samples) is fetched whole
_PAGE_ROWS = mmap.PAGESIZE // INDEX_DTYPE.itemsize


def in_parts(samples: int) -> bool:
    """Whether the index of a split at an address is fetched shard by shard."""
    return index_size(samples) > WHOLE_BYTES


class IndexParts:
    """The rows of the shards that are known. Any process may put some; the training process drops them."""

    def __init__(self, entry: SplitEntry):
        pages = -(-np.array([one.samples for one in entry.shards]) // _PAGE_ROWS)
        self._starts = np.concatenate(([0], np.cumsum(pages))) * _PAGE_ROWS  # no two shards share a page
        self._flags = int(self._starts[-1]) * INDEX_DTYPE.itemsize  # where there is a byte for each shard
        self._memory = SharedMemory(self._flags + len(pages))

    def known(self, shard: int) -> bool:
        return bool(self._memory.map[self._flags + shard])

    def rows(self, shards: np.ndarray, numbers: np.ndarray) -> np.ndarray | None:
        """A copy of the rows of these samples of these shards; None if one of them is not known."""
        rows = np.frombuffer(self._memory.map, INDEX_DTYPE, int(self._starts[-1]))
        found = rows[self._starts[shards] + numbers]
        # looked at afterwards: they may have been dropped meanwhile, and then were 0
        known = np.frombuffer(self._memory.map, np.uint8, len(self._starts) - 1, self._flags)[shards]
        return found if known.all() and found["color_size"].all() else None

    def put(self, shard: int, rows: np.ndarray) -> None:
        """Make the rows of a shard known, all of which have a colour image."""
        begin = int(self._starts[shard]) * INDEX_DTYPE.itemsize
        self._memory.map[begin : begin + rows.nbytes] = rows.tobytes()
        self._memory.map[self._flags + shard] = 1

    def drop(self, shard: int) -> None:
        """Give back the memory of a shard's rows."""
        if self.known(shard):
            self._memory.map[self._flags + shard] = 0
            begin, end = (int(self._starts[edge]) * INDEX_DTYPE.itemsize for edge in (shard, shard + 1))
            self._memory.free(begin, end)
