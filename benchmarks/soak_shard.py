"""Kill `streamgan shard` at random instants, run it again, and compare every byte with an uninterrupted run.

    python benchmarks/soak_shard.py PHOTOS --data "what PHOTOS is" --out benchmarks/results/soak_shard.md

Kills take the process alone or, every other time, its whole group with the workers. At every kill each file
that has a final name must hold the bytes of the finished set. A run that gets to its end before its kill
closes a cycle: the tree is compared, and the next kill begins with an empty folder.
"""

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from common import (
    STREAMGAN,
    load,
    machine,
    markdown,
    read_pairs,
    scratch,
    varied,
    write_parquet,
    write_report,
)

from streamgan.core.storage.local import TEMPORARY_SUFFIX

WORK = ".work"


@dataclass
class Tally:
    """What the kills met."""

    kills: int = 0
    reruns: int = 0
    cycles: int = 0
    whole_files: int = 0
    temporary: int = 0
    instants: list[float] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_final_names(out: Path, wanted: dict[str, bytes], tally: Tally) -> None:
    """Every file under a final name must be whole; anything else must be the run's own state."""
    for path in sorted(out.iterdir()) if out.is_dir() else []:
        if path.name == WORK:
            tally.units.append(len(list(path.glob("unit-*.json"))))
        elif path.name.endswith(TEMPORARY_SUFFIX):
            tally.temporary += 1
        elif path.read_bytes() == wanted.get(path.name):
            tally.whole_files += 1
        else:
            tally.wrong.append(f"kill {tally.kills}: {path.name} is not whole")


def soak(
    source: Path, folder: Path, *, kills: int, workers: int, units: int, seed: int
) -> tuple[Tally, float]:
    """Kill until `kills` have hit a live run; the tally, and the seconds of an uninterrupted run."""
    draw, out, whole = random.Random(seed), folder / "out", folder / "whole"
    options = ["--workers", str(workers), "--samples-per-shard", str(units), "--check", "decode"]

    def start(target: Path) -> subprocess.Popen[bytes]:
        command = [*STREAMGAN, "shard", str(source), "--out", str(target), *options]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    began = time.monotonic()
    if start(whole).wait():
        raise SystemExit("the uninterrupted run failed")
    seconds, wanted = time.monotonic() - began, read_tree(whole)
    tally = Tally()

    def close_cycle() -> None:
        tally.cycles += 1
        if read_tree(out) != wanted:
            tally.wrong.append(f"after kill {tally.kills}: the finished tree differs")
        shutil.rmtree(out)

    while tally.kills < kills:
        instant = draw.uniform(0, seconds)
        process = start(out)
        try:
            code = process.wait(instant)
        except subprocess.TimeoutExpired:
            if tally.kills % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()  # its workers must find out by themselves
            process.wait()
            tally.kills += 1
            tally.instants.append(instant)
            check_final_names(out, wanted, tally)
            tally.reruns += 1
            print(f"kill {tally.kills} after {instant:.1f} s, {len(tally.wrong)} wrong", file=sys.stderr)
        else:
            if code:
                tally.wrong.append(f"a rerun after kill {tally.kills} ended with {code}")
            close_cycle()
    if start(out).wait():
        tally.wrong.append("the last rerun failed")
    close_cycle()
    return tally, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", default="unnamed photos", help="what the photos are, for the report")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--samples-per-shard", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    options = parser.parse_args()
    with scratch(None) as folder:
        pairs = read_pairs(options.photos)
        write_parquet(folder / "in" / "train-0.parquet", varied(pairs, len(pairs)), group=5)
        tally, seconds = soak(
            folder / "in",
            folder,
            kills=options.kills,
            workers=options.workers,
            units=options.samples_per_shard,
            seed=options.seed,
        )
    rows = [
        ["SIGKILLs that hit a live run", str(tally.kills)],
        ["instants, s after the start", ", ".join(f"{instant:.1f}" for instant in sorted(tally.instants))],
        ["units complete at each kill", ", ".join(map(str, tally.units))],
        ["files under a final name at the kills, each equal to the finished set's", str(tally.whole_files)],
        ["temporary files at the kills (a rerun removes them)", str(tally.temporary)],
        [
            "finished trees, equal byte for byte to the uninterrupted one, nothing else in them",
            str(tally.cycles),
        ],
        ["**anything wrong**", "; ".join(tally.wrong) or "nothing"],
    ]
    arguments = ["PHOTOS", "--kills", str(options.kills), "--workers", str(options.workers)]
    arguments += ["--samples-per-shard", str(options.samples_per_shard), "--seed", str(options.seed)]
    write_report(
        options.out,
        f"""# Killed and run again

Machine: {machine()}. Load average {load()}.
Data: {options.data}; `--check decode`, {options.workers} workers.
An uninterrupted run takes {seconds:.1f} s.
Command: `{shlex.join(["python", "benchmarks/soak_shard.py", *arguments])}`.

{markdown(["", ""], rows)}""",
    )
    if tally.wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
