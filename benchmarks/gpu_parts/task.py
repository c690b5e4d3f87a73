"""What every part is told, and what several of them do: choose a precision, time a step, train a run."""

import contextlib
import gc
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch.profiler import ProfilerActivity, profile

from streamgan.core.config import load_config
from streamgan.core.settings import TrainConfig
from streamgan.data.reading import Source
from streamgan.data.shards.joint import split_size

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "launch" / "recipes"
Result = dict[str, Any]
# what makes a network small enough for a rehearsal
SMALL = ["model.width=8", "model.d_width=8", "run.threads=1", "data.workers=1"]


@dataclass(frozen=True)
class Task:
    """Shard sets of large and of 64-pixel photos, folders for files, the seconds that a part may take."""

    photos: Path
    tiny: Path
    scratch: Path
    out: Path
    seconds: float
    rehearse: bool

    def began(self) -> "Clock":
        return Clock(self.seconds)

    def choose(self, real: Any, rehearsed: Any) -> Any:
        return rehearsed if self.rehearse else real


class Clock:
    """The time that a part has left."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()


def on_gpu() -> bool:
    return torch.cuda.is_available()


def card() -> str:
    return torch.cuda.get_device_name() if on_gpu() else "the CPU"


def synchronize() -> None:
    if on_gpu():
        torch.cuda.synchronize()


def recipe(task: Task, name: str, *words: str) -> TrainConfig:
    """A recipe with untrained weights and the GAN from the first step, on the large photos."""
    common = [
        f"data.shards={task.photos}", "model.pretrained=false", "loss.warmup_steps=0", "loss.ramp_steps=0",
        f"run.dir={task.scratch / 'run'}", "run.steps=1000000", "optim.warmup_steps=0",
    ]  # fmt: skip
    return load_config(RECIPES / f"{name}.yaml", [*common, *words])


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Accelerate as `--mixed_precision NAME` sets it up; CPUs, which have no fp16, take bf16 for it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    before = os.environ.get("ACCELERATE_MIXED_PRECISION")
    os.environ["ACCELERATE_MIXED_PRECISION"] = name if on_gpu() or name == "no" else "bf16"
    try:
        yield
    finally:
        os.environ.pop("ACCELERATE_MIXED_PRECISION")
        if before is not None:
            os.environ["ACCELERATE_MIXED_PRECISION"] = before


@contextmanager
def peak_memory(into: Result) -> Iterator[None]:
    """`peak_gb` of the block, above what was taken before it, with what CUDA graphs hold."""
    gc.collect()
    if not on_gpu():
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    yield
    torch.cuda.synchronize()
    into["peak_gb"] = (torch.cuda.max_memory_reserved() - before) / 1e9


def seconds_per_call(call: Callable[[], object], *, at_least_s: float) -> float:
    """The time of a call, by the host's clock, over as many as fill `at_least_s`."""
    count = 1
    while True:
        synchronize()
        began = time.perf_counter()
        for _ in range(count):
            call()
        synchronize()
        took = time.perf_counter() - began
        if took >= at_least_s / 2:
            return took / count
        count = max(count + 1, min(8 * count, round(count * at_least_s / max(took, 1e-6))))


_SCOPES = re.compile(r"void |at::native::|\(anonymous namespace\)::")


def kernels(call: Callable[[], object], *, calls: int = 3) -> Result | None:
    """Of a call: `kernels` and copies, `busy_ms` in which the card does any of them, `host_ms` that the host
    takes to ask for them, and what takes longest: `top` of the kernels as (ms, times, name), `ops` that
    launch them as (ms, times, name, shapes). None without a card."""
    if not on_gpu():
        return None
    synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    host_ms = 1e3 * (time.perf_counter() - began) / calls
    synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True) as seen:
        for _ in range(calls):
            call()
        synchronize()
    events = [
        event
        for event in seen.events() or []
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]
    by_name: dict[str, list[float]] = {}
    for event in events:
        by_name.setdefault(_SCOPES.sub("", event.name)[:120], []).append(event.time_range.elapsed_us() / 1e3)
    top = sorted(
        ((sum(took) / calls, len(took) / calls, name) for name, took in by_name.items()), reverse=True
    )
    ops = sorted(
        (
            (op.self_device_time_total / 1e3 / calls, op.count / calls, op.key, str(op.input_shapes)[:120])
            for op in seen.key_averages(group_by_input_shape=True)
            if op.device_type.name == "CPU"
        ),
        reverse=True,
    )
    busy_us, end = 0.0, 0.0
    for start, stop in sorted((event.time_range.start, event.time_range.end) for event in events):
        busy_us += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return {
        "kernels": len(events) / calls, "busy_ms": busy_us / 1e3 / calls, "host_ms": host_ms,
        "top": top[:40], "ops": ops[:40],
    }  # fmt: skip


def train_lines(config: TrainConfig) -> list[dict[str, Any]]:
    """Train in this process; the lines of metrics.jsonl that describe steps."""
    from streamgan.train.loop import train

    with contextlib.redirect_stdout(None):
        train(config)
    lines = [json.loads(line) for line in (Path(config.run.dir) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "perf/step_ms" in line]


def steady(lines: list[dict[str, Any]], key: str) -> float:
    """The median of a figure over the second half of a run's lines."""
    values = sorted(line[key] for line in lines[len(lines) // 2 :])
    return values[len(values) // 2]


def samples(root: Path, split: str) -> int:
    return split_size(Source(str(root)), split)
