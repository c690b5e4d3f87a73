"""Reading over the network side by side: streamgan, mosaicml-streaming, litdata and webdataset, interleaved.

    python benchmarks/remote.py PHOTOS --data "what PHOTOS is" --out benchmarks/results/remote.md
    python benchmarks/remote.py PHOTOS --peers SITE --baseline CHECKOUT --baseline-name "streamgan at COMMIT"
    python benchmarks/remote.py PHOTOS --quick      # one round of fewer photos at 20 ms: a minute

PHOTOS is a folder of parquet in the Hub's schema. Its photos and their gray twins are written in every
library's format, in shards of the same size, and served by nginx as a website and as S3, or by moto, with a
process in front that lets each request wait and counts (`remote_server.py`). Every round runs every arm once
for each server and latency, in a new process with an empty cache: one epoch of 256 x 256 crops, two loader
processes, batches of 32, our decoder for all. An arm whose package is missing says so in its table. SITE is a
folder with packages that this environment lacks: pip install --target SITE --no-deps mosaicml-streaming ...
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import remote_server
from common import load, machine, read_pairs, scratch, varied, write_parquet, write_report
from load_arms import BATCH
from remote_arms import BUCKET, OF_SERVER, PEERS, RANGES
from remote_report import tables, targets
from shard_arms import litdata, mosaicml

from streamgan.core.storage.files import atomic_write
from streamgan.data.format import read_manifest
from streamgan.sharding.run import ShardOptions, shard

HERE = Path(__file__).parents[1]
FILES = 4
ARM_S = 300
PACKAGES = (*("mosaicml-streaming", "litdata", "webdataset", "obstore", "moto", "simplejpeg", "torch"),)


def prepare(photos: Path, folder: Path, *, num_images: int, samples_per_shard: int) -> dict[str, int]:
    """`num_images` photos with their twins, no two alike, in every format below `folder`; what that makes."""
    pairs = read_pairs(photos)
    count = num_images // FILES
    source, bucket = folder / "parquet", folder / "web" / BUCKET
    for file in range(FILES):
        part = varied(pairs, count, first=file * count)
        write_parquet(source / f"train-{file}.parquet", part, group=100)
    options = ShardOptions(splits="train=1", samples_per_shard=samples_per_shard)
    shard([str(source)], bucket / "streamgan", options=options, num_workers=1)
    train = read_manifest(bucket / "streamgan").splits["train"]
    chunk_bytes = train.bytes // len(train.shards)
    for write in (
        partial(mosaicml, hashes=(), chunk_bytes=chunk_bytes),
        partial(litdata, chunk_bytes=chunk_bytes),
    ):
        name = write.func.__name__
        with contextlib.suppress(ModuleNotFoundError):  # its arm says so
            for _ in write(source, bucket / name):
                pass
    return {"images": train.samples, "shards": len(train.shards), "bytes": train.bytes}


def run_arm(
    arm: str, server: str, port: int, *, tree: Path, made: dict[str, int], peers: Path | None
) -> dict[str, Any]:
    """What one epoch took, or what was missing for it."""
    with scratch(None) as empty, open(empty / "said", "w+") as said, open(empty / "errors", "w+") as errors:
        script = str(Path(__file__).with_name("remote_arms.py"))
        words = [arm, server, port, empty / "cache", made["shards"], made["images"], peers or ""]
        process = subprocess.Popen(
            [sys.executable, script, *map(str, words)],
            env={
                **os.environ,
                **remote_server.credentials(port),
                "PYTHONPATH": str(tree),
                "OMP_NUM_THREADS": "1",
            },
            process_group=0,
            stdout=said,
            stderr=errors,
        )
        try:
            code = process.wait(ARM_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a library leaves running
            process.wait()
        said.seek(0)
        errors.seek(0)
        if not code:
            return json.loads(said.read().splitlines()[-1])
        if arm in PEERS:
            return {"missing": f"failed, {errors.read().strip().splitlines()[-1]}"}
        raise SystemExit(f"{arm} ended with {code}:\n{errors.read()[-3000:]}")


@contextlib.contextmanager
def running(folder: Path, servers: Sequence[str]) -> Iterator[dict[str, int | str]]:
    """The port of each server, or why it is missing."""
    with contextlib.ExitStack() as stack:
        try:
            web: int | str = stack.enter_context(remote_server.nginx(folder / "web", folder / "nginx"))
        except FileNotFoundError as error:
            web = str(error)
        ports: dict[str, int | str] = dict.fromkeys(servers, web)
        if "moto" in ports:
            ports["moto"] = stack.enter_context(remote_server.moto(folder / "web"))
        yield ports


def one_round(
    number: int, ports: dict[str, int | str], made: dict[str, int], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The runs, one by one."""
    for latency in options.latency_ms:
        for server, port in ports.items():
            arms = [(arm, arm, HERE) for arm in OF_SERVER[server]]
            if options.baseline:
                arms.append(
                    (f"{options.baseline_name}, data.cache=none", RANGES, options.baseline.absolute())
                )
            first = number % len(arms)
            for name, arm, tree in arms[first:] + arms[:first]:
                run = {"server": server, "latency_ms": latency, "arm": name, "round": number}
                if isinstance(port, str):
                    yield {**run, "missing": port}
                    continue
                with remote_server.proxy(port, latency) as (before, passed):
                    run |= run_arm(arm, server, before, tree=tree, made=made, peers=options.peers)
                yield {**run, **passed}


