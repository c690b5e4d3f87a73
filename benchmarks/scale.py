"""What very large sets and many machines would meet, by the code that training runs, without the photos.

    python benchmarks/scale.py --out benchmarks/results/scale.md

The first table takes sets of up to a billion samples that exist as numbers: what the plan of a rank costs
(each row in a new process), how large manifest and index are. The second asks `streamgan.data.forecast`,
which tests compare with what a loader downloads, about fleets of 1 to 1,024 GPUs, 8 to a machine.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import load, machine, markdown, own_peak, scratch, write_report

from streamgan.data.forecast import forecast
from streamgan.data.format import (
    INDEX_DTYPE,
    MANIFEST,
    Manifest,
    ShardEntry,
    SplitEntry,
    read_manifest,
    write_manifest,
)
from streamgan.data.order.canonical import Order
from streamgan.data.plan import Shuffle
from streamgan.data.prefetch.demand import OrderNeeds

# samples, samples per shard
SETS = {
    "3 million": (3_000_000, 1000),
    "100 million": (100_000_000, 1000),
    "1 billion": (1_000_000_000, 10_000),
}
BATCH, RANKS_OF_PLAN, STEPS = 1024, 64, 50
ROWS = slice(0, BATCH // RANKS_OF_PLAN)
IMAGE_BYTES = 90_000  # of a colour image of 512 pixels; a gray twin has two thirds of that
TWIN_BYTES = 60_000
WINDOW = 8  # beside the default
RANKS = (1, 8, 64, 256, 1024)
PER_MACHINE = 8


def plan_cost(samples: int, per_shard: int) -> dict[str, float]:
    """CPU seconds and memory of the plan of one rank of RANKS_OF_PLAN, in this process."""
    before = own_peak()
    sizes = np.full(samples // per_shard, per_shard)
    marks = [time.process_time()]

    def mark() -> float:
        marks.append(time.process_time())
        return marks[-1] - marks[-2]

    order = Order(sizes, seed=0, batch=BATCH)
    order.batch_ids(0, ROWS)
    first_s = mark()
    for step in range(1, STEPS + 1):
        order.batch_ids(step, ROWS)
    step_s = mark() / STEPS
    late = Order(sizes, seed=0, batch=BATCH)
    mark()
    late.batch_ids(int(0.99 * late.steps_per_epoch), ROWS)
    resume_s = mark()
    needs = OrderNeeds(order, sizes * IMAGE_BYTES, slice(0, 8 * ROWS.stop), start=0, stop=None)
    uses = sum(1 for _ in needs.of_epoch(0))
    needs_s = mark()
    grown = own_peak() - before
    return {
        "first_s": first_s, "step_s": step_s, "resume_s": resume_s, "needs_s": needs_s, "uses": uses,
        "memory": grown,
    }  # fmt: skip


def manifest_cost(samples: int, per_shard: int) -> dict[str, float]:
    """What the manifest of such a set takes on disk, and CPU seconds to read and check it."""
    digest = "0" * 64
    entries = tuple(
        ShardEntry(
            f"train-{n:06d}.tar", per_shard, per_shard * (IMAGE_BYTES + TWIN_BYTES), f"{n:064x}", digest
        )
        for n in range(samples // per_shard)
    )
    split = SplitEntry(samples, sum(one.bytes for one in entries), digest, entries)
    empty: dict[str, Any] = {"rows": 0, "reasons": {}, "sha256": digest, "bytes": 0}
    with scratch(None) as folder:
        write_manifest(folder, Manifest({"files": []}, {}, {"train": split}, empty))
        began = time.process_time()
        read_manifest(folder)
        return {"read_s": time.process_time() - began, "bytes": (folder / MANIFEST).stat().st_size}


def in_child(what: str, *numbers: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--child", what, *map(str, numbers)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def process_rows() -> list[list[str]]:
    rows = []
    for name, (samples, per_shard) in SETS.items():
        plan, manifest = in_child("plan", samples, per_shard), in_child("manifest", samples, per_shard)
        rows.append(
            [
                f"{name}, {samples // per_shard:,} shards",
                f"{plan['first_s']:.2f} s",
                f"{1e3 * plan['step_s']:.2f} ms",
                f"{plan['resume_s']:.2f} s",
                f"{plan['needs_s']:.2f} s",
                f"{plan['memory'] / 1e6:.0f} MB",
                f"{manifest['bytes'] / 1e6:.1f} MB, {manifest['read_s']:.2f} s",
                f"{samples * INDEX_DTYPE.itemsize / 1e9:.2g} GB",
            ]
        )
    return rows


def fleet_rows(samples: int, per_shard: int, options: argparse.Namespace) -> list[list[str]]:
    sizes = np.full(samples // per_shard, per_shard)
    shard_bytes = sizes * (IMAGE_BYTES + TWIN_BYTES)
    rows = []
    for ranks in RANKS:
        machines, batch = -(-ranks // PER_MACHINE), 16 * ranks
        arms = [(None, None), (None, WINDOW)] + ([(machines, WINDOW)] if machines > 16 else [])
        for lanes, window in arms:
            shuffle = Shuffle(batch, lanes=lanes, window=window)
            cache = options.cache_gb * 1e9
            found = forecast(
                sizes, shard_bytes, shuffle, ranks=ranks, machines=machines, cache_bytes=cache, epochs=2
            )
            epoch_s = found.steps_per_epoch * options.step_ms / 1000
            images = found.steps_per_epoch * batch // machines
            dollars = options.usd_per_1000 / 1000 * machines
            rows.append(
                [
                    f"{ranks:,} / {machines}",
                    f"{found.lanes}{'' if lanes else ' (default)'}",
                    f"{found.window}{'' if window else ' (default)'}",
                    f"{found.distinct / found.distinct_full:.0%}",
                    f"{epoch_s / 3600:.1f} h",
                    f"{found.first_bytes / 1e9:.3g}",
                    f"{found.first_index_bytes / 1e6:,.1f}, {found.epoch_index_bytes / 1e6:,.0f}",
                    f"{found.working_set_bytes / 1e9:.3g}",
                    f"{found.epoch_bytes[0] / 1e12:.3g}, {found.epoch_bytes[1] / 1e12:.3g}",
                    f"{found.copies:.3g}",
                    f"{found.epoch_bytes[0] * 8e-9 / epoch_s:.2g}",
                    f"{images * IMAGE_BYTES * 8e-9 / epoch_s:.2g}",
                    f"{found.epoch_requests * dollars:,.0f}, {images * dollars:,.0f}",
                    f"{found.left_over:,}",
                ]
            )
    return rows


PROCESS_HEAD = ["samples", "first batch", "order of a step", "resume at 99%", "plan of an epoch's downloads"]
PROCESS_HEAD += ["memory", "manifest, read", "index"]
FLEET_HEAD = [
    "GPUs / machines",
    "lanes",
    "window",
    "mixing",
    "epoch",
    "first batch, GB",
    "index, MB",
    "cache, GB",
    "downloads, TB",
]
FLEET_HEAD += ["copies", "Gbit/s", "by range", "$ per epoch", "left over"]
REPORT = """# Large sets, many machines

