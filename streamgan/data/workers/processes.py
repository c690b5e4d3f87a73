"""Worker processes as forks of a small process of ours, not of the training process.

A fork of the training process would hold a copy of its heap and of the locks of its threads, of CUDA, gRPC
and object stores. The fork server (`fork_server.py`) has one thread and has imported all that workers need.
Like that of `multiprocessing` it gets descriptors over a socket, and a worker its work over a pipe. Unlike
that one it has no name that could be left behind, needs no resource tracker, imports what this process would
import, and never the main module: all that is sent is ours, so scripts need no `if __name__ == "__main__"`.
"""

import atexit
import os
import select
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe, spawn, util
from multiprocessing.context import BaseContext, set_spawning_popen
from multiprocessing.popen_fork import Popen
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from streamgan.core.errors import DataError

from .queues import Requests, Results

# A signal to the whole process group asks the training process to stop, which still needs its workers until
# the step is done and saved. The server is started with these blocked, and so are its forks.
BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
LOST = 255  # exit code of a process whose server has ended before it could tell a better one
START_S = 300.0  # until a process must have begun; the server may have to read its libraries from a slow disk
JOIN_S = 5.0  # for a process that was killed
MOST_AT_ONCE = 250  # descriptors in one message; Linux allows 253
_SERVE = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from streamgan.data.workers.fork_server import serve; serve(int(sys.argv[1]))"
)

inherited: list[int] = []  # in a worker: the descriptors that it was started with
_contexts: "weakref.WeakSet[Workers]" = weakref.WeakSet()


class _ForkServer:
    """The server of this process; `pid` is None as long as none was needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pid: int | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Have it run, without waiting until it is ready."""
        with self._lock:
            self._running()

    def fork(self, descriptors: Sequence[int]) -> None:
        """Let it start a process that has these descriptors, as `serve` understands them."""
        with self._lock:
            try:
                self._send(descriptors)
            except OSError:  # it was killed
                self._end()
                self._send(descriptors)
            except BaseException:  # Ctrl-C, perhaps between two parts of the message
                self._end()
                raise

    def stop(self) -> None:
        with self._lock:
            self._end()

    def _running(self) -> socket.socket:
        if self._control is None:
            ours, theirs = socket.socketpair()
            command = [spawn.get_executable(), *util._args_from_interpreter_flags(), "-c", _SERVE]  # type: ignore[attr-defined]
            command += [str(theirs.fileno()), *sys.path]
            before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
            try:
                with theirs:
                    self.pid = util.spawnv_passfds(  # type: ignore[attr-defined]
                        os.fsencode(command[0]), command, [theirs.fileno()]
                    )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._control = ours
        return self._control

    def _send(self, descriptors: Sequence[int]) -> None:
        control = self._running()
        for first in range(0, len(descriptors), MOST_AT_ONCE):
            part = descriptors[first : first + MOST_AT_ONCE]
            more = first + MOST_AT_ONCE < len(descriptors)
            socket.send_fds(control, [b"+" if more else b"."], part)

    def _end(self) -> None:
        if self._control is not None and self.pid is not None:
            self._control.close()
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        self.pid = self._control = None


SERVER = _ForkServer()
for _forget in (SERVER.__init__, _contexts.clear):  # they are the parent's
    os.register_at_fork(after_in_child=_forget)


class _Inherited:
    """A descriptor on its way to a process that is being started: the n-th that it gets."""

    def __init__(self, number: int):
        self._number = number

    def detach(self) -> int:
        return inherited[self._number]


