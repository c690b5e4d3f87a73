"""Whole runs on a CUDA device: graphs, the compiler, NCCL, several GPUs."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_gpu import SIXTEEN, assert_near, run
from training import ACCELERATE, COMMON, ROOT, TORCHRUN, losses, settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("fresh_accelerator"),
]


def program(shards: Path, out: Path, *more: str, launcher: Sequence[str] = (sys.executable,)) -> str:
    """`launch/train.py` in bf16, in a process of its own; what it says."""
    done = subprocess.run(
        [*launcher, str(ROOT / "launch/train.py"), *settings(shards, out, *SIXTEEN, *more)],
        env={**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("graphs", [True, False])
def test_a_compiled_generator_trains_like_an_eager_one_and_keeps_its_names(
    shard_set, tmp_path, monkeypatch, graphs
):
    eager = run(shard_set, tmp_path / "eager", "bf16", monkeypatch)
    program(shard_set, tmp_path / "compiled", "run.compile=true", f"run.cuda_graphs={graphs}")
    assert_near(tmp_path / "compiled", eager, rel=0.05)
    names = [
        load_file(tmp_path / name / "checkpoints/step-00000016/ema.safetensors").keys()
        for name in ("eager", "compiled")
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    "words",
    [
        ["model.generator=unet", "model.depth=7", "data.size=128"],  # with dropout
        ["model.generator=resnet18_unet", "model.depth=null", "model.norm=null", "data.size=64"],
        ["model.generator=paper_cnn", "model.discriminator=paper_cnn", "model.norm=batch"],
        ["model.generator=vgg16_unet", "model.depth=null", "model.discriminator=pix2pix", "data.size=64"],
        ["model.generator=ddcolor", "model.depth=null", "model.norm=null", "model.discriminator=ddcolor",
         "data.size=64"],
        # without a GAN: CUDA adds the gradient of an enlarged photo up in another order each time
        ["model.generator=zhang", "model.depth=null", "model.norm=null", "loss.rec=cross_entropy",
         "data.size=64", "loss.gan_weight=0"],
        ["model.generator=timm_unet", "model.depth=null", "model.norm=null", "model.dropout=0.1",
         "data.size=64", "model.enlarge=8"],
        ["model.generator=koalarization", "model.width=null", "model.depth=null", "model.norm=null",
         "data.size=64"],
        ["loss.gan=wgan", "loss.r1_weight=0", "loss.n_critic=2"],
        ["loss.judge=photo", "loss.r1_weight=0"],
    ],
    ids=lambda words: words[0].partition("=")[2],
)  # fmt: skip
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_graphs_change_no_value(shard_set, tmp_path, monkeypatch, name, words):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    replays, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: replays.append(1) or replay(self))
    graphed = run(shard_set, tmp_path / "graphs", name, monkeypatch, *words)
    assert len(replays) >= 2 * 8
    plain = run(shard_set, tmp_path / "plain", name, monkeypatch, *words, "run.cuda_graphs=false")
    ours, theirs = losses(graphed), losses(plain)
    assert ours == theirs
    first, second = (load_file(one / "checkpoints/step-00000016/ema.safetensors") for one in (graphed, plain))
    assert all(torch.equal(first[key], second[key]) for key in second)


@pytest.mark.dist
def test_one_gpu_under_nccl_trains_like_one_without_it(shard_set, tmp_path, monkeypatch):
    # All that two GPUs would do but the other one: NCCL, the distributed wrapper, gradients in buckets.
    more = ["model.norm=batch", "loss.r1_weight=0"]
    run(shard_set, tmp_path / "alone", "bf16", monkeypatch, *more)
    launcher = [*TORCHRUN, "--standalone", "--nproc-per-node", "1"]
    said = program(shard_set, tmp_path / "nccl", *more, launcher=launcher)
    assert "1 x cuda" in said
    assert "CUDA graphs" not in said
    assert_near(tmp_path / "nccl", tmp_path / "alone", rel=0.05)


@pytest.mark.dist
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_train_a_network_with_batch_norm_like_one(shard_set, tmp_path, monkeypatch):
    # Both have it: statistics of the global batch, and D runs through its wrapper once per step.
    more = ["model.norm=batch", "model.discriminator=paper_cnn", "loss.r1_weight=0"]
    run(shard_set, tmp_path / "one", "no", monkeypatch, *more)
    words = settings(shard_set, tmp_path / "two", *SIXTEEN, *more)
    options = [*COMMON, "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no"]
    done = subprocess.run(
        [*ACCELERATE, *options, "--main_process_port", "0", str(ROOT / "launch/train.py"), *words],
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 x cuda" in done.stderr
    assert_near(tmp_path / "two", tmp_path / "one", rel=0.02)
