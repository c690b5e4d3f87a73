"""Integers that several processes write and another reads: a row for each writer, so there are no locks.

A process that dies stops nobody. What is read while it is written may mix two moments, which a display and a
watchdog can bear.
"""

import mmap
from collections.abc import Iterable
from multiprocessing.context import BaseContext
from typing import Any


class Counters:
    """`rows` x `columns` integers of 64 bits, all 0.

    Without a `context` processes that are forked later share them, and nothing is left in /dev/shm; with one,
    those too that it spawns and hands them to.
    """

    def __init__(self, rows: int, columns: int, *, context: BaseContext | None = None):
        self._rows, self._columns, count = rows, columns, rows * columns
        if context:
            self._numbers: Any = context.RawArray("q", count)
        else:
            self._numbers = memoryview(mmap.mmap(-1, 8 * count)).cast("q")

    def row(self, number: int) -> list[int]:
        return list(self._numbers[number * self._columns : (number + 1) * self._columns])

    def all(self) -> list[list[int]]:
        """Every row."""
        return [self.row(number) for number in range(self._rows)]

    def write(self, row: int, values: Iterable[int], *, column: int = 0) -> None:
        """Set numbers of a row, from `column` on."""
        for place, value in enumerate(values, row * self._columns + column):
            self._numbers[place] = value

    def add(self, row: int, amounts: Iterable[int], *, column: int = 0) -> None:
        """Raise numbers of a row, from `column` on."""
        for place, amount in enumerate(amounts, row * self._columns + column):
            self._numbers[place] += amount
