"""A long read of shards at an address with random faults: is every batch that of a clean, local read?

    python benchmarks/soak_load.py PHOTOS --minutes 30 --out benchmarks/results/soak_load.md

Processes read batches at a steady pace through one node cache that has space for the working set of one of
them and a shard, and write down a sha256 over the ids and pixels of each. About once per minute something
breaks: the server is busy, breaks off, stalls or flips a byte; a loader process or a whole process is killed
and started anew with another number of workers; a cached shard is damaged or deleted. In the end the lists
are compared with local reads that nothing disturbed. `--s3` puts the set into an S3 server (moto) behind the
server that breaks. What the process that lives longest holds in memory, descriptors and threads is told.
"""

import argparse
import hashlib
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from common import load, machine, markdown, read_pairs, scratch, varied, write_parquet, write_report
from soak_server import Faulty, bucket

from streamgan.data.loader import build_loader
from streamgan.sharding.run import ShardOptions, shard

SETTINGS: dict[str, Any] = {"batch": 12, "size": 64, "lanes": 6, "window": 2, "gray": None}
LOOK_S = 30.0  # between two looks at what a process holds
NETWORK = ("busy", "reset", "short", "flip", "stall")
FAULTS = (*NETWORK, "worker killed", "process killed", "shard damaged", "shard deleted")


def digest(batch: Any) -> str:
    found = hashlib.sha256(batch.ids_B.numpy().tobytes())
    found.update(batch.color_B3HW.permute(0, 2, 3, 1).numpy().tobytes())
    return found.hexdigest()


def child(
    address: str, cache: str, cache_gb: str, log: str, seed: str, workers: str, pause: str, steps: str
) -> None:
    """Read from where the log ends; one line per batch."""
    lines = Path(log).read_text().splitlines(keepends=True) if Path(log).exists() else []
    done = [line for line in lines if line.endswith("\n")]
    Path(log).write_text("".join(done))  # a half-written line does not count
    options: dict[str, Any] = {
        "workers": int(workers),
        "start_step": len(done),
        "stop_step": int(steps) or None,
        "seed": int(seed),
    }
    with open(log, "a", buffering=1) as out:
        for batch in build_loader(address, cache=cache, cache_gb=float(cache_gb), **SETTINGS, **options):
            out.write(digest(batch) + "\n")
            time.sleep(float(pause))


