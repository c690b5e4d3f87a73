"""What the processes of a loader are doing, in memory that they share with the training process.

One row of integers a process, each with a single writer, so there are no locks and a process that dies stops
nobody. What is read while it is written may mix two moments, which a display and a watchdog can bear. The
memory is anonymous: forked workers inherit it, and nothing is left in /dev/shm.
"""

import mmap
from dataclasses import dataclass, fields

from torch.utils.data import get_worker_info

_SAMPLE, _BEATS, _SAMPLES, _BYTES, _READ_NS, _DECODE_NS, _HITS = range(7)
_ROW = 8  # integers a process, a cache line


@dataclass(frozen=True)
class LoaderStats:
    """Sums over the processes of a loader since it was built: samples, their bytes, seconds of work.

    `hits` of the samples were on this machine when they were asked for.
    """

    samples: int = 0
    bytes: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    hits: int = 0

    def __sub__(self, other: "LoaderStats") -> "LoaderStats":
        return LoaderStats(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class Board:
    """Rows for `workers` processes, or for this one alone if that is 0."""

    def __init__(self, workers: int):
        self.num_rows = max(1, workers)
        self.numbers = memoryview(mmap.mmap(-1, self.num_rows * _ROW * 8)).cast("q")

    def meter(self) -> "Meter":
        """The row of the process that calls this, a DataLoader worker or the training process."""
        info = get_worker_info()
        return Meter(self.numbers, (info.id if info else 0) * _ROW)

    def sample(self, row: int) -> int | None:
        """The id of the sample that a process works on; None while it waits for work."""
        return self.numbers[row * _ROW + _SAMPLE] - 1 if self.numbers[row * _ROW + _SAMPLE] else None

    def beats(self, row: int) -> int:
        """A number that grows as long as a process gets on."""
        return self.numbers[row * _ROW + _BEATS]

    def stats(self) -> LoaderStats:
        sums = [
            sum(self.numbers[row * _ROW + column] for row in range(self.num_rows)) for column in range(_ROW)
        ]
        seconds = sums[_READ_NS] / 1e9, sums[_DECODE_NS] / 1e9
        return LoaderStats(sums[_SAMPLES], sums[_BYTES], *seconds, sums[_HITS])


class Meter:
    """One row of a Board, for its writer."""

    def __init__(self, numbers: memoryview, start: int):
        self._numbers, self._start = numbers, start

    def begin(self, sample_id: int) -> None:
        """Work on a sample begins."""
        self._numbers[self._start + _SAMPLE] = sample_id + 1
        self._numbers[self._start + _BEATS] += 1

    def heartbeat(self) -> None:
        """Something takes long but gets on."""
        self._numbers[self._start + _BEATS] += 1

    def done(self, size: int, read_ns: int, decode_ns: int, *, hit: bool) -> None:
        """A sample of `size` bytes, which were here (`hit`) or had to arrive first, is read and decoded."""
        numbers, start = self._numbers, self._start
        numbers[start + _SAMPLES] += 1
        numbers[start + _BYTES] += size
        numbers[start + _READ_NS] += read_ns
        numbers[start + _DECODE_NS] += decode_ns
        numbers[start + _HITS] += hit

    def idle(self) -> None:
        """The request is fulfilled."""
        self._numbers[self._start + _SAMPLE] = 0
        self._numbers[self._start + _BEATS] += 1
