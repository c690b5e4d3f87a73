"""A training run that is killed again and again: does it end with the weights of one that never was?

    python benchmarks/soak_train.py PHOTOS --kills 20 --out benchmarks/results/soak_train.md

The same command is started until it ends by itself. Each life is ended by SIGKILL: every second one while a
checkpoint is being written, the others a random time after a random step, or after the start. A kill counts
as one in a write if it leaves an unfinished checkpoint. One thread on the CPU, one loader process.
"""

import argparse
import hashlib
import json
import random
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from common import load, machine, markdown, read_pairs, scratch, varied, write_parquet, write_report
from safetensors.torch import load_file

from streamgan.sharding.run import ShardOptions, shard
from streamgan.train.checkpoint import list_checkpoints

SCRIPT = str(Path(__file__).parents[1] / "launch" / "train.py")
SETTINGS = [
    "data.batch=8", "data.size=48", "data.workers=1", "model.width=24", "model.depth=3", "model.norm=group",
    "model.d_width=16", "loss.warmup_steps=10", "loss.ramp_steps=10", "run.log_every=1", "run.threads=1",
    "run.checkpoint_every=4", "run.validate_every=50", "run.validate_images=8", "run.sample_images=2",
]  # fmt: skip
KINDS = ("step", "write", "moment", "write")
NETWORKS = ("generator", "ema", "discriminator")


@dataclass
class Kills:
    """What was done to a run, and what it left each time."""

    steps: list[int] = field(default_factory=list)  # the last that was logged
    again: list[int] = field(default_factory=list)  # of them without a checkpoint
    in_a_write: int = 0


def unfinished(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("*.tmp"))


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def start(words: list[str]) -> "subprocess.Popen[str]":
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    return subprocess.Popen([sys.executable, SCRIPT, *words], **pipes)


class Life:
    """One start of the command, whose console is read by a thread."""

    def __init__(self, words: list[str]):
        self.born, self.process, self.step, self.said = time.time(), start(words), -1, ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said += line
            if line.startswith("step "):
                self.step = int(line.split()[1].partition("/")[0])

    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self, *, kill: bool = False) -> int:
        if kill:
            self.process.kill()
        code = self.process.wait()
        self._reader.join()
        return code


def kill_once(words: list[str], run: Path, goal: int, draw: random.Random, kind: str) -> tuple[Life, bool]:
    """One life, ended at the moment that `kind` says; whether the process was still alive then."""
    life, pause = Life(words), draw.random()
    if kind == "moment":  # of the start too, and of resuming
        time.sleep(pause * 8)
    else:
        while life.alive() and life.step < goal:
            time.sleep(0.002)
        time.sleep(pause * 0.2)
    if kind == "write":
        while life.alive() and unfinished(run):
            time.sleep(0.0002)
        while life.alive() and not unfinished(run):
            time.sleep(0.0002)
        time.sleep(pause * 0.02)
    was_alive = life.alive()
    life.end(kill=True)
    return life, was_alive


def run_with_kills(words: list[str], run: Path, *, steps: int, kills: int, seed: int) -> Kills:
    """Kill the run about once in every `steps / kills` steps, then let it end."""
    draw, done = random.Random(seed), Kills()
    for number in range(kills):
        goal = int((number + draw.random()) * steps / (kills + 1))
        life, was_alive = kill_once(words, run, goal, draw, KINDS[number % len(KINDS)])
        if not was_alive:
            if life.process.returncode:
                raise SystemExit(f"ended by itself with {life.process.returncode}:\n{life.said[-2000:]}")
            continue
        new = (name for name in unfinished(run) if _changed(run / "checkpoints" / name) > life.born)
        done.in_a_write += any(new)
        newest = max((c.step for c in list_checkpoints(run)), default=0)
        done.steps.append(max(life.step, newest))
        done.again.append(max(life.step - newest, 0))
    life = Life(words)
    if life.end():
        raise SystemExit(f"the last life ended with {life.process.returncode}:\n{life.said[-2000:]}")
    return done


