"""Loading side by side: streamgan beside the loaders that `load_arms.py` and `load_engines.py` have, in turn.

    python benchmarks/load.py PHOTOS --data "what PHOTOS is" --out benchmarks/results/load.md

PHOTOS is a folder of parquet in the Hub's schema. The same encoded photos are written in every library's
format; every round runs every arm once, in a new process, to 256 x 256 uint8 batches. CPU is user + sys of
the process and its workers after the first batches. What `load_engines.py` needs may be missing: the report
says so.
"""

import argparse
import importlib.metadata
import json
import os
import shlex
import statistics
import sys
from contextlib import suppress
from pathlib import Path

from common import (
    in_turn,
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
from load_arms import ARMS, OPTIONAL
from load_engines import BATCH
from shard_arms import litdata, mosaicml

from streamgan.sharding.run import ShardOptions, shard

BARE, CEILING, CEILING_GRAY, ALONE, GRAY, ONE, TWO = (
    "bare decode, bytes in memory",
    "decoder alone, bytes in memory",
    "the same and Pillow's gray",
    "streamgan, no workers",
    "streamgan, no workers, gray derived",
    "streamgan, 1 worker",
    "streamgan, 2 workers",
)
SLOW = ("webdataset", "mosaicml-streaming", "litdata", "datasets")  # with Pillow: fewer images
ENGINES = ("SPDL", "DALI, CPU", "FFCV, JPEG")
FILES = 4
PACKAGES = ("datasets", "webdataset", "mosaicml-streaming", "litdata", "simplejpeg", "pillow", "torch")
MORE_PACKAGES = ("torchvision", "spdl", "nvidia-dali-cuda120", "ffcv", "nvidia-nvimgcodec-cu12")


def prepare(photos: Path, folder: Path, repeat: int) -> int:
    """The photos, `repeat` times with other bytes, in every format below `folder`; their number."""
    pairs = read_pairs(photos)
    count = len(pairs) * repeat // FILES
    for file in range(FILES):
        part = varied(pairs, count, first=file * count)
        write_parquet(folder / "parquet" / f"train-{file}.parquet", part, group=100)
    options = ShardOptions(splits="train=1", samples_per_shard=100)
    shard([str(folder / "parquet")], folder / "streamgan", options=options, num_workers=1)
    for arm in (
        mosaicml(folder / "parquet", folder / "mosaicml", hashes=()),
        litdata(folder / "parquet", folder / "litdata"),
    ):
        next(arm)
        next(arm, None)
    return count * FILES


def run_arm(name: str, data: Path, images: int) -> dict[str, float]:
    report = data / "report.json"
    script = str(Path(__file__).with_name("load_arms.py"))
    measure([sys.executable, script, name, str(data), str(images), str(report)])
    return json.loads(report.read_text())


def table(costs: dict[str, list[dict[str, float]]]) -> str:
    ceiling = [cost["cpu_s"] / cost["images"] for cost in costs[CEILING]]
    ours = [cost["cpu_s"] / cost["images"] for cost in costs[ALONE]]
    rows = []
    for name, arm in costs.items():
        each = [cost["cpu_s"] / cost["images"] for cost in arm]
        rows.append(
            [
                name,
                spread([1e3 * value for value in each], 3),
                spread([value / best for value, best in zip(each, ceiling, strict=True)]),
                spread([value / our for value, our in zip(each, ours, strict=True)]),
                spread([cost["images"] / cost["wall_s"] for cost in arm], 0),
            ]
        )
    return markdown(
        ["", "CPU ms per image", "decoder alone = 1", "streamgan = 1", "images/s by the clock"], rows
    )


def targets(costs: dict[str, list[dict[str, float]]]) -> str:
    def ratio(over: str, under: str, key: str = "cpu_s") -> float:
        pairs = zip(costs[over], costs[under], strict=True)
        return statistics.median(a[key] / a["images"] / (b[key] / b["images"]) for a, b in pairs)

    rows = []
    for under, over, what in (
        (CEILING, ALONE, "the decoder alone"),
        (CEILING_GRAY, GRAY, "that and Pillow's gray, gray derived"),
        (BARE, ALONE, "a bare decode: no crop, no mirroring"),
        (BARE, GRAY, "a bare decode, gray derived"),
    ):
        overhead = ratio(over, under)
        rows.append([f"CPU per image at most 1.08 x {what}", f"{overhead:.2f} x", overhead <= 1.08])
    for name in SLOW:
        rows.append(
            [f"4 x better than {name} with Pillow", f"{ratio(name, ALONE):.2f} x", ratio(name, ALONE) >= 4]
        )
        same = ratio(f"{name}, our decoder", ALONE)
        rows.append([f"no worse than {name} with our decoder", f"{same:.2f} x", same >= 1])
    for name in (name for name in ENGINES if name in costs):
        rows.append([f"less CPU than {name}", f"{ratio(name, ALONE):.2f} x", ratio(name, ALONE) >= 1])
    speedup = ratio(ONE, TWO, "wall_s")
    rows.append(["2 workers 1.6 x the images/s of 1", f"{speedup:.2f} x", speedup >= 1.6])
    return markdown(["target", "measured", ""], [[*row[:2], "met" if row[2] else "MISSED"] for row in rows])


REPORT = """# Loading, side by side

Machine: {machine}. Load average {before} before, {after} after.{note}
Data: {data}; x {repeat} with other bytes = {count} photos, in the page cache. Versions: {versions}.
Command: `{command}`. n = {rounds} rounds, every arm once a round, in turn; median (min-max).

{table}

Every arm makes 256 x 256 uint8 batches of {batch}, shuffled, cropped and mirrored at random, in one process
unless workers are named. "Our decoder" is simplejpeg at the scale that is needed; without it Pillow decodes
in full, as the pages of these libraries do. streamgan also checks the CRC-32 of every image; the peers check
nothing. The bare decode neither reads nor crops nor mirrors; the decoder alone crops and mirrors. A training
run asks for no gray image, since the device derives it: "gray derived" is for other users of `build_loader`.
SPDL, DALI, FFCV and the other decoders decode all 512 x 512 pixels, and where they are alone keep them.

{missing}{targets}"""


def versions() -> str:
    found = []
    for name in (*PACKAGES, *MORE_PACKAGES):
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", default="unnamed photos", help="what the photos are, for the report")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=4, help="times the photos, with other bytes")
    parser.add_argument("--images", type=int, default=3000, help="images an arm reads; a quarter with Pillow")
    parser.add_argument("--scratch", type=Path, help="where the data goes for the time being")
    parser.add_argument("--note", default="", help="what else to know about this run")
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    options = parser.parse_args()
    before = load()
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    missing: dict[str, str] = {}
    with scratch(options.scratch) as folder:
        count = prepare(options.photos, folder, options.repeat)
        for number in range(options.rounds):
            for name in in_turn(ARMS, number):
                if name not in costs:
                    continue
                images = options.images // 4 if name in SLOW else options.images
                try:
                    costs[name].append(run_arm(name, folder, images))
                except SystemExit as error:
                    if name not in OPTIONAL or costs[name]:
                        raise
                    missing[name] = str(error).strip().splitlines()[-1][:200]
                    del costs[name]
                    continue
                per_image = 1e3 * costs[name][-1]["cpu_s"] / costs[name][-1]["images"]
                print(f"round {number + 1}/{options.rounds}: {name}: {per_image:.3f} ms", file=sys.stderr)
    arguments = ["PHOTOS", "--rounds", str(options.rounds), "--repeat", str(options.repeat)]
    write_report(
        options.out,
        REPORT.format(
            machine=machine(),
            before=before,
            after=load(),
            note=f" {options.note}" if options.note else "",
            data=options.data,
            repeat=options.repeat,
            count=count,
            versions=versions(),
            command=shlex.join(["python", "benchmarks/load.py", *arguments, "--images", str(options.images)]),
            rounds=options.rounds,
            table=table(costs),
            batch=BATCH,
            missing="".join(f"Not measured: {name} ({why}).\n\n" for name, why in missing.items()),
            targets=targets(costs),
        ),
    )
    sys.stdout.flush()
    os._exit(0)  # what litdata leaves running


if __name__ == "__main__":
    main()
