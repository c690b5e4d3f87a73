"""Worker processes of a DataLoader that die or hang: told once, as a DataError, and never by waiting.

PyTorch reports a killed worker in three ways, depending on the moment: RuntimeError from `next`, a broken
connection from `next`, or RuntimeError out of its SIGCHLD handler, wherever the training process just is.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from streamgan.core.errors import DataError

_active: "WeakSet[Any]" = WeakSet()
_told = False


@contextmanager
def watched(iterator: Any) -> Iterator[None]:
    """A block that reads from a DataLoader's iterator; its workers have ended when the block has."""
    global _told
    _told = False
    _active.add(iterator)
    _listen()
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):  # a defect inside a worker keeps its traceback
            raise
        raise _lost(error) from error
    except (ConnectionError, EOFError) as error:  # it died while handing over a batch
        raise _lost(error) from error
    finally:
        _active.discard(iterator)
        if hasattr(iterator, "_shutdown_workers"):  # otherwise they would live as long as the traceback
            iterator._shutdown_workers()


def _lost(error: Exception) -> DataError:
    """The error to raise. Ends the other workers, whom PyTorch would wait for, five seconds each."""
    global _told
    _told = True
    for iterator in list(_active):
        for worker in getattr(iterator, "_workers", ()):
            worker.terminate()
    reason = (str(error).splitlines() or ["no more data"])[0].strip()
    reason = reason if reason.startswith("DataLoader") else f"DataLoader worker is gone ({reason})"
    return DataError("loader", reason, "check memory and disk, then run the same command again")


def _listen() -> None:
    """Put our handler of SIGCHLD around PyTorch's, once."""
    inner = signal.getsignal(signal.SIGCHLD)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not callable(inner) or getattr(inner, "__name__", "") == "_on_child" or not in_main_thread:
        return

    def _on_child(number: int, frame: Any) -> None:
        try:
            inner(number, frame)
        except RuntimeError as error:
            if not _told:
                raise _lost(error) from error

    signal.signal(signal.SIGCHLD, _on_child)
