"""Training processes that start at once: forked from one that has imported all of training and done no more.

A new interpreter needs longer to import what a run needs than a small run takes. What is started here is a
process all the same, in a session of its own, with its own signals, terminal, environment and exit code.
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = "launch/train.py"
STANDARD = (0, 1, 2)
MESSAGE = 1 << 16  # bytes; more than any request has


class Run:
    """A started run; like `subprocess.Popen`, as far as tests need it."""

    def __init__(self, template: "Template", pid: int):
        self.pid = pid
        self._template = template
        self._code: int | None = None

    def send_signal(self, number: int) -> None:
        """To the run and all that it has started."""
        os.killpg(self.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """The exit code, negative for a signal."""
        if self._code is None:
            self._code = self._template.ask({"wait": self.pid}, timeout=timeout)
        return self._code

    def end(self) -> None:
        """Kill what is left of it."""
        if self._code is None:
            self.send_signal(signal.SIGKILL)
            self.wait()


class Template:
    """The process that is forked; a context, at whose end it and all runs are gone."""

    def __init__(self):
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def ask(self, request: dict, files: Sequence[int] = (), *, timeout: float = 300) -> int:
        self._ours.settimeout(timeout)
        socket.send_fds(self._ours, [json.dumps(request).encode()], files)
        return json.loads(self._ours.recv(MESSAGE))

    def start(
        self,
        words: list[str],
        *,
        files: Sequence[int],
        script: str = TRAIN,
        environment: Mapping[str, str] = {},
        ignored: Sequence[int] = (),
    ) -> Run:
        """A script of this project with these standard files, more environment, and signals to ignore."""
        request = {
            "script": script,
            "words": words,
            "environment": dict(environment),
            "ignored": list(ignored),
        }
        return Run(self, self.ask(request, files))

    def run_ranks(self, words: list[str], count: int = 2, script: str = TRAIN) -> str:
        """The same command as so many ranks on the CPU, to a good end; what the first one said."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        ranks: list[tuple[Run, BufferedReader]] = []
        try:
            for rank in map(str, range(count)):
                environment = {"ACCELERATE_USE_CPU": "1", **place, "RANK": rank, "LOCAL_RANK": rank}
                reader, writer = os.pipe()
                with open(os.devnull, "r+b") as nowhere, os.fdopen(writer, "wb") as stderr:
                    files = (nowhere.fileno(), nowhere.fileno(), stderr.fileno())
                    run = self.start(words, files=files, script=script, environment=environment)
                    ranks.append((run, os.fdopen(reader, "rb")))
            said = [stderr.read().decode() for _, stderr in ranks]
            assert [run.wait() for run, _ in ranks] == [0] * count, said
        finally:
            for run, stderr in ranks:
                run.end()
                stderr.close()
        return said[0]

    def close(self) -> None:
        self._ours.close()
        self.process.wait(timeout=60)


def become(
    script: str, words: list[str], environment: dict[str, str], ignored: list[int], files: list[int]
) -> None:
    """In the fork: what the launcher would have started."""
    os.setsid()
    for ours, theirs in zip(STANDARD, files, strict=True):
        os.dup2(theirs, ours)
        os.close(theirs)
    os.environ.update(environment)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    sys.argv = [str(ROOT / script), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def serve(channel: socket.socket) -> None:
    """Fork and wait as asked, until nobody asks any more."""
    import streamgan.train.loop  # noqa: F401  # and with it everything

    gc.collect()
    gc.freeze()  # so that no fork looks through, and so copies, what is imported
    running = set()
    while True:
        message, files, _, _ = socket.recv_fds(channel, MESSAGE, len(STANDARD))
        if not message:
            break
        request = json.loads(message)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            running.discard(request["wait"])
        elif answer := os.fork():
            running.add(answer)
            for file in files:
                os.close(file)
        else:
            channel.close()
            return become(**request, files=files)
        channel.send(json.dumps(answer).encode())
    for pid in running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
