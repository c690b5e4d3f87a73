"""What a training process leaves behind that is killed without a warning: nothing."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from training import ROOT, losses, read_metrics, settings

GONE_S = 2.0  # the others notice at once


def start(shards, run, *more: str) -> subprocess.Popen:
    words = settings(shards, run, "run.checkpoint_every=4", "run.validate_every=1000", *more)
    command = [sys.executable, str(ROOT / "launch" / "train.py"), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def shared_memory(pids: set[int]) -> list[str]:
    """Names in /dev/shm that PyTorch's or Python's processes with these numbers have made."""
    mine = {f"torch_{pid}" for pid in pids}
    return [name for name in os.listdir("/dev/shm") if name.rpartition("_")[0].rpartition("_")[0] in mine]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2])
def test_a_trainer_that_is_killed_leaves_nothing_and_starts_again_at_once(shard_set, tmp_path, workers):
    run, more = tmp_path / "run", f"data.workers={workers}"
    process = start(shard_set, run, "run.steps=100000", more)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("step 20/"):
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = start(shard_set, run, "run.steps=100000", more)  # at once: the others may still be there
    try:
        assert again.stderr
        lines = []
        for line in again.stderr:
            lines.append(line)
            if line.startswith("step 40/"):
                break
        assert lines[-1].startswith("step 40/"), lines
        assert psutil.wait_procs(children, timeout=GONE_S)[1] == []
        assert shared_memory({process.pid, *(child.pid for child in children)}) == []
    finally:
        process.stderr.close()
        again.send_signal(signal.SIGTERM)
        again.communicate(timeout=60)
    assert again.returncode == 0
    assert list(losses(run)) == list(range(1, read_metrics(run)[-1]["step"] + 1))  # none lost or repeated
