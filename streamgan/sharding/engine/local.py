"""Ways to run units: functions (task, units, *, num_workers, lock, watch) -> results as they come.

The order of results means nothing, and nothing but the unit itself may influence what a task writes. A unit
commits itself on the disk, so an engine that is stopped loses only what was in flight.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from streamgan.core.counters import Counters
from streamgan.core.errors import DataError
from streamgan.core.machine import usable_cores
from streamgan.core.storage.locks import wait_for_lock
from streamgan.sharding.unit.plan import Unit


@dataclass(frozen=True)
class Pulse:
    """Where a worker is: rows and image bytes of its unit so far. `unit` is None while it has none."""

    worker: int
    unit: int | None
    file: int = 0
    rows: int = 0
    bytes: int = 0


Beat = Callable[[int, int, int], None]  # (file, rows, bytes) of the unit so far
Task = Callable[[Unit, Beat], dict[str, Any]]
Watch = Callable[[Sequence[Pulse]], None]
Lock = Path | None  # what workers hold while they live
Results = Generator[dict[str, Any], None, None]
PULSE_S = 0.5


class WorkerDied(DataError):
    """A worker process ended by itself, before its unit did."""


_task: Task | None = None  # these three are set once in each worker process
_worker_lock: Any = None  # held open for the life of the worker
_report: Callable[[tuple[int, ...]], None] | None = None  # fills in its row of the counters


def run_here(
    task: Task, units: Sequence[Unit], *, num_workers: int | None, lock: Lock, watch: Watch
) -> Results:
    """One unit after the other in this process."""
    due = 0.0
    for unit in units:

        def heartbeat(file: int, rows: int, size: int, number: int = unit.number) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + PULSE_S
                watch([Pulse(0, number, file, rows, size)])

        yield task(unit, heartbeat)
        watch([Pulse(0, None)])


def run_local(
    task: Task, units: Sequence[Unit], *, num_workers: int | None, lock: Lock, watch: Watch
) -> Results:
    """A pool of fresh processes on this machine.

    They end within moments of this process, however it ends, and of this generator when it is closed early.
    """
    context = get_context("spawn")
    num_workers = min(num_workers or usable_cores(), len(units))
    # The workers only ever see this pipe close: when the generator ends, or the process that holds its
    # other end does. Then they stop at once, in the middle of whatever they do.
    read_end, write_end = context.Pipe(duplex=False)
    with _no_interrupts_for_children():  # the first lock starts a process, too
        counters, num_started = Counters(num_workers, _COLUMNS), context.Value("q", 0)
    executor = ProcessPoolExecutor(
        num_workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(task, read_end, lock, counters, num_started),
    )
    try:
        with _no_interrupts_for_children(), _without_main():
            pending = {executor.submit(_run_unit, unit): unit.number for unit in units}
        while pending:
            done, _ = wait(pending, timeout=PULSE_S, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    raise WorkerDied(
                        "sharding",
                        f"a worker process died at or after unit {min(pending.values())} "
                        "(killed, or out of memory?)",
                        "run the same command again to continue, perhaps with fewer --workers",
                    ) from error
                del pending[future]
                yield result
            watch(_pulses(counters, num_started.value))
    finally:
        write_end.close()
        executor.shutdown(wait=True, cancel_futures=True)
        read_end.close()


@contextmanager
def _no_interrupts_for_children() -> Iterator[None]:
    """Child processes started inside inherit a mask: Ctrl-C and the end of a terminal reach the parent alone.

    It stops them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Child processes started inside do not import the main module of this program: units need nothing of it.

    Of `streamgan` that would be all commands; a script of a user's would run once more in every worker.
    """
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_COLUMNS = 4  # unit + 1, file, rows, bytes


def _pulses(counters: Counters, num_started: int) -> list[Pulse]:
    """One of each worker that has started."""
    rows = enumerate(counters.all()[:num_started])
    return [
        Pulse(worker, unit - 1, *where) if unit else Pulse(worker, None) for worker, (unit, *where) in rows
    ]


def _start_worker(task: Task, read_end: Connection, lock: Lock, counters: Counters, num_started: Any) -> None:
    global _task, _worker_lock, _report
    _task = task
    if lock:
        _worker_lock = open(lock, "rb")  # noqa: SIM115 - released by the kernel when the process ends
        wait_for_lock(_worker_lock, shared=True)
    if read_end.poll():  # closed already: another run may own the folder by now
        os._exit(1)
    threading.Thread(target=_stop_when_closed, args=(read_end,), daemon=True).start()
    with num_started.get_lock():
        _report = partial(counters.write, num_started.value)
        num_started.value += 1


def _stop_when_closed(read_end: Connection) -> None:
    read_end.poll(None)
    os._exit(1)


def _run_unit(unit: Unit) -> dict[str, Any]:
    assert _task is not None
    assert _report is not None
    report, at_work = _report, unit.number + 1
    report((at_work, 0, 0, 0))
    try:
        return _task(unit, lambda file, rows, size: report((at_work, file, rows, size)))
    finally:
        report((0, 0, 0, 0))