class Reader:
    """A process that reads, and what it has held over time."""

    def __init__(self, arguments: list[str], log: Path, seed: int):
        self.arguments, self.log, self.seed = arguments, log, seed
        self.expected = self.done = False
        self.longest: list[
            tuple[float, int, int, int]
        ] = []  # minutes, bytes of its own, descriptors, threads

    def start(self, workers: int, pause_s: float, steps: int) -> None:
        more = [str(self.log), self.seed, workers, pause_s, steps]
        command = [sys.executable, __file__, "--child", *self.arguments, *map(str, more)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.expected, self.began, self.seen = False, time.monotonic(), []

    def look(self) -> None:
        """Note what the process holds, once it has settled."""
        minutes = (time.monotonic() - self.began) / 60
        if minutes < 1:
            return
        with suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            held = process.memory_full_info().uss, process.num_fds(), process.num_threads()
            self.seen.append((minutes, *held))
            self.longest = max(self.longest, self.seen, key=lambda seen: seen[-1][0] if seen else 0.0)


class Soak:
    """The server, the reading processes, and what is done to them, for `steps` batches or `minutes`."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        *,
        pause_s: float,
        every_s: float,
        steps: int = 0,
        minutes: float = math.inf,
        processes: int = 1,
        port: int = 0,
    ):
        self.server, self.steps, self.minutes, self.pause_s = Faulty(root, port), steps, minutes, pause_s
        self.every_s, self.draw, self.cache = every_s, random.Random(0), folder / "cache"
        self.faults: Counter[str] = Counter()
        self.failures: list[str] = []
        address = f"http://127.0.0.1:{self.server.server_port}"
        if port:
            os.environ["AWS_ENDPOINT_URL"], address = address, "s3://soak/set"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        probe = build_loader(address, cache=self.cache, cache_gb=1000, workers=0, **SETTINGS)
        assert probe._supply is not None
        largest = max(path.stat().st_size for path in root.glob("*.tar"))
        cap = probe._supply.need_bytes + largest * (processes > 1)
        arguments = [address, str(self.cache), str(cap / 1e9)]
        self.readers = [Reader(arguments, folder / f"{n}.log", seed=n) for n in range(processes)]

    def start(self, reader: Reader) -> None:
        reader.start(self.draw.randrange(3), self.pause_s, self.steps)

    def run(self) -> None:
        for reader in self.readers:
            self.start(reader)
        next_fault = next_look = time.monotonic() + self.every_s
        end = time.monotonic() + 60 * self.minutes
        while not all(reader.done for reader in self.readers):
            time.sleep(0.2)
            alive = [reader for reader in self.readers if not reader.done]
            if time.monotonic() > next_look:
                next_look = time.monotonic() + LOOK_S
                for reader in alive:
                    reader.look()
            if time.monotonic() > next_fault:
                next_fault = time.monotonic() + self.every_s * self.draw.uniform(0.5, 1.5)
                self.disturb(self.draw.choice(alive))
            for reader in alive:
                if reader.process.poll() is not None:
                    self.ended(reader)
                elif time.monotonic() > end:
                    reader.process.kill()
                    reader.process.wait()
                    reader.done = True
        self.server.shutdown()

    def ended(self, reader: Reader) -> None:
        """A process that has read all is done; any other is followed by one that goes on."""
        assert reader.process.stderr
        words = reader.process.stderr.read().strip().splitlines()[-1:]
        reader.done = reader.process.returncode == 0
        if not reader.done and not reader.expected:
            self.failures.append(f"ended with {reader.process.returncode}: {words}")
        if not reader.done:
            self.start(reader)

    def disturb(self, reader: Reader) -> None:
        fault = self.draw.choice(FAULTS)
        blobs = sorted(path for path in (self.cache / "blobs").glob("*") if "." not in path.name)
        workers: list[psutil.Process] = []
        with suppress(psutil.Error):
            servers = psutil.Process(reader.process.pid).children()
            workers = [one for server in servers for one in server.children()]
        if fault == "worker killed" and not workers:
            fault = "process killed"
        self.faults[fault] += 1
        reader.expected = reader.expected or fault in ("worker killed", "process killed")
        if fault in NETWORK:
            self.server.fault = fault
        elif fault == "worker killed":
            self.draw.choice(workers).send_signal(signal.SIGKILL)
        elif fault == "process killed":
            reader.process.kill()
        elif blobs and fault == "shard damaged":
            path = self.draw.choice(blobs)
            with suppress(FileNotFoundError), open(path, "r+b") as file:
                file.seek(path.stat().st_size // 2)
                file.write(b"damage")
        elif blobs:
            self.draw.choice(blobs).unlink(missing_ok=True)


def batches(reader: Reader) -> list[str]:
    """The batches that it has written down; a last line without an end was cut by a kill."""
    return [line.rstrip() for line in reader.log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def wrong_batches(reader: Reader, root: Path, steps: int) -> int:
    """How many lines differ from a local read, missing and surplus ones included."""
    found = batches(reader)
    clean = build_loader(root, workers=1, stop_step=steps, seed=reader.seed, **SETTINGS)
    wanted = [digest(batch) for batch in clean]
    return sum(a != b for a, b in zip(found, wanted, strict=False)) + abs(len(found) - len(wanted))


def held(readers: list[Reader]) -> list[list[str]]:
    """Rows about the process that has lived longest: what it held first and last."""
    seen = max((reader.longest for reader in readers), key=lambda seen: seen[-1][0] if seen else 0.0)
    if not seen:
        return []
    (first, *then), (last, *now) = seen[0], seen[-1]
    names = ["memory of its own, MB", "descriptors", "threads"]
    scale = [1e6, 1, 1]
    most = [max(one[column] for one in seen) for column in (1, 2, 3)]
    return [[f"longest life, minutes {first:.0f} to {last:.0f}", "first, most, last"]] + [
        [name, ", ".join(f"{value / by:.0f}" for value in values)]
        for name, by, *values in zip(names, scale, then, most, now, strict=True)
    ]


def make_set(folder: Path, photos: Path, samples: int) -> Path:
    """Shards of 20 varied photos."""
    write_parquet(folder / "in.parquet", varied(read_pairs(photos), samples), group=20)
    options = ShardOptions(samples_per_shard=20, splits="train=1", gray="derive")
    shard([str(folder / "in.parquet")], folder / "set", options=options, num_workers=1)
    return folder / "set"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of parquet files")
    parser.add_argument("--data", default="", help="what PHOTOS is, in words")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between two faults, on average")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two batches")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--scratch", type=Path, help="folder for temporary files")
    parser.add_argument("--out", type=Path, help="keep the report in this file")
    parser.add_argument("--processes", type=int, default=1, help="that read, each in an order of its own")
    parser.add_argument("--s3", action="store_true", help="the set lies in a bucket, else at a website")
    args = parser.parse_args()
    with scratch(args.scratch) as folder:
        root = make_set(folder, args.photos, args.samples)
        with bucket(root) if args.s3 else nullcontext(0) as port:
            soak = Soak(
                root,
                folder,
                minutes=args.minutes,
                pause_s=args.pause,
                every_s=args.every,
                processes=args.processes,
                port=port,
            )
            began = time.monotonic()
            soak.run()
            minutes = (time.monotonic() - began) / 60
        read = [len(batches(reader)) for reader in soak.readers]
        wrong = sum(wrong_batches(*one) for one in zip(soak.readers, [root] * len(read), read, strict=True))
    rows = [["batches, of them wrong", f"{sum(read)}, {wrong}"], ["minutes", f"{minutes:.1f}"]]
    rows += [["fewest and most batches of a process", f"{min(read)}, {max(read)}"]]
    rows += [[f"fault: {name}", str(soak.faults[name])] for name in FAULTS]
    rows += [["ends that were not asked for", "; ".join(soak.failures) or "none"], *held(soak.readers)]
    command = f"python benchmarks/soak_load.py {shlex.join(['PHOTOS', *sys.argv[2:]])}"
    text = (
        f"# {minutes:.0f} minutes of reading with faults\n\nMachine: {machine()}. Load average {load()}.\n"
        f"Data: {args.data}; {args.samples} samples, 20 a shard; {args.processes} processes on one cache.\n"
        f"Command: `{command}`.\n\n{markdown(['what', 'seen'], rows)}"
    )
    write_report(args.out, text)
    if wrong or soak.failures:
        raise SystemExit("batches are not what they should be")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