REPORT = """# Reading over the network, side by side

Machine: {machine}. Load average {before} before, {after} after, with the processes of this measurement.{note}
Data: {data}; with other bytes in each, {images} photos and their gray twins, {mb:.0f} MB in {shards} shards.
Versions: {versions}.
Command: `{command}`.
n = {rounds} rounds, every arm once a round for each server and latency, in turn, each in a new process with
an empty cache; median (min-max).

One epoch of 256 x 256 uint8 RGB crops in batches of 32, shuffled, by two loader processes, every arm with the
same decoder. Clock and CPU begin when libraries are imported, before anything is fetched, so starting the
loader processes counts; CPU is user + sys of the reader and of all its children, curl and streamgan's fork
server included. That one starts once a program; "fork server ran before" is any later loader of a
program. Servers and readers share the cores of the machine. A process in front of the server holds back the
first byte of each request for the latency, passes on the rest as it comes, and counts requests and bytes of
answers; a new connection costs nothing more. Unless moto is named, S3 is nginx too, which answers GET and
HEAD with a folder for a bucket. MB twice: bytes of an object that had been sent to the same run before. All
but `data.cache=none` fetch whole shards, twins included; "cached" is `data.cache=FOLDER`.

{targets}

{tables}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", default="unnamed photos", help="what the photos are, for the report")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2304, help="photos in an epoch")
    parser.add_argument("--samples-per-shard", type=int, default=128)
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0, 20, 80])
    parser.add_argument("--servers", nargs="+", choices=list(OF_SERVER), default=["s3", "http"])
    parser.add_argument("--quick", action="store_true", help="one round of 512 photos at 20 ms")
    parser.add_argument("--peers", type=Path, metavar="SITE", help="packages that this environment lacks")
    parser.add_argument(
        "--baseline", type=Path, metavar="CHECKOUT", help="another streamgan, data.cache=none"
    )
    parser.add_argument("--baseline-name", default="other checkout", help="what CHECKOUT is")
    parser.add_argument("--scratch", type=Path, help="where the data goes for the time being")
    parser.add_argument("--note", default="", help="what else to know about this run")
    parser.add_argument("--out", type=Path, help="the report (Markdown); its runs lie beside it as .json")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.images, options.latency_ms = 1, 512, [20]
    options.images -= options.images % BATCH  # an epoch is all photos for everyone
    sys.path += [str(options.peers)] if options.peers else []
    before, runs = load(), []
    with scratch(options.scratch) as folder:
        made = prepare(
            options.photos, folder, num_images=options.images, samples_per_shard=options.samples_per_shard
        )
        with running(folder, options.servers) as ports:
            for number in range(options.rounds):
                for run in one_round(number, ports, made, options):
                    runs.append(run)
                    print(json.dumps(run), file=sys.stderr)
                write(runs, made, options, before)  # a long measurement may be cut off
    sys.stdout.flush()
    os._exit(0)  # what litdata leaves running


def write(runs: list[dict[str, Any]], made: dict[str, int], options: argparse.Namespace, before: str) -> None:
    baseline = f"{options.baseline_name}, data.cache=none" if options.baseline else None
    numbers = ["--rounds", str(options.rounds), "--images", str(options.images)]
    numbers += ["--samples-per-shard", str(options.samples_per_shard), "--latency-ms"]
    numbers += [*(f"{latency:g}" for latency in options.latency_ms), "--servers", *options.servers]
    if options.baseline:
        numbers += ["--baseline", "CHECKOUT", "--baseline-name", options.baseline_name]
    text = REPORT.format(
        machine=machine(),
        before=before,
        after=load(),
        note=f" {options.note}" if options.note else "",
        data=options.data,
        **{name: made[name] for name in ("images", "shards")},
        mb=made["bytes"] / 1e6,
        samples_per_shard=options.samples_per_shard,
        versions=", ".join(f"{name} {version}" for name, version in versions()),
        command=shlex.join(["python", "benchmarks/remote.py", "PHOTOS", *numbers]),
        rounds=1 + runs[-1]["round"],
        targets=targets(runs, baseline),
        tables=tables(runs),
    )
    write_report(options.out, text)
    if options.out:
        with atomic_write(options.out.with_suffix(".json")) as file:
            file.write((json.dumps({"made": made, "runs": runs}, indent=1) + "\n").encode())


def versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


if __name__ == "__main__":
    main()
