"""Two real processes through the launcher, on the CPU with gloo."""

import json
import os
import re
import subprocess
import time
from itertools import chain
from pathlib import Path

import psutil
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from dist.batch_ids import sample_hashes
from training import ACCELERATE, ON_CPU, ROOT, launch, losses, processes, read_metrics, settings, tiny_config
from worker_fixtures import loader_workers

from streamgan.core.errors import ConfigError
from streamgan.train.build import build_train_loader
from streamgan.train.loop import train

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def two_processes(shard_set, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("dist") / "two"
    options = ["--config_file", str(ROOT / "launch/accelerate/cpu_two_processes.yaml")]
    words = settings(shard_set, run, "run.steps=20", "run.validate_images=13")
    done = launch(options, "launch/train.py", *words)
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stderr
    return run


@pytest.mark.slow
def test_two_processes_of_the_launcher_train_like_one(shard_set, two_processes, tmp_path):
    train(tiny_config(shard_set, tmp_path / "one", "run.steps=20", "run.validate_images=13"))
    one, two = losses(tmp_path / "one"), losses(two_processes)
    assert list(one) == list(two) == list(range(1, 21))
    for step, values in one.items():
        assert two[step] == pytest.approx(values, abs=1e-4), step
    scores = [read_metrics(run)[-1] for run in (tmp_path / "one", two_processes)]
    assert {"val/psnr", "val/ssim", "val/loss", "val/gray_psnr", "val/median_ab_ssim"} <= scores[0].keys()
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)  # 13 images over 2 ranks: 3 places of padding


@pytest.mark.slow
def test_a_run_of_two_processes_continues_on_one(shard_set, two_processes, tmp_path):
    more = ("run.steps=24",)
    train(tiny_config(shard_set, two_processes, *more))
    train(tiny_config(shard_set, tmp_path / "one", *more))
    one, both = losses(tmp_path / "one"), losses(two_processes)
    assert list(both) == list(range(1, 25))
    for step in range(21, 25):
        assert both[step] == pytest.approx(one[step], abs=1e-4), step


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_see_the_global_batches_of_one(template, shard_set, tmp_path, count):
    template.run_ranks([str(shard_set), str(tmp_path)], count, "tests/dist/batch_ids.py")
    config = tiny_config(shard_set, tmp_path, "run.steps=20")
    alone = build_train_loader(config, Accelerator(cpu=True), start_step=0, stop_step=20)
    whole = [sample_hashes(batch) for batch in alone]
    parts = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(count)]
    assert len(whole) == 20
    assert [list(chain(*step)) for step in zip(*parts, strict=True)] == whole


@pytest.mark.slow
def test_a_rank_that_loses_its_loader_ends_all_of_them(shard_set, tmp_path):
    words = settings(shard_set, tmp_path / "run", "run.steps=100000", "data.workers=1", "run.log_every=5")
    process = subprocess.Popen(
        [*ACCELERATE, *processes(2), str(ROOT / "launch/train.py"), *words],
        env={**os.environ, **ON_CPU},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    try:
        for line in process.stderr:
            if line.startswith("step 10/"):
                break
        ranks = psutil.Process(process.pid).children()
        loaders = [worker for rank in ranks for worker in loader_workers(rank.pid)]
        assert (len(ranks), len(loaders)) == (2, 2)
        began = time.monotonic()
        loaders[1].kill()
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - began < 30
    assert process.returncode != 0
    message = r"error( \(rank 1\))?: loader: DataLoader worker 0 \(pid \d+\) is gone \(exit code -9\)"
    assert re.search(message, stderr)
    assert psutil.wait_procs(ranks, timeout=5)[1] == []


def test_bf16_trains_on_the_cpu(shard_set, tmp_path, monkeypatch, fresh_accelerator, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # what the launcher does with --mixed_precision
    train(tiny_config(shard_set, tmp_path / "bf16", "run.steps=3"))
    assert "mixed precision bf16" in capsys.readouterr().err
    assert all(value == value for step in losses(tmp_path / "bf16").values() for value in step.values())
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(tiny_config(shard_set, tmp_path / "fp32", "run.steps=3"))
    rounded, exact = losses(tmp_path / "bf16")[3], losses(tmp_path / "fp32")[3]
    assert rounded["loss/g_rec"] != exact["loss/g_rec"]
    assert rounded["loss/g_rec"] == pytest.approx(exact["loss/g_rec"], rel=0.02)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", r"dynamo_backend=INDUCTOR.*run\.compile=true"),
        ("ACCELERATE_USE_FSDP", "true", r"fsdp=true.*networks whole"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", r"steps=4.*optim\.accumulate"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", r"mixed_precision=fp8.*choose bf16"),
    ],
)
def test_the_launcher_does_not_change_the_training_behind_the_settings(
    shard_set, tmp_path, monkeypatch, fresh_accelerator, variable, value, told
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"launcher: asks for .*{told}"):
        train(tiny_config(shard_set, tmp_path / "run", "run.steps=1"))
    assert not (tmp_path / "run").exists()


def test_a_process_that_would_train_alone_is_refused(shard_set, tmp_path, monkeypatch, fresh_accelerator):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="2 processes were started but this one trains alone"):
        train(tiny_config(shard_set, tmp_path / "run", "run.steps=1"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_layers_of_a_backbone_whose_maps_are_not_used_keep_no_rank_waiting(shard_set, tmp_path):
    """Of HRNet's maps that of stride 4 has no place in the decoder."""
    network = ["model.generator=timm_unet", "model.variant=hrnet_w18_small", "model.depth=null"]
    words = settings(shard_set, tmp_path / "run", *network, "data.size=64", "run.steps=3")
    done = launch(processes(2), "launch/train.py", *words)
    assert done.returncode == 0, done.stderr
    assert list(losses(tmp_path / "run")) == [1, 2, 3]
