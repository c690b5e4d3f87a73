"""How a training process and its workers talk: by a pipe of each worker in either direction, without locks.

PyTorch asks its context for queues and an event. Those of `multiprocessing` have locks, with names in
/dev/shm, and a worker that is killed while it holds one stops all others. Here nobody shares a pipe: what a
worker that is killed leaves behind is the end of its own.
"""

import os
import queue
import select
import threading
from collections import deque
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any


class _Queue:
    def cancel_join_thread(self) -> None:
        """There is no thread to join."""

    def close(self) -> None:
        """The ends of pipes close with their process."""


class Requests(_Queue):
    """What one worker is asked for."""

    def __init__(self) -> None:
        self._theirs: Connection | None
        self._theirs, self._ours = Pipe(duplex=False)

    def __reduce__(self) -> tuple[Any, ...]:
        theirs, self._theirs = self._theirs, None
        return _Inbox, (theirs,)

    def put(self, item: Any) -> None:
        with suppress(OSError):  # whoever waits for the answer hears that the worker is gone
            self._ours.send(item)

    def close(self) -> None:
        """End the worker, if it has not ended yet."""
        self._ours.close()


class _Inbox:
    """The requests in their worker, which ends when the other end of the pipe does.

    They are read as they come, so that the training process never waits for a worker to take one.
    """

    def __init__(self, link: Connection):
        self._link, self._arrived = link, queue.SimpleQueue[Any]()
        self._thread = threading.Thread(target=self._listen, name="requests", daemon=True)

    def take(self) -> Any:
        """The next one, as soon as there is one."""
        if self._thread.ident is None:
            self._thread.start()
        return self._arrived.get()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._arrived.put(self._link.recv())
        os._exit(0)


class Results(_Queue):
    """What all workers answer; one that is gone gives a `_Gone`, once."""

    def __init__(self) -> None:
        self._links: dict[int, Connection] = {}
        self._poll, self._arrived = select.poll(), deque[Any]()
        self._own = self._link()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Outbox, (self._link(),)

    def _link(self) -> Connection:
        """The other end of a new pipe that is listened to."""
        ours, theirs = Pipe(duplex=False)
        self._links[ours.fileno()] = ours
        self._poll.register(ours, select.POLLIN)
        return theirs

    def get(self, timeout: float) -> Any:
        """The next one; queue.Empty if there is none for `timeout` seconds."""
        if not self._arrived:
            self._receive(timeout)
        if not self._arrived:
            raise queue.Empty
        return self._arrived.popleft()

    def put(self, item: Any) -> None:
        """PyTorch's way to tell the thread that pins memory to look up, whose join it then waits for."""
        self._own.send(item)

    def _receive(self, timeout: float) -> None:
        for descriptor, _ in self._poll.poll(1000 * timeout):
            try:
                self._arrived.append(self._links[descriptor].recv())
            except (EOFError, OSError):
                self._poll.unregister(descriptor)
                self._links.pop(descriptor).close()
                self._arrived.append((_Gone(), None))


class _Outbox(_Queue):
    """The results in a worker."""

    def __init__(self, link: Connection):
        self._link = link

    def put(self, item: Any) -> None:
        try:
            self._link.send(item)
        except OSError:  # nobody is there to take it
            os._exit(0)


class _Gone:
    """In place of a batch's number, which PyTorch compares with the one that is due: that raises EOFError."""

    def __ne__(self, other: object) -> bool:
        raise EOFError("a worker has closed its pipe")
