"""What the processes of a loader are doing, in counters that they share with the training process."""

from dataclasses import dataclass, fields

from streamgan.core.counters import Counters

_SAMPLE, _BEATS, _SAMPLES = 0, 1, 2  # the fields of LoaderStats begin at the last
_COLUMNS = 8  # a line of the processor's cache


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
        self._counters = Counters(max(1, workers), _COLUMNS)

    def meter(self, row: int) -> "Meter":
        """The row of a process, for itself to write."""
        return Meter(self._counters, row)

    def sample(self, row: int) -> int | None:
        """The id of the sample that a process works on; None while it waits for work."""
        sample = self._counters.row(row)[_SAMPLE]
        return sample - 1 if sample else None

    def beats(self, row: int) -> int:
        """A number that grows as long as a process gets on."""
        return self._counters.row(row)[_BEATS]

    def stats(self) -> LoaderStats:
        sums = [sum(column) for column in zip(*self._counters.all(), strict=True)]
        samples, size, read_ns, decode_ns, hits, *_ = sums[_SAMPLES:]
        return LoaderStats(samples, size, read_ns / 1e9, decode_ns / 1e9, hits)


class Meter:
    """One row of a Board, for its writer."""

    def __init__(self, counters: Counters, row: int):
        self._counters, self._row = counters, row

    def begin(self, sample_id: int) -> None:
        """Work on a sample begins."""
        self._counters.write(self._row, (sample_id + 1,), column=_SAMPLE)
        self.heartbeat()

    def heartbeat(self) -> None:
        """Something takes long but gets on."""
        self._counters.add(self._row, (1,), column=_BEATS)

    def done(self, size: int, read_ns: int, decode_ns: int, *, hit: bool) -> None:
        """A sample of `size` bytes, which were here (`hit`) or had to arrive first, is read and decoded."""
        self._counters.add(self._row, (1, size, read_ns, decode_ns, hit), column=_SAMPLES)

    def decoded(self, decode_ns: int) -> None:
        """More time has gone into images, of several samples together."""
        self._counters.add(self._row, (decode_ns,), column=_SAMPLES + 3)

    def idle(self) -> None:
        """The request is fulfilled."""
        self._counters.write(self._row, (0,), column=_SAMPLE)
        self.heartbeat()
