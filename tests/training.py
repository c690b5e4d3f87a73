"""A training run small enough for a test: seconds on one thread, both networks, every part of the loop."""

import json
import os
import subprocess
import sys
from pathlib import Path

from streamgan.core.config import load_config
from streamgan.core.settings import TrainConfig
from streamgan.train.checkpoint import load_file

ROOT = Path(__file__).parents[1]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ON_CPU = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}  # what makes the launchers use gloo
COMMON = ["--num_machines", "1", "--dynamo_backend", "no"]
TINY = [
    "data.batch=8", "data.size=48", "data.workers=0",
    "model.width=6", "model.depth=3", "model.norm=group", "model.d_width=4",
    "loss.warmup_steps=2", "loss.ramp_steps=2", "optim.ema_half_life_images=50",
    "run.log_every=1", "run.validate_images=8", "run.sample_images=4", "run.threads=1",
]  # fmt: skip


def settings(shards: Path, run: Path, *more: str) -> list[str]:
    """The KEY=VALUE words of a tiny run; the later word on a key wins."""
    return last_words([f"data.shards={shards}", f"run.dir={run}", *TINY, *more])


def last_words(words: list[str]) -> list[str]:
    """KEY=VALUE words, of each key the last; a command would refuse two."""
    return list({word.partition("=")[0]: word for word in words}.values())


def tiny_config(shards: Path, run: Path, *more: str) -> TrainConfig:
    return load_config(None, settings(shards, run, *more))


def read_metrics(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time", "perf/", "data/")
    return [{key: value for key, value in line.items() if not key.startswith(timed)} for line in lines]


def losses(run: Path) -> dict[int, dict[str, float]]:
    """Loss scalars by step."""
    lines = read_metrics(run)
    return {
        line["step"]: {k: v for k, v in line.items() if k.startswith("loss/")}
        for line in lines
        if "loss/g_total" in line
    }


def assert_same_weights(run: Path, other: Path, *, step: int) -> None:
    """Bit for bit; the files differ in their metadata, which names the run folder."""
    for name in ("generator", "ema", "discriminator"):
        path = f"checkpoints/step-{step:08d}/{name}.safetensors"
        ours, theirs = (load_file(folder / path) for folder in (run, other))
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in theirs), name


def processes(count: int) -> list[str]:
    """The launcher's options for so many processes on the CPU of this machine."""
    several = ["--multi_gpu", "--main_process_port", "0"] if count > 1 else ["--cpu"]
    return [*COMMON, *several, "--num_processes", str(count), "--mixed_precision", "no"]


def launch(
    options: list[str], script: str, *words: str, timeout_s: float = 300
) -> subprocess.CompletedProcess:
    """A script under `accelerate launch`, on the CPU."""
    return subprocess.run(
        [*ACCELERATE, *options, str(ROOT / script), *words],
        env={**os.environ, **ON_CPU},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
