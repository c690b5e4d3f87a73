"""Several processes on one node cache that has space for their working set and one shard more.

    python benchmarks/cache_stress.py PHOTOS --seconds 60 --out benchmarks/results/cache_stress.md

Each process trains on nothing but reads batches of a set on a web server of this machine, two of them as the
ranks of a job, the others as jobs with seeds of their own: what they need together is several times the cap.
Every batch is compared with the local set. A thread adds up the folder all the time; SIGKILL hits a process
every few seconds, and another one takes its place.
"""

import argparse
import multiprocessing
import os
import random
import shlex
import signal
import sys
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from common import load, machine, markdown, read_pairs, scratch, varied, write_parquet, write_report

from streamgan.data.loader import Loader, build_loader
from streamgan.sharding.run import ShardOptions, shard

ROLES = [(0, 0, 2), (0, 1, 2), (1, 0, 1), (2, 0, 1)]  # seed, rank, world
SETTINGS: dict[str, Any] = {"batch": 4, "size": 16, "lanes": 2, "window": 2, "workers": 0, "gray": None}


@dataclass
class Outcome:
    """What `stress` saw."""

    cap_bytes: int
    most_bytes: int = 0
    looks: int = 0
    batches: int = 0
    wrong: int = 0
    kills: int = 0
    longest_wait_s: float = 0.0
    served_bytes: int = 0
    failures: list[str] = field(default_factory=list)


class Served(ThreadingHTTPServer):
    """The files of a folder, by range, counted."""

    def __init__(self, root: Path):
        self.root, self.served = root, 0
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Served)
        data = (server.root / self.path.lstrip("/")).read_bytes()
        limits = self.headers.get("Range", "")
        if limits:
            begin, end = (int(one) for one in limits.removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
            data = data[begin : end + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        server.served += len(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def make_set(parent: Path, photos: Path | None, *, samples: int) -> Path:
    """A set of two samples per shard."""
    if photos is None:
        raise SystemExit("name a folder of parquet")
    write_parquet(parent / "in.parquet", varied(read_pairs(photos), samples), group=2)
    options = ShardOptions(samples_per_shard=2, splits="train=1", gray="derive")
    shard([str(parent / "in.parquet")], parent / "set", options=options, num_workers=1)
    return parent / "set"


def working_set(root: str, cache: Path) -> int:
    """Bytes that the largest of the jobs needs."""
    loader = build_loader(root, cache=cache, cache_gb=1000, **SETTINGS)
    assert loader._supply is not None
    return loader._supply.need_bytes


def checksum(batch: Any) -> int:
    return zlib.crc32(batch.ids_B.numpy().tobytes(), zlib.crc32(batch.color_B3HW.numpy().tobytes()))


def read(
    root: str,
    local: str,
    cache: Path,
    cap_bytes: int,
    role: tuple[int, int, int],
    counts: "list[Synchronized[Any]]",
) -> None:
    """One process: batches until it is killed."""
    seed, rank, world = role
    options = {**SETTINGS, "seed": seed, "rank": rank, "world": world}
    start = random.Random(os.getpid()).randrange(50)
    remote: Loader = build_loader(root, cache=cache, cache_gb=cap_bytes / 1e9, start_step=start, **options)
    done, wrong, longest = counts
    wanted = iter(build_loader(local, start_step=start, **options))
    began = time.monotonic()
    for batch in remote:
        with longest.get_lock():
            longest.value = max(longest.value, time.monotonic() - began)
        with done.get_lock():
            done.value += 1
        if checksum(batch) != checksum(next(wanted)):
            with wrong.get_lock():
                wrong.value += 1
        began = time.monotonic()


def stress(root: Path, cache: Path, *, seconds: float, kill_every_s: float, seed: int = 0) -> Outcome:
    """Let the processes of ROLES loose on `cache` for a while."""
    server = Served(root)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    largest = max(path.stat().st_size for path in root.glob("*.tar"))
    outcome = Outcome(cap_bytes=working_set(address, cache) + largest)
    context = multiprocessing.get_context("spawn")  # a client of a store does not survive a fork
    counts = [context.Value("q", 0), context.Value("q", 0), context.Value("d", 0.0)]
    run = partial(read, address, str(root), cache, outcome.cap_bytes)
    processes = [context.Process(target=run, args=(role, counts)) for role in ROLES]
    for process in processes:
        process.start()
    while not counts[0].value and all(process.is_alive() for process in processes):
        time.sleep(0.01)
    draw, end, next_kill = random.Random(seed), time.monotonic() + seconds, time.monotonic() + kill_every_s
    try:
        while time.monotonic() < end:
            outcome.looks += 1
            total = 0
            for entry in os.scandir(cache / "blobs"):
                with suppress(FileNotFoundError):
                    total += entry.stat().st_size
            outcome.most_bytes = max(outcome.most_bytes, total)
            for number, process in enumerate(processes):
                if process.exitcode is not None and process.exitcode != -signal.SIGKILL:
                    outcome.failures.append(f"process {number} ended with {process.exitcode}")
                    end = 0
            if time.monotonic() > next_kill and end:
                number = draw.randrange(len(processes))
                processes[number].kill()
                processes[number].join()
                processes[number] = context.Process(target=run, args=(ROLES[number], counts))
                processes[number].start()
                outcome.kills += 1
                next_kill = time.monotonic() + kill_every_s
            time.sleep(0.005)
    finally:
        for process in processes:
            process.kill()
            process.join()
        server.shutdown()
        thread.join()
        server.server_close()
    outcome.batches, outcome.wrong, outcome.longest_wait_s = (count.value for count in counts)
    outcome.served_bytes = server.served
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of parquet files")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kill-every", type=float, default=3)
    parser.add_argument("--data", default="", help="what PHOTOS is, in words")
    parser.add_argument("--scratch", type=Path, help="folder for temporary files")
    parser.add_argument("--out", type=Path, help="keep the report in this file")
    args = parser.parse_args()
    with scratch(args.scratch) as folder:
        root = make_set(folder, args.photos, samples=args.samples)
        whole = sum(path.stat().st_size for path in root.glob("*.tar"))
        seen = stress(root, folder / "cache", seconds=args.seconds, kill_every_s=args.kill_every)
    rows = [
        [
            "cap (working set of one job and one shard)",
            f"{seen.cap_bytes / 1e6:.2f} MB of {whole / 1e6:.2f} MB",
        ],
        ["most that was in the folder", f"{seen.most_bytes / 1e6:.2f} MB, {seen.looks} looks"],
        ["batches, of them wrong", f"{seen.batches}, {seen.wrong}"],
        ["SIGKILLs", str(seen.kills)],
        ["longest wait for a batch", f"{seen.longest_wait_s:.2f} s"],
        ["bytes served", f"{seen.served_bytes / 1e6:.1f} MB"],
        ["processes that failed", ", ".join(seen.failures) or "none"],
    ]
    command = f"python benchmarks/cache_stress.py {shlex.join(['PHOTOS', *sys.argv[2:]])}"
    text = (
        f"# {len(ROLES)} processes on one node cache\n\nMachine: {machine()}. Load average {load()}.\n"
        f"Data: {args.data}; {args.samples} samples, two a shard.\nCommand: `{command}`.\n\n"
        f"{markdown(['what', 'seen'], rows)}"
    )
    write_report(args.out, text)
    if seen.failures or seen.wrong or seen.most_bytes > seen.cap_bytes:
        raise SystemExit("the cache failed")


if __name__ == "__main__":
    main()
