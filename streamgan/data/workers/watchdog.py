"""Reading from a DataLoader whose worker processes may die or hang: a DataError, from `next`, in seconds.

PyTorch raises out of its SIGCHLD handler wherever the training process just is, be it in the middle of a
step, a checkpoint, or a destructor that swallows it. Here the handler only interrupts the wait for a batch;
at any other time the loss is found before the next one. A worker may also die while it hands a batch over.

A worker that hangs, whatever it hangs in, is found by a watchdog thread on the board of the loader and
killed, so that there is one way in which a loader fails. The message names the sample it had in hand.
"""

import atexit
import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from streamgan.core.errors import DataError

from .counters import Board

TICK_S = 0.5
NAMING_S = 1.0  # how long to look up the name of a sample, perhaps on the disk that hangs

_T = TypeVar("_T")

_waiting = False  # whether the main thread waits for a batch
_open: "weakref.WeakSet[Generator[Any, None, None]]" = weakref.WeakSet()
_begun: "weakref.WeakSet[BaseProcess]" = weakref.WeakSet()


class _Worker(ForkProcess):
    """Known from before it runs, so that nothing which interrupts the start of workers leaves one."""

    def start(self) -> None:
        _begun.add(self)
        super().start()


class Forked(ForkContext):
    """Forked workers share the pages of the index and start in milliseconds; they never touch CUDA."""

    Process = _Worker


def read(
    loader: DataLoader[Any], board: Board, *, stall_s: float, where: Callable[[int], str]
) -> Generator[Any, None, None]:
    """The batches of `loader`. Its workers are forked now, and have ended when this generator has.

    DataError if a worker dies, or gets on with nothing for `stall_s` seconds; `where` says to a sample's id
    what its shard and key are.
    """
    before = set(_begun)
    try:
        iterator = iter(loader)
    except BaseException:  # Ctrl-C, or no process can be started: PyTorch would wait five seconds for each
        _kill(set(_begun) - before)
        raise
    return _read(iterator, board, stall_s, where)


def close_at_exit(batches: Generator[_T, None, None]) -> Generator[_T, None, None]:
    """`batches`, to be closed before Python stops threads, if the program ends with it left open.

    Left to the interpreter, a generator is closed when daemon threads do not run any more: it would wait for
    its own, and Python for the workers, for ever.
    """
    _open.add(batches)
    return batches


def _read(
    iterator: Iterator[Any], board: Board, stall_s: float, where: Callable[[int], str]
) -> Generator[Any, None, None]:
    global _waiting
    workers = getattr(iterator, "_workers", [])
    in_main_thread = threading.current_thread() is threading.main_thread()
    if workers and in_main_thread:
        _interrupt_nothing_but_waiting()
    watchdog = _Watchdog(workers, board, stall_s) if workers else None
    try:
        while True:
            _check(workers)
            if watchdog:
                watchdog.waiting = True
            _waiting = in_main_thread
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                _waiting = False
                if watchdog:
                    watchdog.waiting = False
            yield batch
    except (RuntimeError, ConnectionError, EOFError) as error:
        # a defect inside a worker is a RuntimeError too and keeps its traceback
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader"):
            raise
        message = str(error).partition("\n")[0].strip() or "no more data"
        raise _lost(workers, board, watchdog, where, message) from error
    finally:
        if watchdog:
            watchdog.end()
        if workers:  # otherwise they would live as long as the traceback of an error
            if watchdog and watchdog.verdict:  # PyTorch would wait for each stuck one, five seconds long
                _kill(workers)
            try:
                iterator._shutdown_workers()  # type: ignore[attr-defined]
            finally:
                _kill(workers)  # they do not hear PyTorch's SIGTERM


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        if worker.pid:  # it was started
            worker.kill()


@atexit.register
def _close_all() -> None:
    try:
        for batches in list(_open):
            # A daemon thread is in the middle of it, and ends with Python; or PyTorch needs a thread to stop
            # the one that pins memory, and Python 3.12.0 and 3.12.1 start none any more.
            with suppress(ValueError, RuntimeError):
                batches.close()
    finally:
        # Python would send the SIGTERM that workers do not hear, and wait for ever for one that is left.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _kill(set(_begun))


def begin(worker: int) -> None:
    """For the start of a worker: leave signals to the training process, and its memory shared.

    A signal to the whole process group asks the training process to stop, which still needs its workers until
    the step is done and saved. A collection of garbage would write to every page that the fork shares.
    """
    gc.freeze()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class _Watchdog:
    """A thread that kills workers which do not get on; `verdict` then says (worker, what was seen)."""

    def __init__(self, workers: list[Any], board: Board, stall_s: float):
        self._workers, self._board, self._stall_s = workers, board, stall_s
        self.waiting = False
        self.verdict: tuple[int | None, str] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loader watchdog", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

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


def _check(workers: list[Any]) -> None:
    for worker in workers:
        if worker.exitcode:
            raise RuntimeError(f"DataLoader worker (pid {worker.pid}) is gone (exit code {worker.exitcode})")


def _lost(
    workers: list[Any], board: Board, watchdog: "_Watchdog | None", where: Callable[[int], str], message: str
) -> DataError:
    """What to tell of a loader that has lost a worker, as far as the board knows it."""
    todo = "check memory and disk, then run the same command again"
    row, what = (watchdog and watchdog.verdict) or (None, "")
    if not what:
        row = _find_gone(workers)
        code = None if row is None else workers[row].exitcode
        what = f"is gone (exit code {code})" if code else f"is gone ({message})"
    if row is None:
        return DataError("loader", f"DataLoader worker {what}", todo)
    sample = board.sample(row)
    at_work = "" if sample is None else f", at work on {_named_soon(where, sample)}"
    return DataError("loader", f"DataLoader worker {row} (pid {workers[row].pid}) {what}{at_work}", todo)


def _find_gone(workers: list[Any]) -> int | None:
    """The worker that has failed; one may be heard to be gone before it is."""
    for _ in range(20):
        for row, worker in enumerate(workers):
            if worker.exitcode:
                return row
        time.sleep(0.01)
    return None


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


def _interrupt_nothing_but_waiting() -> None:
    """Put our handler of SIGCHLD around PyTorch's, once."""
    inner = signal.getsignal(signal.SIGCHLD)
    if not callable(inner) or getattr(inner, "__name__", "") == "_on_child":
        return

    def _on_child(number: int, frame: Any) -> None:
        try:
            inner(number, frame)
        except RuntimeError:
            if _waiting:
                raise

    signal.signal(signal.SIGCHLD, _on_child)
