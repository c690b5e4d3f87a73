"""Sharding side by side: streamgan, the idiom, mosaicml-streaming, litdata and cp, interleaved in one run.

    python benchmarks/shard.py PHOTOS --data "what PHOTOS is" --out benchmarks/results/shard.md

PHOTOS is a folder of parquet in the Hub's schema. Each round runs every arm once, in a new process, on the
photos repeated with other bytes (the idiom, which is slow, on the photos once) and on a handful of rows,
whose cost (worker processes that start) is taken off. CPU is user + sys of the process and its children.
"""

import argparse
import importlib.metadata
import json
import shlex
import shutil
import statistics
import sys
from pathlib import Path

from common import (
    STREAMGAN,
    Cost,
    Pair,
    in_turn,
    load,
    machine,
    markdown,
    measure,
    read_pairs,
    scratch,
    spread,
    tree_bytes,
    varied,
    write_parquet,
    write_report,
)
from shard_arms import ARMS

OURS, TWO, SLOW = (
    "streamgan shard, 1 worker",
    "streamgan shard, 2 workers",
    "datasets + webdataset.ShardWriter",
)
FILES, GROUP, FEW = 8, 100, 16
FAT_ROWS, FAT_BYTES, FAT_PAGES = 2000, 600_000, (1024, 16)
PEERS = ("datasets", "webdataset", "mosaicml-streaming", "litdata")
Net = dict[str, list[dict[str, float]]]


def run_arm(name: str, source: Path, folder: Path) -> dict[str, float]:
    """Seconds of one run; its output is measured and removed."""
    out, report = folder / "out", folder / "report.json"
    measure(
        [
            sys.executable,
            str(Path(__file__).with_name("shard_arms.py")),
            name,
            *map(str, (source, out, report)),
        ]
    )
    cost = {**json.loads(report.read_text()), "bytes": tree_bytes(out)}
    for path in (out, folder / "out.cache"):
        shutil.rmtree(path, ignore_errors=True)
    return cost


def rounds(sources: dict[str, Path], few: Path, folder: Path, count: int) -> Net:
    """For each arm its cost a round, less that of a handful of rows in the same round."""
    net: Net = {name: [] for name in sources}
    for number in range(count):
        for name in in_turn(sources, number):
            start, whole = run_arm(name, few, folder), run_arm(name, sources[name], folder)
            cost = {key: whole[key] - start[key] for key in ("cpu_s", "wall_s")}
            net[name].append(
                {**cost, "bytes": whole["bytes"], "start_s": start["cpu_s"] + start["imports_cpu_s"]}
            )
            print(f"round {number + 1}/{count}: {name}: {cost['cpu_s']:.2f} s CPU", file=sys.stderr)
    return net


def fat_groups(pairs: list[Pair], folder: Path, *, page_rows: int) -> tuple[Cost, int]:
    """Cost with 2 workers of two files of one row group each, 2,000 rows of 600 KB, and the bytes read."""
    source = folder / "fat"
    mean_gray = sum(len(gray) for _, gray in pairs) // len(pairs)
    for file in range(2):
        rows = varied(pairs, FAT_ROWS, first=file * FAT_ROWS, size=FAT_BYTES - mean_gray)
        write_parquet(source / f"train-{file}.parquet", rows, group=FAT_ROWS, page_rows=page_rows)
    command = [*STREAMGAN, "shard", str(source), "--out", str(folder / "out"), "--workers", "2"]
    cost = measure(command, watch_memory=True)
    size = tree_bytes(source)
    for path in (source, folder / "out"):
        shutil.rmtree(path)
    return cost, size


def table(net: Net, num_rows: dict[str, int], sizes: dict[str, int]) -> str:
    rows = []
    for name, costs in net.items():
        per_row = [cost["cpu_s"] / num_rows[name] * 1e3 for cost in costs]
        ours = [cost["cpu_s"] / num_rows[OURS] * 1e3 for cost in net[OURS]]
        rows.append(
            [
                name,
                spread(per_row, 3),
                spread([mine / its for its, mine in zip(ours, per_row, strict=True)]),
                spread([sizes[name] / 1e6 / cost["wall_s"] for cost in costs], 0),
                f"{statistics.median(cost['start_s'] for cost in costs):.1f}",
                f"{costs[0]['bytes'] / sizes[name]:.3f}",
            ]
        )
    head = ["", "CPU ms per pair", "CPU, ours = 1", "MB/s by the clock", "start-up CPU s", "bytes out / in"]
    return markdown(head, rows)


