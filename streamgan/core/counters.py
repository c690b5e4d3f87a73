"""Integers that several processes write and another reads: a row for each writer, so there are no locks.

A process that dies stops nobody. What is read while it is written may mix two moments, which a display and a
watchdog can bear.
"""

from collections.abc import Iterable

from .shared_memory import SharedMemory


class Counters:
    """`rows` x `columns` integers of 64 bits, all 0, shared with the processes that are started with them."""

    def __init__(self, rows: int, columns: int):
        self.__setstate__((rows, columns, SharedMemory(8 * rows * columns)))

    def __getstate__(self) -> tuple[int, int, SharedMemory]:
        return self._rows, self._columns, self._memory

    def __setstate__(self, state: tuple[int, int, SharedMemory]) -> None:
        self._rows, self._columns, self._memory = state
        self._numbers = memoryview(self._memory.map).cast("q")

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
