"""Reading from a DataLoader whose worker processes may die or hang: a DataError, from `next`, in seconds.

PyTorch raises out of its SIGCHLD handler wherever the training process just is, be it in the middle of a
step, a checkpoint, or a destructor that swallows it. Here the handler only interrupts the wait for a batch;
at any other time the loss is found before the next one. A worker may also die while it hands a batch over.
"""

import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from streamgan.core.errors import DataError

_waiting = False  # whether the main thread waits for a batch


def read(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of `loader`. Its workers have ended when this generator has."""
    global _waiting
    iterator = iter(loader)
    workers = getattr(iterator, "_workers", [])
    in_main_thread = threading.current_thread() is threading.main_thread()
    if workers and in_main_thread:
        _interrupt_nothing_but_waiting()
    try:
        while True:
            _check(workers)
            _waiting = in_main_thread
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                _waiting = False
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):  # a defect inside a worker keeps its traceback
            raise
        if "timed out" in str(error):
            for worker in workers:  # PyTorch would wait for each of them, five seconds long
                worker.kill()
        raise _lost(str(error).splitlines()[0].strip()) from error
    except (ConnectionError, EOFError) as error:
        raise _lost(f"DataLoader worker is gone ({str(error) or 'no more data'})") from error
    finally:
        if workers:  # otherwise they would live as long as the traceback of an error
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            for worker in workers:  # stuck ones do not hear PyTorch's SIGTERM
                worker.kill()


def leave_signals_to_the_parent(worker: int) -> None:
    """For the start of a worker: a signal to the whole process group asks the training process to stop, which
    still needs its workers until the step is done and saved.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _check(workers: list[Any]) -> None:
    for worker in workers:
        if worker.exitcode:
            raise _lost(f"DataLoader worker (pid {worker.pid}) is gone (exit code {worker.exitcode})")


def _lost(what: str) -> DataError:
    return DataError("loader", what, "check memory and disk, then run the same command again")


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
