"""Ways to run the units of a plan: functions (task, units, *, num_workers, lock) -> results as they come.

The order of results means nothing, and nothing but the unit itself may influence what a task writes. A unit
commits itself on the disk, so an engine that is stopped loses only what was in flight.
"""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError, DataError

from .plan import Unit

Task = Callable[[Unit], dict[str, Any]]
Results = Generator[dict[str, Any], None, None]
ORPHANS_TIMEOUT_S = 10.0

_task: Task | None = None  # set once in each worker process
_worker_lock: Any = None  # held open for the life of the worker


def run_here(task: Task, units: Sequence[Unit], *, num_workers: int, lock: Path) -> Results:
    """One unit after the other in this process."""
    yield from map(task, units)


def run_local(task: Task, units: Sequence[Unit], *, num_workers: int, lock: Path) -> Results:
    """A pool of fresh processes on this machine.

    They end within moments of this process, however it ends, and of this generator when it is closed early.
    """
    context = get_context("spawn")
    # The workers only ever see this pipe close: when the generator ends, or the process that holds its
    # other end does. Then they stop at once, in the middle of whatever they do.
    ears, mouth = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        min(num_workers, len(units)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(task, ears, str(lock)),
    )
    try:
        with _no_interrupts_for_children():
            futures = {executor.submit(_run_unit, unit): unit for unit in units}
        waiting = set(units)
        for future in as_completed(futures):
            try:
                result = future.result()
            except BrokenProcessPool as error:
                first = min(unit.number for unit in waiting)
                raise DataError(
                    "sharding",
                    f"a worker process died at or after unit {first} (killed, or out of memory?)",
                    "run the same command again to continue, perhaps with fewer --workers",
                ) from error
            waiting.discard(futures[future])
            yield result
    finally:
        mouth.close()
        executor.shutdown(wait=True, cancel_futures=True)
        ears.close()


ENGINES = {"here": run_here, "local": run_local}


def workers_lock(work: Path, label: str = "") -> Path:
    """What the workers of a run, or of the part `label`, hold as long as they live."""
    return work / (f"workers-{label}.lock" if label else "workers.lock")


def wait_for_orphans(work: Path, label: str = "") -> None:
    """Return when no worker of an earlier, killed run is left in the folder `work`; of a part with `label`.

    They end by themselves within moments; until then one might still rename a file of ours.
    """
    own = workers_lock(work, label)
    deadline = time.monotonic() + ORPHANS_TIMEOUT_S
    for path in {own} if label else {own, *work.glob("workers*.lock")}:
        _wait_for_lock(path, deadline)


def _wait_for_lock(path: Path, deadline: float) -> None:
    with open(path, "ab") as lock:
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    what = f"workers of an earlier run are still alive after {ORPHANS_TIMEOUT_S:.0f} s"
                    todo = "end them, then run the same command again"
                    raise ConfigError(path.parent.parent, what, todo) from None
            except OSError:
                return None  # a file system without locks, of which `folder.locked` has spoken
            time.sleep(0.02)


@contextmanager
def _no_interrupts_for_children() -> Iterator[None]:
    """Child processes started inside inherit a mask: Ctrl-C reaches the parent alone, and it stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(task: Task, ears: Connection, lock_path: str) -> None:
    global _task, _worker_lock
    _task = task
    _worker_lock = open(lock_path, "rb")  # noqa: SIM115 - released by the kernel when the process ends
    with suppress(OSError):  # a file system without locks
        fcntl.flock(_worker_lock, fcntl.LOCK_SH)
    if ears.poll():  # closed already: another run may own the folder by now
        os._exit(1)
    threading.Thread(target=_stop_when_closed, args=(ears,), daemon=True).start()


def _stop_when_closed(ears: Connection) -> None:
    ears.poll(None)
    os._exit(1)


def _run_unit(unit: Unit) -> dict[str, Any]:
    assert _task is not None
    return _task(unit)
