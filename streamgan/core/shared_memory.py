"""Memory without a name that processes share: nothing is left of it when they end, however they do.

A process gets it by its descriptor, while it is being started. Nothing lies in /dev/shm, whose size
containers limit to some megabytes.
"""

import mmap
import os
import tempfile
import weakref
from multiprocessing.context import assert_spawning
from multiprocessing.reduction import DupFd
from typing import Any


class SharedMemory:
    """`size` bytes, all 0 at first, which `map` gives access to; pickled for a process that is started alone.

    `descriptor` is one to take over; None: make it anew.
    """

    def __init__(self, size: int, descriptor: int | None = None):
        self.size = size
        self._descriptor = _make(size) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._descriptor)
        self.map = mmap.mmap(self._descriptor, size)

    def free(self, begin: int, end: int) -> None:
        """Give back the memory of these pages, where the system can; then they are 0 again."""
        if hasattr(mmap, "MADV_REMOVE"):
            self.map.madvise(mmap.MADV_REMOVE, begin, end - begin)

    def __reduce__(self) -> tuple[Any, ...]:
        assert_spawning(self)
        return _take_over, (self.size, DupFd(self._descriptor))


def _take_over(size: int, duplicate: Any) -> SharedMemory:
    return SharedMemory(size, duplicate.detach())


def _make(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("streamgan")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
