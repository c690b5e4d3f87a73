"""Asking the kernel to read local shards into memory before their window is due.

Inside a window samples lie in any order, which spinning and network disks are slow at; whole shards in a row
are what they are fast at. Only a hint: nothing waits for it, and what is not read yet is read when needed.
"""

import os
import threading
from collections import deque

from streamgan.data.shards.local import LocalFiles

from .demand import Needs

MEMORY_SHARE = 4  # one part in four of the machine's memory is asked for at most, by all of its ranks
_LOOK_S = 1.0


class Hints:
    """Hints for the shards of the coming steps, as a context; `Ahead` does it for shards at an address."""

    error: Exception | None = None

    def __init__(self, files: LocalFiles, needs: Needs, *, node_ranks: int):
        self._files, self._needs = files, needs
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._budget_bytes = min(needs.budget_bytes, memory // MEMORY_SHARE // node_ranks)
        self._position = needs.start
        self._stop, self._changed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Hints":
        self._position = self._needs.start
        self._stop.clear()
        if hasattr(os, "posix_fadvise"):
            self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()

    def advance(self, delivered: int) -> None:
        """So many steps have been delivered."""
        self._position = self._needs.start + delivered
        self._changed.set()

    def _run(self) -> None:
        asked: deque[tuple[int, int]] = deque()  # last step and bytes of each shard asked for
        shards = self._files.entry.shards
        for use in self._needs.uses():
            size = shards[use.shard].bytes
            while sum(bytes_ for _, bytes_ in asked) + size > self._budget_bytes and asked:
                if self._stop.is_set():
                    return
                self._changed.wait(_LOOK_S)
                self._changed.clear()
                asked = deque(one for one in asked if one[0] >= self._position)
            if self._stop.is_set():
                return
            asked.append((use.last, size))
            if use.first > self._position:  # what is read from already is past a hint
                self._ask(use.shard)

    def _ask(self, shard: int) -> None:
        try:
            descriptor = os.open(self._files.name(shard), os.O_RDONLY)
        except OSError:  # whoever reads it will say so
            return
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
