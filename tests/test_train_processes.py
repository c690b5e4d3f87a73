"""Runs as processes: what asks one to stop, what a killed one leaves, and two that train like one.

A run that is asked saves, and exits with 0: signals, and a console that goes away.
"""

import os
import pty
import signal
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path

import pytest
from marks import slow
from training import assert_same_weights, losses, read_metrics, settings, tiny_config
from warm import Run

from streamgan.core.errors import ConfigError
from streamgan.train import process
from streamgan.train.checkpoint import list_checkpoints
from streamgan.train.loop import train

Start = Callable[..., tuple[Run, BufferedReader]]
ENDLESS = ["run.steps=100000", "data.workers=2"]


@pytest.fixture
def start(template, shard_set, tmp_path) -> Iterator[Start]:
    """Start a run in a session of its own; it is gone afterwards."""
    started, readers = [], []

    def start(*words: str, stdout: bool = False, **how) -> tuple[Run, BufferedReader]:
        """The run and what reads its stderr, and with `stdout` that too."""
        reader, writer = os.pipe()
        readers.append(os.fdopen(reader, "rb"))
        nowhere = os.open(os.devnull, os.O_RDWR)
        files = (nowhere, writer if stdout else nowhere, writer)
        started.append(template.start(settings(shard_set, tmp_path / "run", *words), files=files, **how))
        os.close(writer)
        os.close(nowhere)
        return started[-1], readers[-1]

    yield start
    for run in started:
        run.end()
    for reader in readers:
        reader.close()


def wait_for_step(lines: Iterator[bytes], number: int) -> None:
    assert any(line.startswith(f"step {number}/".encode()) for line in lines)


def assert_saved(process: Run, run: Path) -> None:
    assert process.wait() == 0
    saved = list_checkpoints(run)[-1]
    assert max(losses(run)) == saved.step
    assert not saved.meta["finished"]


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGHUP)])
def test_a_signal_to_all_processes_finishes_the_step_saves_and_exits_0(start, tmp_path, number):
    process, stderr = start(*ENDLESS)
    wait_for_step(stderr, 3)
    process.send_signal(number)  # the loader processes get it too
    assert b"the same command continues" in stderr.read()
    assert_saved(process, tmp_path / "run")


@pytest.mark.slow
def test_nohup_is_respected(start, tmp_path):
    process, stderr = start(*ENDLESS, ignored=[signal.SIGHUP])
    wait_for_step(stderr, 3)
    process.send_signal(signal.SIGHUP)
    wait_for_step(stderr, 9)
    process.send_signal(signal.SIGTERM)
    assert b"the same command continues" in stderr.read()
    assert_saved(process, tmp_path / "run")


@pytest.mark.parametrize("stdout", [False, True])
@pytest.mark.slow
def test_a_reader_that_leaves_stops_the_run_which_saves_and_exits_0(start, tmp_path, stdout):
    """`... 2>&1 | head`"""
    process, reader = start(*ENDLESS, stdout=stdout)
    wait_for_step(reader, 3)
    reader.close()
    assert_saved(process, tmp_path / "run")


@pytest.mark.slow
def test_a_closed_terminal_stops_the_run_which_saves_and_exits_0(template, shard_set, tmp_path):
    ours, theirs = pty.openpty()
    process = template.start(settings(shard_set, tmp_path / "run", *ENDLESS), files=(theirs, theirs, theirs))
    os.close(theirs)
    try:
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            read = b""
            while b"step 3/" not in read:
                read += terminal.read(1000)
        assert_saved(process, tmp_path / "run")
    finally:
        process.end()


def test_a_killed_run_continues_to_the_same_bits(start, shard_set, tmp_path):
    more = ("run.steps=30", "run.checkpoint_every=4", "run.keep=99")
    train(tiny_config(shard_set, tmp_path / "whole", *more))
    process, stderr = start(*more)
    wait_for_step(stderr, 9)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    newest = list_checkpoints(tmp_path / "run")[-1].step
    assert 8 <= newest < 30  # what was being written may be lost
    train(tiny_config(shard_set, tmp_path / "run", *more))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "run", tmp_path / "whole", step=30)


@pytest.mark.dist
def test_two_processes_train_like_one_and_continue_on_one(template, shard_set, tmp_path):
    more = ("run.steps=8", "run.validate_images=13")
    assert "2 x cpu" in template.run_ranks(settings(shard_set, tmp_path / "run", *more))
    train(tiny_config(shard_set, tmp_path / "one", *more))
    scores = [read_metrics(tmp_path / run)[-1] for run in ("one", "run")]
    assert {"val/psnr", "val/ssim", "val/loss", "val/gray_psnr", "val/median_ab_ssim"} <= scores[0].keys()
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)  # 13 images over 2 ranks: 3 places of padding
    for run in ("one", "run"):
        train(tiny_config(shard_set, tmp_path / run, *more, "run.steps=10"))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "run")
    assert list(one) == list(two) == list(range(1, 11))
    for step, values in one.items():
        assert two[step] == pytest.approx(values, abs=1e-4), step


def test_processes_without_a_port_to_meet_at_end_at_once(monkeypatch):
    for name, value in {
        "WORLD_SIZE": "1",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="MASTER_PORT=0"):
        process.join_processes(timeout_s=1)
