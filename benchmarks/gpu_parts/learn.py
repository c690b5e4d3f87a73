"""What the minutes that are left can teach: the best recipe on all of the 64-pixel photos, and its scores."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import yaml
from common import markdown

from streamgan.core.config import load_config

from .task import RECIPES, ROOT, SMALL, Result, Task, precision, samples, steady, train_lines

RECIPE, BATCH = "tiny64_cpu", 128
EVALUATION_S, COMPARE_S, SCORING_S = 25.0, 30.0, 15.0
ROWS = ("gray", "median_ab", "model")
COLUMNS = ("psnr", "ssim", "psnr_at_cf50", "cf")


def measure(task: Task) -> Iterator[Result]:
    clock = task.began()
    result: Result = {"images": samples(task.tiny, "train")}
    words = [
        f"data.shards={task.tiny}", f"data.batch={task.choose(BATCH, 8)}", "data.workers=12",
        "optim.lr_g=2e-3", *task.choose([], [*SMALL, "model.depth=3", "data.size=32"]),
    ]  # fmt: skip
    short, every = task.choose((200, 20), (4, 1))
    trial = [*words, f"run.dir={task.scratch / 'trial'}", f"run.steps={short}", f"run.log_every={every}"]
    with precision("bf16"):
        lines = train_lines(load_config(RECIPES / f"{RECIPE}.yaml", [*trial, "run.validate_images=64"]))
    result["images_per_s"] = steady(lines, "perf/images_per_s")
    result["waits"] = steady(lines, "perf/data_wait_ms") / steady(lines, "perf/step_ms")
    yield result

    step_s = steady(lines, "perf/step_ms") / 1000
    steps = task.choose(max(short, int((clock.left() - EVALUATION_S) * 0.8 / step_s)), 8)
    run = task.scratch / "learnt"
    words += [f"run.dir={run}", f"run.steps={steps}", f"run.validate_every={max(1, steps // 4)}"]
    began = time.monotonic()
    with precision("bf16"):
        train_lines(load_config(RECIPES / f"{RECIPE}.yaml", [*words, "run.validate_images=1024"]))
    result |= {"steps": steps, "minutes": (time.monotonic() - began) / 60}
    result["epochs"] = steps * task.choose(BATCH, 8) / result["images"]
    yield result

    command = [
        "evaluate",
        str(run),
        "--shards",
        str(task.tiny),
        "--split",
        "test",
        "--batch",
        "128",
        "--json",
    ]
    result["scores"] = json.loads(_streamgan(command))
    if grids := sorted((run / "samples").glob("*.png")):
        shutil.copy(grids[-1], task.out / "learn.png")
    yield result

    fits = int(clock.left() / (COMPARE_S + SCORING_S))
    listed = yaml.safe_load((RECIPES / "compare.yaml").read_text())
    rows = listed["rows"][:0] if task.rehearse else listed["rows"][-fits:] if fits > 0 else []
    if rows:
        for row in rows:
            row["recipe"] = str(RECIPES / row["recipe"])
        listed |= {"rows": rows, "budget": {"minutes": COMPARE_S / 60}, "max_images": 1000}
        path = task.scratch / "compare.yaml"
        path.write_text(yaml.safe_dump(listed))
        words = [
            "compare",
            "-c",
            str(path),
            "--shards",
            str(task.tiny),
            "--out",
            str(task.scratch / "compare"),
        ]
        result["compare"] = json.loads(_streamgan([*words, "--json"]))["rows"]
        yield result


def _streamgan(words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "streamgan.cli", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"streamgan {words[0]} ended with {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


def report(result: Result) -> str:
    text = f"`{RECIPE}.yaml` in bf16, batch {BATCH}, {result['images']} photos: "
    text += f"{result['images_per_s']:.0f} images/s, {result['waits']:.1%} of the time waits for data"
    if "steps" in result:
        text += (
            f"; {result['steps']} steps ({result['epochs']:.1f} epochs) in {result['minutes']:.1f} minutes"
        )
    if scores := result.get("scores"):
        found = {"model": scores["model"], **scores["baselines"]}
        rows = [[row, *(_cell(found[row][key]) for key in COLUMNS)] for row in ROWS if row in found]
        head = f"test, N = {scores['num_images']}"
        text += f".\n\n{markdown([head, *COLUMNS], rows)}"
    if rows := result.get("compare"):
        cells = [
            [row["name"], str(row.get("steps")), *(_cell(row["scores"].get(key)) for key in COLUMNS)]
            for row in rows
        ]
        text += f"\n\n`streamgan compare`, {COMPARE_S:g} s each\n\n{markdown(['', 'steps', *COLUMNS], cells)}"
    return text


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
