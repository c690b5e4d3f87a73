"""A console that may go away: the reader of a pipe that leaves, a terminal that is closed."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_GONE = (errno.EPIPE, errno.EIO)


class _Console:
    """stderr, until nobody reads it; then what is written goes nowhere, and `when_gone` is told."""

    def __init__(self, stream: TextIO, when_gone: Callable[[], None]):
        self._stream, self._when_gone = stream, when_gone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._leave(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        if error.errno not in _GONE:
            raise error
        self._when_gone()
        gone, nowhere = os.fstat(self._stream.fileno()), os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):  # stdout too, where it is the same pipe or terminal
            with suppress(OSError):
                if os.path.samestat(os.fstat(number), gone):
                    os.dup2(nowhere, number)
        os.close(nowhere)


@contextmanager
def noticing_a_closed_console(when_gone: Callable[[], None]) -> Iterator[None]:
    """Call `when_gone` instead of failing when what is said can no longer be read."""
    before = sys.stderr
    sys.stderr = _Console(before, when_gone)
    try:
        yield
    finally:
        sys.stderr = before