Machine: {machine}. Load average {load}.
Command: `{command}`.

## What the plan of one process costs

Sets that exist as numbers; one of {plan_ranks} ranks, batches of {batch}, default lanes and windows; CPU
seconds of one thread, nothing else in the process. "Memory": what it grew by at its peak. The manifest is
read and checked once per process.

{process}

## What each machine of a fleet needs

{samples:,} samples of {image} kB and their twins of {twin} kB in {shards:,} shards of {gb:.2g} GB.
16 images per GPU and step, {step_ms:g} ms per step, 8 GPUs and a cache of {cache_gb:g} GB per machine.

{fleet}

Mixing: shards that a batch is drawn from, as a share of a full shuffle's. First batch: the shards that it is
drawn from; until they have arrived, images are read by range. Index: what the first batch and the first epoch
fetch of it; a small one comes whole. Cache: what it must hold. Downloads: of a
machine, in the first epoch and in the second. Copies: machines that download a shard in an epoch. Gbit/s:
of whole shards, and of single images by range (`data.cache=none`), on average over the first epoch. Dollars:
for the requests of all machines at {usd:g} per 1,000, of whole shards and by range; what the bytes cost
depends on where they go. Left over: samples that an epoch does not reach, others in each.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--fleet", choices=list(SETS), default="100 million", help="the set of the second table"
    )
    parser.add_argument("--step-ms", type=float, default=200)
    parser.add_argument("--cache-gb", type=float, default=2000)
    parser.add_argument("--usd-per-1000", type=float, default=0.0004, help="price of 1,000 GET requests")
    parser.add_argument("--out", type=Path, help="keep the report in this file")
    options = parser.parse_args()
    samples, per_shard = SETS[options.fleet]
    text = REPORT.format(
        machine=machine(),
        load=load(),
        command=shlex.join(["python", "benchmarks/scale.py", *sys.argv[1:]]),
        batch=BATCH,
        plan_ranks=RANKS_OF_PLAN,
        process=markdown(PROCESS_HEAD, process_rows()),
        fleet=markdown(FLEET_HEAD, fleet_rows(samples, per_shard, options)),
        samples=samples,
        image=IMAGE_BYTES // 1000,
        twin=TWIN_BYTES // 1000,
        shards=samples // per_shard,
        gb=per_shard * (IMAGE_BYTES + TWIN_BYTES) / 1e9,
        step_ms=options.step_ms,
        cache_gb=options.cache_gb,
        usd=options.usd_per_1000,
    )
    write_report(options.out, text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        cost = {"plan": plan_cost, "manifest": manifest_cost}[sys.argv[2]]
        print(json.dumps(cost(*map(int, sys.argv[3:]))))
    else:
        main()
