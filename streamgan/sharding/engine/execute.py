"""The units of one run, from what is left of the plan to the records of all of it."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from streamgan.core.errors import DataError
from streamgan.core.logs import say
from streamgan.sharding.folder.parts import Part
from streamgan.sharding.folder.publish import Records, refuse_too_many_bad
from streamgan.sharding.folder.state import folder_of, read_records, remove_temporary
from streamgan.sharding.unit.plan import Unit
from streamgan.sharding.unit.writer import Job, make_unit

from .display import Display
from .local import Pulse, Results, WorkerDied, run_here, run_local
from .ray_cluster import run_ray

ENGINES = {"local": run_local, "ray": run_ray}


@dataclass
class Execution:
    """`plan` are the units of this run, out of a set of `total` rows; `check` raises when it must stop."""

    job: Job
    identity: dict[str, Any]
    plan: Sequence[Unit]
    total: int
    max_bad: float
    check: Callable[[], None]
    engine: Callable[..., Results]
    part: Part | None = None
    records: Records = field(default_factory=Records)

    def run(self, num_workers: int | None) -> tuple[int, int]:
        """Do what is not done yet; the bytes of the shards made, and of how many units they are."""
        for record in read_records(self.job.root, [unit.number for unit in self.plan]):
            self.records.add(record)
        units = [unit for unit in self.plan if unit.number not in self.records.units]
        self._refuse_too_many_bad()
        try:
            return self._make(units, num_workers), len(units)
        except BaseException as error:
            with suppress(DataError, OSError):  # of the same store or disk; the first error counts
                remove_temporary(self.job.root, {unit.number for unit in units})  # a full disk has use for it
            if isinstance(error, KeyboardInterrupt):
                done = f"{len(self.records.units)} of {len(self.plan)} units are done"
                say(f"stopped: {done}; the same command continues")
            raise

    def _make(self, units: Sequence[Unit], num_workers: int | None) -> int:
        display = Display(
            self.records,
            total_rows=sum(unit.num_rows for unit in self.plan),
            names=[file["name"] for file in self.identity["source"]["files"]],
        )

        def watch(pulses: Sequence[Pulse]) -> None:
            self.check()
            display.pulse(pulses)

        engine = run_here if num_workers == 0 or not units else self.engine
        results = engine(
            partial(make_unit, self.job),
            units,
            num_workers=num_workers,
            lock=folder_of(self.job.root).workers_lock(self.part.label if self.part else ""),
            watch=watch,
        )
        written = 0
        try:
            with display.bar, closing(results):
                for record in results:
                    size = self.records.add(record)
                    display.done(record["rows"], size)
                    written += size
                    self._refuse_too_many_bad()
        except WorkerDied:
            for file in self.job.files:
                file.confirm(())  # a file that shrinks while it is mapped kills the process that reads it
            raise
        return written

    def _refuse_too_many_bad(self) -> None:
        token = secrets.token_hex(4) if self.part else ""  # parts may fail at the same time
        refuse_too_many_bad(
            self.job.root, self.identity, self.records, total=self.total, max_bad=self.max_bad, token=token
        )