def targets(net: Net, num_rows: dict[str, int], fat: dict[int, tuple[Cost, int]]) -> str:
    """Each target of the design with what was measured."""
    ours = statistics.median(cost["cpu_s"] / num_rows[OURS] for cost in net[OURS])
    rows = []
    for name, wanted in ((SLOW, 10.0), ("mosaicml MDSWriter", 1.5), ("litdata optimize", 1.5)):
        ratio = statistics.median(cost["cpu_s"] / num_rows[name] for cost in net[name]) / ours
        rows.append(
            [
                f"{wanted:g} x the CPU throughput of {name}",
                f"{ratio:.2f} x",
                "met" if ratio >= wanted else "MISSED",
            ]
        )
    speedups = [one["wall_s"] / two["wall_s"] for one, two in zip(net[OURS], net[TWO], strict=True)]
    met = statistics.median(speedups) >= 1.6
    rows.append(
        ["2 workers 1.6 x 1 worker, by the clock", f"{spread(speedups)} x", "met" if met else "MISSED"]
    )
    for page_rows, (cost, _) in fat.items():
        worst = max(cost.peak_rss.values())
        what = f"1 GB of peak RSS a process, row groups of {FAT_ROWS} rows of {FAT_BYTES // 1000} KB, "
        what += f"pages of {page_rows} rows"
        rows.append([what, f"{worst / 1e6:.0f} MB", "met" if worst <= 1e9 else "MISSED"])
    return markdown(["target", "measured", ""], rows)


def fat_line(page_rows: int, cost: Cost, size: int) -> str:
    speed = f"{size / 1e6 / cost.wall_s:.0f} MB/s by the clock, {size / 1e6 / cost.cpu_s:.0f} MB a CPU second"
    each = ", ".join(f"{peak / 1e6:.0f}" for peak in sorted(cost.peak_rss.values(), reverse=True))
    return (
        f"- pages of {page_rows} rows, {size / 1e9:.1f} GB, 2 workers: {speed}; peak RSS by process {each} MB"
    )


REPORT = """# Sharding, side by side

Machine: {machine}. Load average {before} before, {after} after.{note}
Data: {data}; x {repeat} with other bytes = {pairs} pairs, {mb} MB, in {files} files with row groups
of {group} (the idiom: once, {once_mb} MB). Versions: {versions}.
Command: `{command}`. n = {rounds} rounds, every arm once a round, in turn; median (min-max).

{table}

CPU is user + sys of all processes, without imports and the start of workers (measured on {few} rows in the
same round; "start-up" is that with the imports). streamgan also reads every header, splits by the CRC-32
of the image, writes the CRC-32 of every member and the sha256 of every shard, and flushes to the disk;
MDSWriter and litdata get undecoded bytes and write no checksum unless the line says so.

{targets}

Fat row groups (pyarrow puts 1024 rows in a page unless told otherwise):

{fat}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", default="unnamed photos", help="what the photos are, for the report")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=8, help="times the photos, with other bytes")
    parser.add_argument("--scratch", type=Path, help="where the data goes for the time being")
    parser.add_argument("--note", default="", help="what else to know about this run")
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    options = parser.parse_args()
    pairs = read_pairs(options.photos)
    before = load()
    with scratch(options.scratch) as folder:
        count = len(pairs) * options.repeat
        for file in range(FILES):
            part = varied(pairs, count // FILES, first=file * (count // FILES))
            write_parquet(folder / "large" / f"train-{file}.parquet", part, group=GROUP)
        write_parquet(folder / "once" / "train-0.parquet", varied(pairs, len(pairs)), group=GROUP)
        write_parquet(folder / "few" / "train-0.parquet", varied(pairs, FEW), group=GROUP)
        sources = {name: folder / ("once" if name == SLOW else "large") for name in ARMS}
        num_rows = {name: (len(pairs) if name == SLOW else count // FILES * FILES) - FEW for name in ARMS}
        sizes = {name: tree_bytes(source) for name, source in sources.items()}
        net = rounds(sources, folder / "few", folder, options.rounds)
        shutil.rmtree(folder / "large")
        fat = {page_rows: fat_groups(pairs, folder, page_rows=page_rows) for page_rows in FAT_PAGES}
    arguments = ["PHOTOS", "--rounds", str(options.rounds), "--repeat", str(options.repeat)]
    write_report(
        options.out,
        REPORT.format(
            machine=machine(),
            before=before,
            after=load(),
            note=options.note and f" {options.note}",
            data=options.data,
            repeat=options.repeat,
            pairs=num_rows[OURS] + FEW,
            mb=round(sizes[OURS] / 1e6),
            once_mb=round(sizes[SLOW] / 1e6),
            files=FILES,
            group=GROUP,
            few=FEW,
            versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in PEERS),
            command=shlex.join(["python", "benchmarks/shard.py", *arguments]),
            rounds=options.rounds,
            table=table(net, num_rows, sizes),
            targets=targets(net, num_rows, fat),
            fat="\n".join(fat_line(page_rows, *result) for page_rows, result in fat.items()),
        ),
    )


if __name__ == "__main__":
    main()
