"""The process that loader processes are forks of: one thread, and all that they need imported once.

It ends when the other end of its socket does. A message on it holds descriptors: the pipe that a process gets
its work from, the pipe on which the server tells its number and then its exit code, stdout, stderr, and those
that the work speaks of.
"""

import gc
import os
import select
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import NoReturn

from . import processes

# Pools of threads, which a fork would not have; a worker decodes in one thread.
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


def serve(descriptor: int) -> NoReturn:
    """Start a process for each message on the socket `descriptor`."""
    os.environ.update(_ONE_THREAD)
    _preload()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    control = socket.socket(fileno=descriptor)
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, Connection] = {}
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _tell_exit_codes(running)
        if control in ready:
            if not (descriptors := _receive(control)):
                os._exit(0)
            work = Connection(descriptors[0], writable=False)
            status = Connection(descriptors[1], readable=False)
            pid = _fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for own in (control, status, *running.values()):
                    own.close()
                for end in (woken, wakes):
                    os.close(end)
                _work(work, descriptors[2:])
            _tell(status, pid)
            if pid > 0:
                running[pid] = status
            work.close()
            for passed in descriptors[2:]:
                os.close(passed)


def _preload() -> None:
    from PIL import Image
    from tqdm import tqdm

    for name in ("obstore.store", "streamgan.data.schema", f"{__package__}.samples"):
        import_module(name)
    Image.preinit()
    tqdm.set_lock(threading.RLock())  # the lock that it would make has a name, in some versions of Python
    gc.collect()
    gc.freeze()  # a collection in a worker would write to every page that it shares


def _fork() -> int:
    """As os.fork; the negative error number if it fails."""
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or 1)


def _receive(control: socket.socket) -> list[int]:
    """The descriptors of a message, which may come in parts; none at the end."""
    found: list[int] = []
    while True:
        part, descriptors, _, _ = socket.recv_fds(control, 1, processes.MOST_AT_ONCE)
        found += descriptors
        if part != b"+":
            return found if part else []


def _tell_exit_codes(running: dict[int, Connection]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as link:
            _tell(link, os.waitstatus_to_exitcode(status))


def _tell(link: Connection, number: int) -> None:
    with suppress(OSError):  # the training process is gone, or has given up the worker
        link.send(number)


def _work(link: Connection, descriptors: list[int]) -> NoReturn:
    """What a fork does: become as the training process is, and the process that it sends."""
    code = 1
    try:
        for number, inherited in zip((1, 2), descriptors, strict=False):
            os.dup2(inherited, number)
            os.close(inherited)
        processes.inherited[:] = descriptors[2:]
        environment, folder, sys.path[:] = link.recv()
        os.environ.clear()
        os.environ.update(environment)
        if folder:
            os.chdir(folder)
        code = link.recv()._bootstrap(parent_sentinel=link.fileno())
    except EOFError:  # it is gone before it could say what to do
        pass
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)
