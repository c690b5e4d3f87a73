"""The canonical order and what starting costs: seeks, mixing, memory, the first batch, the measuring itself.

    python benchmarks/order.py DIR --data "what DIR is" --out benchmarks/results/order.md

DIR is a shard set; only the first batch and the measuring read it. The rest is the order alone, of sets of
1,000 samples a shard that exist as numbers.
"""

import argparse
import shlex
import statistics
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import load, machine, markdown, spread, write_report

from streamgan.core.seeding import hash64
from streamgan.data import build_loader
from streamgan.data.format import INDEX_DTYPE
from streamgan.data.order.canonical import Order
from streamgan.data.workers.counters import Board

PER_SHARD = 1000
SEEKS = 20


def seek_ms(samples: int) -> list[float]:
    """CPU milliseconds (one thread, no disk) from nothing to a step somewhere in the first hundred epochs."""
    sizes = np.full(samples // PER_SHARD, PER_SHARD)
    found = []
    for number in range(SEEKS):
        began = time.process_time()
        order = Order(sizes, seed=number, batch=48)
        order.batch_ids(int(hash64(7, number)) % (100 * order.steps_per_epoch))
        found.append(1e3 * (time.process_time() - began))
    return found


def mixing(batch: int, shards: int, *, steps: int = 400) -> tuple[float, float]:
    """Distinct shards in a batch on average, at the defaults and of a full shuffle."""
    order = Order([PER_SHARD] * shards, seed=0, batch=batch)
    chosen = np.linspace(0, order.steps_per_epoch - 1, steps).astype(int)
    ours = np.mean([len(set(order.batch_ids(step)[1] // PER_SHARD)) for step in chosen.tolist()])
    line = np.random.default_rng(0).permutation(shards * PER_SHARD)[: steps * batch].reshape(steps, batch)
    return float(ours), float(np.mean([len(set(ids // PER_SHARD)) for ids in line]))


def correlations(reshuffle: str, *, samples: int = 20_000, epochs: int = 11) -> list[float]:
    """Rank correlation of the places of the samples in an epoch and in the next."""
    order = Order(
        [20] * (samples // 20), seed=0, batch=48, reshuffle="lane" if reshuffle == "lane" else "global"
    )
    places = np.full((epochs, samples), np.nan)
    for epoch in range(epochs):
        first = epoch * order.steps_per_epoch
        for k in range(order.steps_per_epoch):
            places[epoch, order.batch_ids(first + k)[1]] = k
    found = []
    for pair in pairwise(places):
        one, other = np.stack(pair)[:, ~np.isnan(pair).any(0)]
        found.append(float(np.corrcoef(one, other)[0, 1]))
    return found


def memory_per_sample(samples: int) -> float:
    """Bytes of the order after a walk over some windows, a sample of the set; its index comes on top."""
    tracemalloc.start()
    order = Order(np.full(samples // PER_SHARD, PER_SHARD), seed=0, batch=48)
    for step in range(0, 2 * order.steps_per_epoch, max(1, order.steps_per_epoch // 20)):
        order.batch_ids(step)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size / samples


def first_batches(folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds from building a loader to its first batch: at step 0, and after 99% of the epoch; in turn."""
    steps = build_loader(folder, batch=16, size=256, workers=2).steps_per_epoch
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(2 * (rounds + 1)):
        late = number % 2
        began = time.perf_counter()
        batches = iter(
            build_loader(folder, batch=16, size=256, workers=2, start_step=late * int(0.99 * steps))
        )
        next(batches)
        took = time.perf_counter() - began
        del batches
        if number >= 2:
            found[late].append(took)
    return found


def measuring_share(folder: Path, *, samples: int = 20_000) -> tuple[float, float]:
    """Microseconds of what is noted of a sample, and milliseconds of reading and decoding it."""
    meter = Board(0).meter(0)
    began = time.perf_counter()
    for number in range(samples):
        meter.begin(number)
        first = time.perf_counter_ns()
        second = time.perf_counter_ns()
        meter.done(number, second - first, time.perf_counter_ns() - second, hit=True)
    noted = (time.perf_counter() - began) / samples
    loader = build_loader(folder, batch=16, size=256, workers=0, gray=None, stop_step=40)
    list(loader)
    stats = loader.stats
    return 1e6 * noted, 1e3 * (stats.read_s + stats.decode_s) / stats.samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--data", default="unnamed", help="what DIR is, for the report")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--note", default="", help="what else to know about this run")
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    args = parser.parse_args()
    before = load()
    rows = []

    def row(what: str, value: str, target: str, met: bool) -> None:
        rows.append([what, value, target, "met" if met else "MISSED"])

    for samples, most in ((10**7, 50), (10**8, 250)):
        times = seek_ms(samples)
        row(
            f"seek, {samples:.0e} samples, CPU ms (n = {SEEKS})",
            spread(times, 1),
            f"{most}",
            max(times) <= most,
        )
    first, late = first_batches(args.folder, args.rounds)
    ratio = statistics.median(late) / statistics.median(first)
    row(f"first batch at step 0, s (n = {args.rounds})", spread(first, 3), "", True)
    row(
        f"at 99% of the epoch, s (n = {args.rounds})",
        f"{spread(late, 3)}: {ratio:.2f} x",
        "1.2 x",
        ratio <= 1.2,
    )
    for batch, shards in ((16, 400), (48, 400), (64, 100), (256, 1000)):
        ours, full = mixing(batch, shards)
        what = f"distinct shards in a batch of {batch}, {shards} shards"
        row(what, f"{ours:.2f} of {full:.2f}: {ours / full:.1%}", "95%", ours >= 0.95 * full)
    for reshuffle in ("global", "lane"):
        found = correlations(reshuffle)
        mean = statistics.mean(found)
        what = f"rank correlation of epochs, reshuffle={reshuffle} (n = {len(found)}), mean {mean:+.4f}"
        row(what, spread(found, 4), "0.02", abs(mean) <= 0.02)
    more = memory_per_sample(10**6)
    total = INDEX_DTYPE.itemsize + more
    row(
        "bytes per sample, 1e6 samples", f"{INDEX_DTYPE.itemsize} index + {more:.1f} order", "60", total <= 60
    )
    noted_us, work_ms = measuring_share(args.folder)
    share = noted_us / 1e3 / work_ms
    what = "noting what a sample costs, beside reading and decoding it"
    row(what, f"{noted_us:.2f} us of {work_ms:.2f} ms: {share:.2%}", "1%", share <= 0.01)
    command = shlex.join(["python", "benchmarks/order.py", "DIR", "--rounds", str(args.rounds)])
    note = f" {args.note}" if args.note else ""
    text = (
        f"# Order, start and measuring\n\nMachine: {machine()}. "
        f"Load average {before} before, {load()} after.{note}\n"
        f"Data: {args.data}.\nCommand: `{command}`; median (min-max).\n\n"
        f"{markdown(['what', 'measured', 'target', ''], [[*r[:3], r[3] if r[2] else ''] for r in rows])}"
    )
    write_report(args.out, text)


if __name__ == "__main__":
    main()
