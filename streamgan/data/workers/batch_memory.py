"""Memory for batches that is used again: next to decoding, fresh pages are what a batch costs most.

A ring is memory that the training process shares with its loader processes. Each request names a slot that is
free; who fulfils the request writes the images there and sends back no more than where they are. A slot is
free again when the last array of its batch is gone. Where none is, because somebody collects batches, the
images themselves are sent.
"""

import itertools
import math
import mmap
import weakref
from collections import deque
from typing import Any

import numpy as np

from streamgan.core.shared_memory import SharedMemory

_numbers = itertools.count()
_rings: "weakref.WeakValueDictionary[int, Ring]" = weakref.WeakValueDictionary()


class Ring:
    """`count` slots with room for images of `shapes`, uint8 (B, H, W, C)."""

    def __init__(self, count: int, shapes: list[tuple[int, int, int, int]]):
        self.shapes = shapes
        self._sizes = [math.prod(shape) for shape in shapes]
        self._slot_bytes = -(-sum(self._sizes) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = SharedMemory(count * self._slot_bytes)
        self._free = deque(range(count))
        self.number = next(_numbers)
        _rings[self.number] = self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_free": None}  # which slots are free is for the training process to know

    def take(self) -> int | None:
        """A free slot, the one used last; None if there is none. For the training process alone."""
        return self._free.pop() if self._free else None

    def images(self, slot: int) -> list[np.ndarray]:
        """The images of a slot, uint8 (B, H, W, C), to be written."""
        return self._images(self._bytes(slot))

    def hand_over(self, slot: int) -> list[np.ndarray]:
        """The images of a slot, which is free again when all of them, and all views of them, are gone."""
        memory = self._bytes(slot)
        weakref.finalize(memory, self._free.append, slot).atexit = False
        return self._images(memory)

    def _bytes(self, slot: int) -> np.ndarray:
        return np.frombuffer(self._memory.map, np.uint8, sum(self._sizes), slot * self._slot_bytes)

    def _images(self, memory: np.ndarray) -> list[np.ndarray]:
        parts = np.split(memory, list(itertools.accumulate(self._sizes[:-1])))  # views, which hold `memory`
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]


def hand_over(number: int, slot: int) -> list[np.ndarray]:
    """As the method, in the process that made the ring with this number."""
    return _rings[number].hand_over(slot)
