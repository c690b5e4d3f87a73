"""Reading from a DataLoader whose worker processes may die or hang: a DataError, from `next`, in seconds.

A worker that dies is found by the end of its pipe while a batch is waited for, and otherwise before the next
one: the training process is interrupted nowhere else. A worker that hangs, whatever it hangs in, is found by
a watchdog thread on the board of the loader and killed, so that there is one way in which a loader fails.
The message names the sample it had in hand.
"""

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from streamgan.core.errors import DataError, file_error

from .counters import Board
from .processes import LOST, Workers

TICK_S = 0.5
NAMING_S = 1.0  # how long to look up the name of a sample, perhaps on the disk that hangs

_T = TypeVar("_T")

_open: "weakref.WeakSet[Generator[Any, None, None]]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_open.clear)  # they are the parent's


def read(
    loader: DataLoader[Any], board: Board, *, stall_s: float, where: Callable[[int], str]
) -> Generator[Any, None, None]:
    """The batches of `loader`. Its workers are started now, and have ended when this generator has.

    DataError if a worker dies, or gets on with nothing for `stall_s` seconds; `where` says to a sample's id
    what its shard and key are.
    """
    processes: Any = loader.multiprocessing_context
    try:
        iterator = iter(loader)
    except BaseException as error:  # Ctrl-C, or no process can be started
        if processes:
            processes.end()
        if isinstance(error, OSError):
            raise file_error(error, "loader", what="worker processes cannot be started") from error
        raise
    if not processes:
        return (batch for batch in iterator)
    batches = _read(iterator, processes, _Watchdog(iterator._workers, board, stall_s), where)  # type: ignore[attr-defined]
    next(batches)  # a generator that has not begun ends nothing when it is closed
    return batches


def close_at_exit(batches: Generator[_T, None, None]) -> Generator[_T, None, None]:
    """`batches`, to be closed before Python stops threads, if the program ends with it left open.

    Left to the interpreter, a generator is closed when daemon threads do not run any more: it would wait for
    its own for ever.
    """
    _open.add(batches)
    return batches


def _read(
    iterator: Iterator[Any], processes: Workers, watchdog: "_Watchdog", where: Callable[[int], str]
) -> Generator[Any, None, None]:
    try:
        watchdog.start()
        yield None
        while True:
            if processes.any_gone():
                raise EOFError("it has ended")
            watchdog.waiting = True
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                watchdog.waiting = False
            yield batch
    except (RuntimeError, ConnectionError, EOFError) as error:
        # a defect inside a worker is a RuntimeError too and keeps its traceback
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader"):
            raise
        message = str(error).partition("\n")[0].strip() or "no more data"
        raise watchdog.lost(where, message) from error
    finally:
        watchdog.end()
        processes.end()  # otherwise PyTorch would wait for what they are at
        iterator._shutdown_workers()  # type: ignore[attr-defined]


@atexit.register
def _close_all() -> None:
    for batches in list(_open):
        # A daemon thread is in the middle of it, and ends with Python; or PyTorch needs a thread to stop the
        # one that pins memory, and Python 3.12.0 and 3.12.1 start none any more.
        with suppress(ValueError, RuntimeError):
            batches.close()


class _Watchdog:
    """A thread that kills workers which do not get on; `verdict` then says (worker, what was seen)."""

    def __init__(self, workers: list[Any], board: Board, stall_s: float):
        self._workers, self._board, self._stall_s = workers, board, stall_s
        self.waiting = False
        self.verdict: tuple[int | None, str] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loader watchdog", daemon=True)
        self.start = self._thread.start

    def end(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def lost(self, where: Callable[[int], str], message: str) -> DataError:
        """What to tell of a loader that has lost a worker, as far as the board knows it."""
        todo = "check memory and disk, then run the same command again"
        row, what = self.verdict or (self._find_gone(), "")
        if row is None:
            return DataError("loader", f"DataLoader worker {what or f'is gone ({message})'}", todo)
        if not what:
            if (code := self._workers[row].exitcode) == LOST:
                return DataError("loader", "the process that starts the workers is gone (killed?)", todo)
            what = f"is gone (exit code {code})"
        sample = self._board.sample(row)
        at_work = "" if sample is None else f", at work on {_named_soon(where, sample)}"
        pid = self._workers[row].pid
        return DataError("loader", f"DataLoader worker {row} (pid {pid}) {what}{at_work}", todo)

    def _find_gone(self) -> int | None:
        """The worker that has failed; one may be heard to be gone before it is."""
        for _ in range(20):
            for row, worker in enumerate(self._workers):
                if worker.exitcode is not None:
                    return row
            time.sleep(0.01)
        return None

    def _watch(self) -> None:
        rows = range(len(self._workers))
        beats, still_s, silent_s = [-1] * len(rows), [0.0] * len(rows), 0.0
        # Time is counted in ticks: what a suspended machine or a stopped job sleeps through is no stall.
        while not self._ended.wait(TICK_S):
            now = [self._board.beats(row) for row in rows]
            busy = [self._board.sample(row) is not None for row in rows]
            for row in rows:
                still_s[row] = still_s[row] + TICK_S if busy[row] and now[row] == beats[row] else 0.0
            silent_s = silent_s + TICK_S if self.waiting and now == beats else 0.0
            beats = now
            stuck = next((row for row in rows if still_s[row] >= self._stall_s), None)
            if stuck is not None or silent_s >= self._stall_s:
                self.verdict = stuck, f"has not moved for {self._stall_s:g} s"
                for row in rows:
                    if stuck in (row, None):
                        self._workers[row].kill()
                return


def _named_soon(where: Callable[[int], str], sample: int) -> str:
    """`where(sample)`, or the bare id if that takes long or fails as well."""
    found: list[str] = []

    def look_up() -> None:
        try:
            found.append(where(sample))
        except DataError as error:
            found.append(error.where)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(NAMING_S)
    return found[0] if found else f"sample {sample}"
