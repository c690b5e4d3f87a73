"""A run whose disk is full or whose folder is gone ends with one line, and what was whole stays whole."""

import errno
import io
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter
from training import ROOT, settings, tiny_config

from streamgan.core.errors import CheckpointError
from streamgan.train import checkpoint_writer
from streamgan.train.checkpoint import list_checkpoints
from streamgan.train.loop import train

EVERY_STEP = ["run.checkpoint_every=1", "run.keep=99"]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullFile(io.BytesIO):
    def write(self, _: object) -> int:
        full()
        return 0


@pytest.mark.parametrize("how", ["trainer.pt", "metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_one_line_and_the_newest_checkpoint_stays(
    shard_set, tmp_path, monkeypatch, how, capfd
):
    train(tiny_config(shard_set, tmp_path, *EVERY_STEP, "run.steps=1"))
    if how == "trainer.pt":
        torch_save = checkpoint_writer.torch.save
        monkeypatch.setattr(checkpoint_writer.torch, "save", lambda state, _: torch_save(state, FullFile()))
    elif how == "metrics.jsonl":
        monkeypatch.setattr("streamgan.train.report.json.dumps", full)
    else:
        write = RecordWriter.write
        here = threading.main_thread()
        monkeypatch.setattr(
            RecordWriter, "write", lambda *a: write(*a) if threading.current_thread() is here else full()
        )
    with pytest.raises(
        CheckpointError, match=r"No space left on device.*; make room .*the same command again"
    ):
        train(tiny_config(shard_set, tmp_path, *EVERY_STEP, "run.steps=30"))
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.undo()
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))
    newest = list_checkpoints(tmp_path)[-1].step
    assert (
        train(tiny_config(shard_set, tmp_path, *EVERY_STEP, f"run.steps={newest + 1}"))["steps"] == newest + 1
    )


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of three megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED, a small disk: {done.stderr.strip()} (needs root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_in_one_line(shard_set, small_disk):
    run = small_disk / "run"
    words = settings(shard_set, run, *EVERY_STEP, "run.steps=1000")
    command = [sys.executable, str(ROOT / "launch/train.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"error: {run}")
    assert "No space left on device" in last
    assert "make room" in last
    assert "Traceback" not in done.stderr
    saved = list_checkpoints(run)
    for checkpoint in saved[:-1]:
        shutil.rmtree(checkpoint.path)
    assert train(tiny_config(shard_set, run, "run.steps=1"))["steps"] == saved[-1].step


def test_a_run_folder_that_is_removed_meanwhile_is_not_made_again(shard_set, tmp_path, monkeypatch):
    run = tmp_path / "run"
    snapshot = checkpoint_writer.take_snapshot

    def removing(*arguments):
        while run.exists():  # tensorboard's thread may write meanwhile
            shutil.rmtree(run, ignore_errors=True)
        return snapshot(*arguments)

    monkeypatch.setattr(checkpoint_writer, "take_snapshot", removing)
    with pytest.raises(CheckpointError, match=r"run: was removed while the run wrote to it; start"):
        train(tiny_config(shard_set, run, *EVERY_STEP, "run.steps=5"))
    assert not run.exists()