def differences(run: Path, other: Path, step: int) -> list[str]:
    """What of two finished runs is not the same bit for bit: weights, moments, every logged loss, grids."""
    found = []
    one, two = (folder / "checkpoints" / f"step-{step:08d}" for folder in (run, other))
    for name in NETWORKS:
        ours, theirs = load_file(one / f"{name}.safetensors"), load_file(two / f"{name}.safetensors")
        found += [
            f"{name}.{key}" for key in theirs if key not in ours or not torch.equal(ours[key], theirs[key])
        ]
    states = [torch.load(path / "trainer.pt", weights_only=True) for path in (one, two)]
    hashes = [hashlib.sha256(_bytes(state)).hexdigest() for state in states]
    found += [] if hashes[0] == hashes[1] else ["trainer.pt"]
    logs = [_log(folder) for folder in (run, other)]
    found += [] if logs[0] == logs[1] else ["metrics.jsonl"]
    grids = [{p.name: p.read_bytes() for p in (folder / "samples").iterdir()} for folder in (run, other)]
    return found + ([] if grids[0] == grids[1] else ["samples"])


def _bytes(value: object) -> bytes:
    if isinstance(value, torch.Tensor):
        return value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return b"".join(str(key).encode() + _bytes(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return b"".join(_bytes(item) for item in value)
    return repr(value).encode()


def _log(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "perf/", "data/")
    return [{key: value for key, value in line.items() if not key.startswith(clock)} for line in lines]


def make_set(folder: Path, photos: Path, samples: int) -> Path:
    write_parquet(folder / "in" / "photos.parquet", varied(read_pairs(photos), samples), group=20)
    options = ShardOptions(samples_per_shard=20, splits="train=0.8,val=0.2", gray="derive")
    shard([str(folder / "in")], folder / "set", options=options, num_workers=0)
    return folder / "set"


REPORT = """# Training, killed and started again

Machine: {machine}. Load average {load}.
Data: {data}; 200 photos. {steps} steps at 48 x 48, batch 8, a checkpoint every 4 steps, one thread.
Command: `{command}`; {minutes:.0f} minutes.

{table}

Compared are the weights of generator, its average and discriminator, the moments of both optimizers, every
logged loss and validation figure, and the sample grids."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of parquet files")
    parser.add_argument("--data", default="", help="what PHOTOS is, in words")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=210)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="folder for temporary files")
    parser.add_argument("--out", type=Path, help="keep the report in this file")
    args = parser.parse_args()
    with scratch(args.scratch) as folder:
        root = make_set(folder, args.photos, 200)
        words = [*SETTINGS, f"data.shards={root}", f"run.steps={args.steps}"]
        whole, killed = folder / "whole", folder / "killed"
        Life([*words, f"run.dir={whole}"]).end()
        began = time.monotonic()
        done = run_with_kills(
            [*words, f"run.dir={killed}"], killed, steps=args.steps, kills=args.kills, seed=args.seed
        )
        minutes = (time.monotonic() - began) / 60
        wrong = differences(killed, whole, args.steps)
        left = unfinished(killed)
    rows = [
        ["SIGKILLs that hit a live run", str(len(done.steps))],
        ["of them while a checkpoint was being written", str(done.in_a_write)],
        ["last logged step at each", ", ".join(map(str, done.steps))],
        ["steps done again after each", ", ".join(map(str, done.again))],
        ["unfinished checkpoints in the end", str(len(left))],
        ["**differences from the run that was never killed**", ", ".join(wrong) or "none, bit for bit"],
    ]
    counts = ["PHOTOS", "--kills", str(args.kills), "--steps", str(args.steps), "--seed", str(args.seed)]
    text = REPORT.format(
        machine=machine(),
        load=load(),
        data=args.data,
        steps=args.steps,
        command=shlex.join(["python", "benchmarks/soak_train.py", *counts]),
        minutes=minutes,
        table=markdown(["what", "seen"], rows),
    )
    write_report(args.out, text)
    if wrong or len(done.steps) < args.kills or left:
        raise SystemExit("not what it should be")


if __name__ == "__main__":
    main()
