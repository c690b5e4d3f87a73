"""What asks a run to stop: signals, and a console that goes away. It saves, and exits with 0."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from training import ROOT, losses, settings

from streamgan.train.checkpoint import list_checkpoints

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start(shard_set, tmp_path) -> Iterator[Start]:
    """Start a run without end in a session of its own; it is gone afterwards."""
    started = []

    def start(**how) -> subprocess.Popen:
        words = settings(shard_set, tmp_path, "run.steps=100000", "data.workers=2")
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / "train.py"), *words],
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True, **how},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def wait_for_step(lines: Iterator[bytes], number: int) -> None:
    assert any(line.startswith(f"step {number}/".encode()) for line in lines)


def assert_saved(process: subprocess.Popen, run: Path) -> None:
    assert process.wait(timeout=60) == 0
    saved = list_checkpoints(run)[-1]
    assert max(losses(run)) == saved.step
    assert not saved.meta["finished"]


def test_a_hangup_of_all_processes_saves_and_exits_0(start, tmp_path):
    process = start()
    wait_for_step(process.stderr, 3)
    os.killpg(process.pid, signal.SIGHUP)  # the loader processes get it too
    assert b"the same command continues" in process.stderr.read()
    assert_saved(process, tmp_path)


def test_nohup_is_respected(start, tmp_path):
    process = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for_step(process.stderr, 3)
    os.killpg(process.pid, signal.SIGHUP)
    wait_for_step(process.stderr, 9)
    os.killpg(process.pid, signal.SIGTERM)
    assert b"the same command continues" in process.stderr.read()
    assert_saved(process, tmp_path)


@pytest.mark.parametrize("which", ["stderr", "both"])
def test_a_reader_that_leaves_stops_the_run_which_saves_and_exits_0(start, tmp_path, which):
    """`... 2>&1 | head`"""
    both = which == "both"
    process = start(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) if both else start()
    stream = process.stdout if both else process.stderr
    wait_for_step(stream, 3)
    stream.close()
    assert_saved(process, tmp_path)


def test_a_closed_terminal_stops_the_run_which_saves_and_exits_0(start, tmp_path):
    ours, theirs = pty.openpty()
    process = start(stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        read = b""
        while b"step 3/" not in read:
            read += terminal.read(1000)
    assert_saved(process, tmp_path)
