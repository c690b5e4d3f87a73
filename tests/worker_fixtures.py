"""The worker processes of a loader: which they are, and what tests let them do differently."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from streamgan.core.counters import Counters
from streamgan.data.workers import queues
from streamgan.data.workers.decode import decode
from streamgan.data.workers.samples import begin


def is_fork_server(process: psutil.Process) -> bool:
    """Whether it is the process that starts workers, or a worker, which is a fork of it."""
    return any("workers.fork_server" in word for word in process.cmdline())


def fork_servers(pid: int | None = None) -> list[psutil.Process]:
    """Those that a process (None: this one) has started."""
    return [child for child in psutil.Process(pid).children() if is_fork_server(child)]


def loader_workers(pid: int | None = None) -> list[psutil.Process]:
    """The workers of all loaders of a process (None: this one)."""
    return [worker for server in fork_servers(pid) for worker in server.children()]


class Change:
    """In place of `begin`, which a worker calls first: MODULE.NAME of `data.workers` becomes `value`."""

    def __init__(self, module: str, name: str, value: Any):
        self._place = f"streamgan.data.workers.{module}", name, value

    def __call__(self, retries: Counters, worker: int) -> None:
        module, name, value = self._place
        *owners, last = name.split(".")
        setattr(reduce(getattr, owners, import_module(module)), last, value)
        begin(retries, worker)


def let_workers_decode(monkeypatch, how: Callable[..., Any]) -> None:
    """Workers of loaders that begin now decode with `how`."""
    from streamgan.data import loader  # not for the workers, which import this file too

    monkeypatch.setattr(loader, "begin", Change("samples", "decode", how))


class BlockAfter:
    """Decodes `count` images and then waits for ever."""

    def __init__(self, count: int):
        self._left = count

    def __call__(self, *arguments, **options):
        if not self._left:
            threading.Event().wait()
        self._left -= 1
        return decode(*arguments, **options)


def wait_for_ever(*arguments, **options):
    threading.Event().wait()


def take_long(*arguments, **options):
    threading.Event().wait(0.1)
    return decode(*arguments, **options)


def die_slowly(*arguments, **options):
    threading.Event().wait(0.3)  # until then the training process surely waits
    os.kill(os.getpid(), signal.SIGKILL)


def fail(*arguments, **options):
    raise RuntimeError("a defect of ours")


def answer_half(outbox: queues._Outbox, item: Any) -> None:
    """A worker is killed in the middle of its answer."""
    os.write(outbox._link.fileno(), b"\x00\x00\x10\x00half")
    os.kill(os.getpid(), signal.SIGKILL)


class Tell:
    """In place of `begin`: a worker writes where it finds itself to a file."""

    def __init__(self, path: Path, variables: tuple[str, ...]):
        self._path, self._variables = path, variables

    def __call__(self, retries: Counters, worker: int) -> None:
        import streamgan

        found = {
            "environment": {name: os.environ.get(name) for name in self._variables},
            "folder": os.getcwd(),
            "path": sys.path,
            "package": streamgan.__file__,
            "modules": sorted(sys.modules),
            "threads": os.listdir("/proc/self/task"),
        }
        self._path.write_text(json.dumps(found))
        os.write(2, b"said by a worker\n")
        begin(retries, worker)
