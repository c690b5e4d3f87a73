"""The training loop side by side with loops written by hand, interleaved.

    python benchmarks/step.py PHOTOS --data "what PHOTOS is" --out benchmarks/results/step.md

PHOTOS is a folder of parquet in the Hub's schema. `streamgan train` reads its shards, decodes, converts,
averages, logs and, in one arm, saves; the loops by hand have tensors in memory and do none of that. Every
round runs every arm once, in a new process and in another order; ratios are of the same round.
"""

import argparse
import importlib.metadata
import json
import shlex
import statistics
import sys
from pathlib import Path

from common import (
    load,
    machine,
    markdown,
    measure,
    read_pairs,
    scratch,
    spread,
    varied,
    write_parquet,
    write_report,
)
from step_arms import ARMS, BARE, BATCH, LOG_EVERY, OURS, PLAIN, SAVING, SIZE, STEPS, WARM

from streamgan.sharding.run import ShardOptions, shard

SAMPLES = 240  # more than the steps read: validation at the end of an epoch is not timed
INTERVAL = 100  # steps between two checkpoints that the cost of one is set against
PACKAGES = ("torch", "accelerate")


def run_arm(name: str, shards: Path, folder: Path) -> float:
    """Images a second."""
    with scratch(folder) as run:
        script = str(Path(__file__).with_name("step_arms.py"))
        measure([sys.executable, script, name, str(shards), str(run / "run"), str(run / "report.json")])
        return json.loads((run / "report.json").read_text())["images_per_s"]


def ratios(speeds: dict[str, list[float]], over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(speeds[over], speeds[under], strict=True)]


def targets(speeds: dict[str, list[float]]) -> str:
    lost = [  # by the one checkpoint that is written in the timed steps
        STEPS * BATCH * (1 / saving - 1 / ours)
        for saving, ours in zip(speeds[SAVING], speeds[OURS], strict=True)
    ]
    between = INTERVAL * BATCH / statistics.median(speeds[OURS])
    against = {BARE: 0.97, PLAIN: 1.0}
    rows = []
    for name, least in against.items():
        found = ratios(speeds, OURS, name)
        met = "met" if statistics.median(found) >= least else "MISSED"
        rows.append([f"images/s at least {least} x those of the {name}", f"{spread(found, 3)} x", met])
    share = statistics.median(lost) / between
    what = f"writing a checkpoint costs less than 5% of the {INTERVAL} steps between two (recipes: 2000)"
    found = f"{spread(lost)} s = {100 * share:.2f}%"
    rows.append([what, found, "met" if share < 0.05 else "MISSED"])
    return markdown(["target", "measured", ""], rows)


REPORT = """# The training loop, side by side

Machine: {machine}. Load average {before} before, {after} after.{note}
Data: {data}; {samples} photos as shards. Versions: {versions}.
Command: `{command}`. n = {rounds} rounds, every arm once a round, in turn; median (min-max).

{table}

Batches of {batch} at {size} x {size} pixels, pix2pix's U-Net (width 64) of depth 6, PatchGAN, BCE + L1, fp32,
two threads; {steps} steps are timed after {warm} of warm-up, about {seconds:.1f} s per step.
`streamgan train` is the real loop with one loader process on the same two cores, a log line every {log}
steps, EMA and gradient norms, and malloc keeps what is freed; the loops by hand leave malloc alone, but for
the one that says so. The bare loop does the same steps (one G forward, D on real and fake at once, fused
Adam) on Lab tensors in memory; the pix2pix-style loop runs D twice, with the default Adam.

{targets}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", default="unnamed photos", help="what the photos are, for the report")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="where the data goes for the time being")
    parser.add_argument("--note", default="", help="what else to know about this run")
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    options = parser.parse_args()
    before, speeds = load(), {name: [] for name in ARMS}
    with scratch(options.scratch) as folder:
        write_parquet(folder / "in" / "photos.parquet", varied(read_pairs(options.photos), SAMPLES), group=50)
        settings = ShardOptions(splits="train=1", samples_per_shard=50, gray="derive")
        shard([str(folder / "in")], folder / "set", options=settings, num_workers=0)
        for number in range(options.rounds):
            for name in [*ARMS, *ARMS][number % len(ARMS) :][: len(ARMS)]:
                speeds[name].append(run_arm(name, folder / "set", folder))
                print(
                    f"round {number + 1}/{options.rounds}: {name}: {speeds[name][-1]:.2f} images/s",
                    file=sys.stderr,
                )
    rows = [[name, spread(values), spread(ratios(speeds, name, BARE), 3)] for name, values in speeds.items()]
    seconds = BATCH / statistics.median(speeds[OURS])
    write_report(
        options.out,
        REPORT.format(
            machine=machine(),
            before=before,
            after=load(),
            note=f" {options.note}" if options.note else "",
            data=options.data,
            samples=SAMPLES,
            versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
            command=shlex.join(["python", "benchmarks/step.py", "PHOTOS", "--rounds", str(options.rounds)]),
            rounds=options.rounds,
            table=markdown(["", "images/s", f"{BARE} = 1"], rows),
            batch=BATCH,
            size=SIZE,
            steps=STEPS,
            warm=WARM,
            seconds=seconds,
            log=LOG_EVERY,
            targets=targets(speeds),
        ),
    )


if __name__ == "__main__":
    main()
