"""Does the loader keep a card busy: images per second by loader processes, alone, copied, and in training."""

import time
from collections.abc import Generator, Iterator
from typing import cast

import torch
from common import markdown

from streamgan.data.bottleneck import Rate, decode_ceiling, workers_estimated, workers_for
from streamgan.data.loader import build_loader
from streamgan.data.reading import Reading, Source
from streamgan.data.workers.batch import Batch

from .task import SMALL, Result, Task, on_gpu, precision, recipe, steady, synchronize, train_lines

WORKERS = (1, 2, 4, 8, 14)
SIZE, BATCH = 256, 32


def measure(task: Task) -> Iterator[Result]:
    size, batch = task.choose((SIZE, BATCH), (32, 4))
    seconds = task.choose(3.0, 0.2)
    result: Result = {"size": size, "batch": batch, "rows": []}
    reading = Reading(Source(str(task.photos)), size)
    result["ceiling"] = decode_ceiling(reading, "train", seconds=task.choose(1.0, 0.1))
    for workers in task.choose(WORKERS, (1, 2)):
        row: Result = {"workers": workers}
        result["rows"].append(row)
        for copied in (False, True):
            key = "copied_images_per_s" if copied else "images_per_s"
            row[key] = _rate(task, size, batch, workers, seconds=seconds, copied=copied)
        yield result
    steps, every = task.choose((60, 5), (4, 1))
    for row in result["rows"]:
        config = recipe(
            task, "default", f"data.batch={batch}", f"data.size={size}", *task.choose([], SMALL),
            f"data.workers={row['workers']}", f"run.dir={task.scratch / str(row['workers'])}",
            f"run.steps={steps}", f"run.log_every={every}", "run.validate_images=8", "run.sample_images=2",
        )  # fmt: skip
        with precision("bf16"):
            lines = train_lines(config)
        row["step_ms"], row["wait_ms"] = steady(lines, "perf/step_ms"), steady(lines, "perf/data_wait_ms")
        row["trained_images_per_s"] = steady(lines, "perf/images_per_s")
        yield result
    # what `streamgan bench loader --step-ms` says of a step that never waits
    step_ms = min(row["step_ms"] - row["wait_ms"] for row in result["rows"])
    rates = [Rate(row["workers"], row["images_per_s"], 0.0, 0.0) for row in result["rows"]]
    needed = 1000 * batch / step_ms
    result["predicted"] = {
        "step_ms": step_ms,
        "needed_images_per_s": needed,
        "workers": workers_for(rates, needed) or workers_estimated(rates, needed),
    }
    yield result


def _rate(task: Task, size: int, batch: int, workers: int, *, seconds: float, copied: bool) -> float:
    """Images per second of the loader, into pinned memory and on to the card if `copied`."""
    device = torch.device("cuda" if on_gpu() else "cpu")
    loader = build_loader(
        str(task.photos), batch=batch, size=size, workers=workers, gray=None, pin_memory=copied and on_gpu()
    )
    batches = cast(Generator[Batch, None, None], iter(loader))
    for _ in range(5 * workers):  # each has started, and filled its share of the queue
        next(batches)
    images, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        made = next(batches)
        if copied:
            made.color_B3HW.to(device, non_blocking=True)
        images += len(made.ids_B)
    synchronize()
    took = time.perf_counter() - began
    batches.close()
    return images / took


def report(result: Result) -> str:
    rows = []
    for row in result["rows"]:
        trained = ["-"] * 3
        if "step_ms" in row:
            share = row["wait_ms"] / row["step_ms"]
            trained = [f"{row['trained_images_per_s']:.0f}", f"{row['step_ms']:.1f}", f"{share:.1%}"]
        copied = row.get("copied_images_per_s")
        alone = f"{row['images_per_s']:.0f}"
        rows.append([str(row["workers"]), alone, "-" if copied is None else f"{copied:.0f}", *trained])
    head = [
        "workers",
        "images/s",
        "pinned and copied",
        "`default` in bf16: images/s",
        "ms per step",
        "waits for data",
    ]
    text = f"{result['size']} px, batch {result['batch']}; the decoder alone makes "
    text += f"{result['ceiling']:.0f} images/s on one core.\n\n{markdown(head, rows)}"
    if predicted := result.get("predicted"):
        text += (
            f"\n\nA step of {predicted['step_ms']:.1f} ms needs {predicted['needed_images_per_s']:.0f} "
            f"images/s: `bench loader --step-ms` says {predicted['workers']} workers."
        )
    return text