class _Started(Popen):
    """How `multiprocessing` handles a process, for one that the server has started."""

    method = "forkserver"
    DupFd = _Inherited

    def __init__(self, process: BaseProcess):
        self._lock, self._duplicates, self._owner = threading.Lock(), list[int](), os.getpid()
        work, self._work = Pipe(duplex=False)
        self._status, status = Pipe(duplex=False)
        self.sentinel, self._passed = self._status.fileno(), (work, status)
        try:
            super().__init__(process)
        except BaseException:
            for link in (work, status, self._work, self._status):
                link.close()  # a process that has begun hears it
            raise

    def duplicate_for_child(self, fd: int) -> int:
        self._duplicates.append(os.dup(fd))
        return len(self._duplicates) - 1

    def _launch(self, process: BaseProcess) -> None:
        set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            content = ForkingPickler.dumps(process)
            SERVER.fork([*(link.fileno() for link in self._passed), 1, 2, *self._duplicates])
        finally:
            set_spawning_popen(None)
            for descriptor in self._duplicates:
                os.close(descriptor)
        for link in self._passed:
            link.close()
        self.pid = self._begun()
        try:
            self._work.send(_surroundings())
            self._work.send_bytes(content)
        except OSError as error:
            raise self._failed("a worker process has ended before it could begin") from error

    def _begun(self) -> int:
        """The number of the process that was asked for; DataError if there is none."""
        try:
            if not self._status.poll(START_S):
                raise self._failed(f"the process that starts the workers hangs ({START_S:.0f} s)")
            number = self._status.recv()
        except (EOFError, OSError) as error:
            raise self._failed("the process that starts the workers has ended") from error
        if number < 0:
            todo = "raise the limit on processes (`ulimit -u`), or lower the number of workers"
            raise DataError("loader", f"no worker process can be started ({os.strerror(-number)})", todo)
        return number

    @staticmethod
    def _failed(what: str) -> DataError:
        return DataError(
            "loader", what, "see what it said above, check memory, then run the same command again"
        )

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        with self._lock:
            if self.returncode is None and self._status.poll(0 if flag == os.WNOHANG else None):
                try:
                    self.returncode = self._status.recv()
                except (EOFError, OSError):
                    self.returncode = LOST
            return self.returncode

    def kill(self) -> None:
        if self._owner == os.getpid() and self.poll() is None:
            super().kill()

    terminate = kill  # SIGTERM is blocked


def _surroundings() -> tuple[dict[str, str], str | None, list[str]]:
    """What a fork would have: environment, working folder (None: deleted), where modules are found."""
    try:
        folder = os.getcwd()
    except OSError:
        folder = None
    return dict(os.environ), folder, sys.path


class _Worker(BaseProcess):
    _start_method = None

    @staticmethod
    def _Popen(process: BaseProcess) -> _Started:
        return _Started(process)


class Workers(BaseContext):
    """The processes of one DataLoader, as its `multiprocessing_context`.

    They call `work` with their number, the requests and the results, instead of what PyTorch tells them to.
    """

    def __init__(self, work: Callable[[int, Requests, Results], None]) -> None:
        self._work = work
        self._results: Results | None = None
        self._requests: list[Requests] = []
        self._processes: list[_Worker] = []
        self._sentinels: select.poll | None = None
        _contexts.add(self)

    def Process(self, *_: Any, **__: Any) -> _Worker:
        number = len(self._processes)
        arguments = number, self._requests[number], self._results
        self._processes.append(_Worker(target=self._work, args=arguments))
        return self._processes[-1]

    def Queue(self, maxsize: int = 0) -> Any:
        """The queue that PyTorch asks for first is that of results; one for each worker follows."""
        if self._results is None:
            self._results = Results()
            return self._results
        self._requests.append(Requests())
        return self._requests[-1]

    def Event(self) -> Any:
        """For PyTorch alone: workers hear by their pipes that all is over."""
        return threading.Event()

    def any_gone(self) -> bool:
        """Whether one of the processes has ended; all of them have been started."""
        if self._sentinels is None:
            self._sentinels = select.poll()
            for process in self._processes:
                self._sentinels.register(process.sentinel)
        return bool(self._sentinels.poll(0))

    def end(self) -> None:
        """End the processes, whatever they do, also those that are just being started."""
        for process in self._processes:
            if process.pid:
                process.kill()
        for requests in self._requests:
            requests.close()


@atexit.register
def end_all() -> None:
    """When the program ends: the processes of every loader, then the server, which tells that they ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    everyone = list(_contexts)
    for workers in everyone:
        workers.end()
    for workers in everyone:
        for process in workers._processes:
            if process.pid:
                process.join(JOIN_S)
    SERVER.stop()
