"""A long read of shards at an address with random faults: is every batch that of a clean, local read?

    python benchmarks/soak_load.py PHOTOS --minutes 30 --out benchmarks/results/soak_load.md

A process reads batches at a steady pace through a node cache that has space for its working set alone, and
writes down a sha256 over the ids and pixels of each. About once per minute something breaks: the server is
busy, breaks off, stalls or flips a byte; a loader process or the whole process is killed and started anew
with another number of workers; a cached shard is damaged or deleted. In the end the list is compared with a
local read that nothing disturbed.
"""

import argparse
import hashlib
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from cache_stress import Served, _Handler
from common import load, machine, markdown, read_pairs, scratch, varied, write_parquet, write_report

from streamgan.data.loader import build_loader
from streamgan.sharding.run import ShardOptions, shard

SETTINGS: dict[str, Any] = {"batch": 12, "size": 64, "lanes": 6, "window": 2, "gray": None, "seed": 5}
NETWORK = ("busy", "reset", "short", "flip", "stall")
FAULTS = (*NETWORK, "worker killed", "process killed", "shard damaged", "shard deleted")


class Faulty(Served):
    """Serves a folder; the next range of a tar goes wrong in the way that `fault` says, once."""

    fault: str | None = None

    def __init__(self, root: Path):
        super().__init__(root)
        self.RequestHandlerClass = _FaultyHandler


class _FaultyHandler(_Handler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Faulty)
        fault = server.fault
        if fault is None or "Range" not in self.headers or not self.path.endswith(".tar"):
            return super().do_GET()
        server.fault = None
        if fault == "busy":
            self.send_response(503)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        begin, end = (int(one) for one in self.headers["Range"].removeprefix("bytes=").split("-"))
        data = bytearray((server.root / self.path.lstrip("/")).read_bytes())
        size, body = len(data), data[begin : end + 1]
        if fault == "flip":
            body[len(body) // 2] ^= 4
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        self.send_header("Content-Length", str(len(body) // 2 if fault == "short" else len(body)))
        self.end_headers()
        self.wfile.write(body if fault == "flip" else body[: len(body) // 2])
        if fault == "stall":
            time.sleep(40)  # longer than anybody waits for a byte
        if fault in ("stall", "reset"):
            self.close_connection = True
        return None


def digest(batch: Any) -> str:
    found = hashlib.sha256(batch.ids_B.numpy().tobytes())
    found.update(batch.color_B3HW.permute(0, 2, 3, 1).numpy().tobytes())
    return found.hexdigest()


def child(address: str, cache: str, cache_gb: str, log: str, workers: str, pause: str, steps: str) -> None:
    """Read from where the log ends; one line per batch."""
    lines = Path(log).read_text().splitlines(keepends=True) if Path(log).exists() else []
    done = [line for line in lines if line.endswith("\n")]
    Path(log).write_text("".join(done))  # a half-written line does not count
    options = {**SETTINGS, "workers": int(workers), "start_step": len(done), "stop_step": int(steps)}
    with open(log, "a", buffering=1) as out:
        for batch in build_loader(address, cache=cache, cache_gb=float(cache_gb), **options):
            out.write(digest(batch) + "\n")
            time.sleep(float(pause))


class Soak:
    """The server, the reading process, and what is done to them."""

    def __init__(self, root: Path, folder: Path, *, steps: int, pause_s: float, every_s: float):
        self.server, self.folder, self.steps, self.pause_s = Faulty(root), folder, steps, pause_s
        self.every_s, self.draw = every_s, random.Random(0)
        self.log, self.cache = folder / "batches.log", folder / "cache"
        self.faults: Counter[str] = Counter()
        self.failures: list[str] = []
        address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        probe = build_loader(address, cache=self.cache, cache_gb=1000, workers=0, **SETTINGS)
        assert probe._supply is not None
        self.arguments = [address, str(self.cache), str(probe._supply.need_bytes / 1e9), str(self.log)]

    def start(self) -> "subprocess.Popen[str]":
        more = [self.draw.randrange(3), self.pause_s, self.steps]
        command = [sys.executable, __file__, "--child", *self.arguments, *map(str, more)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def run(self) -> None:
        process, next_fault, expected = self.start(), time.monotonic() + self.every_s, False
        while True:
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                if time.monotonic() > next_fault:
                    next_fault = time.monotonic() + self.every_s * self.draw.uniform(0.5, 1.5)
                    expected = self.disturb(process) or expected
                continue
            assert process.stderr
            words = process.stderr.read().strip().splitlines()[-1:]
            if process.returncode == 0:
                break
            if not expected:
                self.failures.append(f"ended with {process.returncode}: {words}")
            process, expected = self.start(), False
        self.server.shutdown()

    def disturb(self, process: "subprocess.Popen[str]") -> bool:
        """Do something; whether the process may end of it."""
        fault = self.draw.choice(FAULTS)
        blobs = sorted(path for path in (self.cache / "blobs").glob("*") if "." not in path.name)
        workers = [one for server in psutil.Process(process.pid).children() for one in server.children()]
        if fault == "worker killed" and not workers:
            fault = "process killed"
        self.faults[fault] += 1
        if fault in NETWORK:
            self.server.fault = fault
        elif fault == "worker killed":
            self.draw.choice(workers).send_signal(signal.SIGKILL)
        elif fault == "process killed":
            process.kill()
        elif blobs and fault == "shard damaged":
            path = self.draw.choice(blobs)
            with open(path, "r+b") as file:
                file.seek(path.stat().st_size // 2)
                file.write(b"damage")
        elif blobs:
            self.draw.choice(blobs).unlink(missing_ok=True)
        return fault in ("worker killed", "process killed")


def wrong_batches(log: Path, root: Path, steps: int) -> int:
    """How many lines differ from a local read, missing and surplus ones included."""
    found = log.read_text().splitlines()
    clean = build_loader(root, workers=1, stop_step=steps, **SETTINGS)
    wanted = [digest(batch) for batch in clean]
    return sum(a != b for a, b in zip(found, wanted, strict=False)) + abs(len(found) - len(wanted))


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
    args = parser.parse_args()
    steps = round(args.minutes * 60 / args.pause * 0.9)  # a batch takes a little longer than the pause
    with scratch(args.scratch) as folder:
        root = make_set(folder, args.photos, args.samples)
        soak = Soak(root, folder, steps=steps, pause_s=args.pause, every_s=args.every)
        began = time.monotonic()
        soak.run()
        minutes = (time.monotonic() - began) / 60
        wrong = wrong_batches(soak.log, root, steps)
    rows = [["batches, of them wrong", f"{steps}, {wrong}"], ["minutes", f"{minutes:.1f}"]]
    rows += [[f"fault: {name}", str(soak.faults[name])] for name in FAULTS]
    rows += [["ends that were not asked for", "; ".join(soak.failures) or "none"]]
    command = f"python benchmarks/soak_load.py {shlex.join(['PHOTOS', *sys.argv[2:]])}"
    text = (
        f"# {minutes:.0f} minutes of reading with faults\n\nMachine: {machine()}. Load average {load()}.\n"
        f"Data: {args.data}; {args.samples} samples, 20 a shard; the cache holds the working set alone.\n"
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
