"""A run that is killed twice beside one that never is: bf16, fp16 with its scale, bit for bit if asked."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import starmap
from pathlib import Path

from common import markdown
from safetensors.torch import load_file

from .task import ROOT, SMALL, Clock, Result, Task, on_gpu

LAST_WORDS_S = 2.0
STEPS, KILLS, EVERY = 60, (25, 41), 10  # the second life dies before it has reached step 50
# name: (precision, deterministic algorithms)
ARMS = {
    "bf16, deterministic": ("bf16", True),
    "bf16": ("bf16", False),
    "fp16": ("fp16", False),
}
PROGRAM = """
import sys, torch
torch.use_deterministic_algorithms(sys.argv[1] == "True")
from streamgan.core.config import load_config
from streamgan.train.loop import train
train(load_config(None, sys.argv[2:]))
"""


def measure(task: Task) -> Iterator[Result]:
    clock, result = task.began(), {"steps": STEPS, "kills": KILLS, "rows": {}}
    arms = ARMS if on_gpu() else {"bf16, deterministic": ARMS["bf16, deterministic"]}
    with ThreadPoolExecutor(2 * len(arms)) as pool:  # each is a small network: the card has room for all
        jobs = {name: [pool.submit(_run, task, clock, name, kills) for kills in ((), KILLS)] for name in arms}
        for name, runs in jobs.items():
            result["rows"][name] = _compare(*(job.result() for job in runs))
            yield result


def _run(task: Task, clock: Clock, name: str, kills: Sequence[int]) -> Path:
    """One run to its end, with a SIGKILL after each of `kills` steps."""
    kind, deterministic = ARMS[name]
    out = task.scratch / f"{name.replace(', ', '-')}-{len(kills)}"
    words = [
        f"data.shards={task.tiny}", "data.batch=16", "data.size=64", f"run.dir={out}", f"run.steps={STEPS}",
        f"run.checkpoint_every={EVERY}", "run.log_every=1", "run.validate_images=16", "run.sample_images=2",
        "model.generator=resnet18_unet", "loss.warmup_steps=5", "loss.ramp_steps=5", "loss.r1_weight=1",
        "run.keep=9",
        *task.choose(["model.width=32", "data.workers=1"], [*SMALL, "data.batch=4", "data.size=32"]),
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_MIXED_PRECISION": kind, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(task.scratch / f"{out.name}.log", "w") as log:
        for kill in (*kills, None):
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(deterministic), *words],
                env=environment,
                stdout=log,
                stderr=log,
            )
            while process.poll() is None and clock.left() > LAST_WORDS_S:
                if kill is not None and len(_lines(out)) and _lines(out)[-1]["step"] >= kill:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.02)
            if process.poll() is None:
                process.kill()
                process.wait()
                raise TimeoutError(f"{name}: not done in the time of this part")
            if kill is None and process.returncode:
                raise RuntimeError(
                    f"{name} ended with {process.returncode}: {Path(log.name).read_text()[-1500:]}"
                )
            if kill is not None and process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"{name} ended with {process.returncode} before it could be killed")
    return out


def _lines(run: Path) -> list[Result]:
    """The lines of steps so far; the last one may be half written."""
    path = run / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True) if path.exists() else []
    lines = [json.loads(line) for line in whole if line.endswith("\n")]
    return [line for line in lines if "loss/g_total" in line]


def _compare(whole: Path, killed: Path) -> Result:
    """The largest relative difference of the loss curves and the largest difference of a weight."""
    curves = list(zip(_lines(whole), _lines(killed), strict=True))
    losses = [abs(a["loss/g_total"] - b["loss/g_total"]) / abs(a["loss/g_total"]) for a, b in curves]
    folders = [run / "checkpoints" / f"step-{STEPS:08d}" for run in (whole, killed)]
    first, second = (load_file(folder / "ema.safetensors") for folder in folders)
    weights = [(first[key].float() - second[key].float()).abs().max().item() for key in first]
    return {
        "steps": [line["step"] for _, line in curves],
        "max_loss_difference": max(losses),
        "max_weight_difference": max(weights),
        "identical": max(weights) == 0 and all(starmap(_same, curves)),
        "scale": [curves[-1][0].get("grad/scale"), curves[-1][1].get("grad/scale")],
    }


def _same(a: Result, b: Result) -> bool:
    return all(a[key] == b[key] for key in a if key.startswith(("loss/", "grad/", "d/")))


def report(result: Result) -> str:
    rows = [
        [
            name, "yes" if row["identical"] else "no", f"{row['max_loss_difference']:.2g}",
            f"{row['max_weight_difference']:.2g}", " / ".join(f"{scale:g}" for scale in row["scale"]),
        ]
        for name, row in result["rows"].items()
    ]  # fmt: skip
    head = [
        "",
        "identical to the bit",
        "largest relative difference of a loss",
        "of an averaged weight",
        "loss scale at the end",
    ]
    kills = " and ".join(map(str, result["kills"]))
    return f"{result['steps']} steps, killed at {kills}, beside an unbroken run.\n\n{markdown(head, rows)}"
