"""What lies in launch/: files that the tools they are for accept, and a SLURM job that goes on by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import psutil
import pytest
import yaml
from shared import signal_all
from training import losses, settings

from streamgan.train.runs import read_run

LAUNCH = Path(__file__).parents[1] / "launch"


@pytest.mark.parametrize("path", sorted((LAUNCH / "kubernetes").glob("*.yaml")), ids=lambda path: path.name)
def test_kubernetes_accepts_the_manifest(path):
    documents = list(yaml.safe_load_all(path.read_text()))
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    broken = documents[-1] | {"spec": {**documents[-1]["spec"], "completion": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_the_kubernetes_job_counts_its_nodes_alike():
    job = list(yaml.safe_load_all((LAUNCH / "kubernetes" / "job.yaml").read_text()))[-1]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    options = dict(word.split("=") for word in container["args"] if word.startswith("--") and "=" in word)
    nodes, per_node = int(options["--nnodes"]), int(options["--nproc-per-node"])
    assert job["completions"] == job["parallelism"] == nodes
    assert container["resources"]["limits"]["nvidia.com/gpu"] == per_node


@pytest.mark.parametrize("path", sorted((LAUNCH / "accelerate").glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_accepts_the_configuration(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert config.mixed_precision == ("no" if path.name.startswith("cpu") else "bf16")


@pytest.mark.parametrize("path", ["launch/slurm.sh", "tests/container/build.sh"])
def test_shellcheck_finds_nothing_in_a_script(path):
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, LAUNCH.parent / path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# One task a node, all of them here; it outlives the signal and hands on the worst exit code.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
trap : USR1
tasks=() worst=0
for ((node = 0; node < SLURM_NNODES; node++)); do SLURM_NODEID=$node "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do
    while kill -0 "$task" 2> /dev/null; do wait "$task"; code=$?; done
    ((code > worst)) && worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
[[ "$1" == show ]] && echo 127.0.0.1 || echo "$@" >> "$REQUESTS"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two "GPUs" (gloo processes on the CPU) on one or two nodes; the file in which requests are noted."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name, value in {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REQUESTS": str(tmp_path / "requests"),
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "x",
        "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2",
        "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return tmp_path / "requests"


def start(*words: str) -> subprocess.Popen:
    script = ["bash", str(LAUNCH / "slurm.sh"), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(script, cwd=LAUNCH.parent, start_new_session=True, **pipes)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_slurm_job_saves_before_its_limit_and_is_queued_again_until_it_is_done(
    cluster, shard_set, tmp_path, monkeypatch, nodes
):
    monkeypatch.setenv("SLURM_NNODES", str(nodes))
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", str(2 // nodes))
    run = tmp_path / "run"
    words = settings(shard_set, run, "run.log_every=2")
    process = start(*words, "run.steps=100000")
    assert process.stderr
    for line in process.stderr:
        if line.startswith("step 6/"):
            break
    # what --signal=USR1@300 does: every process of the job's steps, not the batch script itself
    signal_all(psutil.Process(process.pid).children(recursive=True), signal.SIGUSR1)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "the job goes back into the queue" in stdout
    assert cluster.read_text() == f"requeue {os.getpid()}\n"
    reached = read_run(run).step
    assert reached >= 6
    process = start(*words, f"run.steps={reached + 2}")
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, f"{run}: step {reached + 2}\n"), stderr
    assert (process.returncode, read_run(run).state, cluster.read_text().count("requeue")) == (0, "done", 1)
    assert max(losses(run)) == reached + 2


def test_a_slurm_job_without_a_run_folder_is_refused(cluster):
    began = time.monotonic()
    process = start("--config", "launch/recipes/default.yaml")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert stderr == "launch/slurm.sh: no run folder; add run.dir=/shared/runs/NAME\n"
    assert time.monotonic() - began < 10
