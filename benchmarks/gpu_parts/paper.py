"""The source paper's experiment: 10,000 photos of 512 px, batch 8, 10 epochs; five hours on its card."""

from collections.abc import Iterator

from common import markdown

from .task import SMALL, Result, Task, precision, recipe, steady, train_lines

PHOTOS, TRAIN_SHARE, BATCH, EPOCHS, PAPER_MINUTES = 10_000, 0.7, 8, 10, 300
PRECISIONS = {"bf16": "bf16", "fp32 (TF32)": "no"}


def measure(task: Task) -> Iterator[Result]:
    total = int(PHOTOS * TRAIN_SHARE) // BATCH * EPOCHS
    result: Result = {"steps": total, "rows": []}
    steps, every = task.choose((80, 10), (4, 1))
    for name, kind in PRECISIONS.items():
        config = recipe(
            task, "paper", *task.choose(["data.workers=8"], [*SMALL, "data.size=64", "data.batch=2"]),
            f"run.dir={task.scratch / kind}", f"run.steps={steps}", f"run.log_every={every}",
            "run.validate_images=8", "run.sample_images=2",
        )  # fmt: skip
        with precision(kind):
            lines = train_lines(config)
        step_ms = steady(lines, "perf/step_ms")
        waits = steady(lines, "perf/data_wait_ms") / step_ms
        row = {"precision": name, "step_ms": step_ms, "waits": waits, "minutes": total * step_ms / 60_000}
        result["rows"].append(row)
        yield result


def report(result: Result) -> str:
    rows = [
        [
            row["precision"], f"{row['step_ms']:.1f}", f"{row['waits']:.1%}", f"{row['minutes']:.1f}",
            f"{PAPER_MINUTES / row['minutes']:.0f} x",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    head = [
        "",
        "ms per step",
        "waits for data",
        f"projected minutes of {result['steps']} steps",
        "faster than the paper's five hours",
    ]
    return markdown(head, rows) + "\n\nWithout its validations, which the projection leaves out."
