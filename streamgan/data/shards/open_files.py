"""The shards that a process has open: the latest ones, and none that it has inherited by a fork."""

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MAX_OPEN = 512  # of 1024 that a process may open by default; a window of every lane wants some hundreds


class FileId(NamedTuple):
    """Which file lies at a path."""

    device: int
    inode: int
    size: int

    @classmethod
    def of(cls, path: Path) -> "FileId | None":
        """None if there is none."""
        try:
            about = path.stat()
        except OSError:
            return None
        return cls(about.st_dev, about.st_ino, about.st_size)


class OpenShards:
    """Descriptors by shard, `MAX_OPEN` at most. A pickled copy is empty: a descriptor has one owner."""

    def __init__(self, close: Callable[[int], None] = os.close):
        self._close, self._pid = close, os.getpid()
        self._open: OrderedDict[int, int] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenShards, (self._close,)

    def get(self, shard: int) -> int | None:
        """The descriptor of a shard, if it is open in this process."""
        if self._pid != os.getpid():  # a fork: those here belong to the parent
            self._open.clear()
            self._pid = os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
        return self._open.get(shard)

    def add(self, shard: int, descriptor: int) -> int:
        """Keep what was opened for a shard; the one used longest ago is closed if there are too many."""
        self._open[shard] = descriptor
        if len(self._open) > MAX_OPEN:
            self._close(self._open.popitem(last=False)[1])
        return descriptor

    def discard(self, shard: int) -> None:
        """Close a shard, if it is open."""
        if (descriptor := self.get(shard)) is not None:
            del self._open[shard]
            self._close(descriptor)

    def close(self) -> None:
        if self._pid == os.getpid():
            for descriptor in self._open.values():
                self._close(descriptor)
        self._open.clear()
