"""What a person sees of a run: rows and bytes as they are made, bad rows, and which worker does not move."""

import time
from collections.abc import Callable, Sequence

from streamgan.core.logs import progress, say
from streamgan.sharding.folder.publish import Records

from .local import Pulse

STALL_S = 30.0


class Display:
    """One progress bar over the rows of a run, told of every complete unit and of what is under way.

    `records` holds the units that are complete; `names` are those of the source files.
    """

    def __init__(
        self,
        records: Records,
        *,
        total_rows: int,
        names: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._records, self._names, self._clock = records, names, clock
        self._rows, self._bytes, self._began = records.num_rows, 0, clock()
        self._moved: dict[int, tuple[Pulse, float]] = {}  # the last change of each worker, and when
        self._named: set[int] = set()
        self.bar = progress(total=total_rows, unit=" rows", label="shard", start=self._rows)

    def done(self, rows: int, size: int) -> None:
        """A unit of `rows` is complete, `size` bytes of shards."""
        self._rows += rows
        self._bytes += size

    def pulse(self, pulses: Sequence[Pulse]) -> None:
        """Where each worker is now; names those that have not moved for STALL_S, once."""
        now = self._clock()
        alive = sum(self._is_alive(pulse, now) for pulse in pulses)
        under_way = [pulse for pulse in pulses if pulse.unit not in self._records.units]
        rows = self._rows + sum(pulse.rows for pulse in under_way)
        size = self._bytes + sum(pulse.bytes for pulse in under_way)
        speed = size / 1e6 / max(now - self._began, 1e-3)
        bad = self._records.rejected.total()
        self.bar.set_postfix_str(f"{speed:.0f} MB/s, {bad} bad, {alive}/{len(pulses)} workers", refresh=False)
        self.bar.update(max(0, rows - self.bar.n))  # zero too: the line says that nothing moves

    def _is_alive(self, pulse: Pulse, now: float) -> bool:
        last, since = self._moved.get(pulse.worker, (None, now))
        if pulse != last or pulse.unit is None:
            self._moved[pulse.worker] = pulse, now
            self._named.discard(pulse.worker)
            return True
        if now - since < STALL_S:
            return True
        if pulse.worker not in self._named:
            self._named.add(pulse.worker)
            where = f"unit {pulse.unit}, source file {self._names[pulse.file]}, {pulse.rows} rows done"
            todo = "see whether its disk answers; Ctrl-C and the same command do the unit again"
            say(f"worker {pulse.worker} has not moved for {now - since:.0f} s ({where}); {todo}")
        return False
