"""The first batch of a set of 100 million samples at an address: its index whole, or what is needed of it.

    python benchmarks/large_index.py --out benchmarks/results/large_index.md

The set exists as numbers: a server of its own gives every shard the same tar, the `.idx` files and
`train.index` that 100,000 shards of that tar would have, and a manifest that seals them. A rank of 64, eight
to a machine, opens the set in a new process, with an empty cache and with the one that is left then, and says
when it has its first batch. The server counts what was sent until then.
"""

import argparse
import hashlib
import io
import json
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from common import load, machine, markdown, own_peak, scratch, vary, write_parquet, write_report
from PIL import Image

from streamgan.core.storage.files import json_bytes
from streamgan.data.format import (
    INDEX_DTYPE,
    Manifest,
    ShardEntry,
    SplitEntry,
    idx_bytes,
    index_bytes,
    index_size,
    pack_index,
    read_idx,
    read_manifest,
)
from streamgan.sharding.run import ShardOptions, shard

PER_SHARD, BATCH, WORLD, NODE_RANKS, WINDOW = 1000, 1024, 64, 8, 8
COUNT = "/count"
_MARK = "train-000000.tar"


class Set:
    """The files of a set of `num_shards` shards, made of the one in `folder`."""

    def __init__(self, folder: Path, num_shards: int):
        one = read_manifest(folder)
        (entry,) = one.splits["train"].shards
        samples = read_idx(folder / "train-000000.idx")
        self.tar, self.num_shards = (folder / entry.name).read_bytes(), num_shards
        about = {"name": _MARK, "bytes": entry.bytes, "sha256": entry.sha256}
        self._head, self._tail = (part.encode() for part in idx_bytes(about, samples).decode().split(_MARK))
        self.rows = pack_index(samples).tobytes()
        self.head = index_bytes(np.zeros(0, INDEX_DTYPE))
        size = index_size(num_shards * len(samples))
        shape = f"({num_shards * len(samples)},)"
        text = re.sub(rb"\(0,\), } *\n", shape.encode() + b", }", self.head)
        self.head = text.ljust(size - num_shards * len(self.rows) - 1) + b"\n"
        hasher = hashlib.sha256(self.head)
        for _ in range(num_shards):
            hasher.update(self.rows)
        entries = tuple(
            ShardEntry(
                f"train-{number:06d}.tar", len(samples), entry.bytes, entry.sha256,
                hashlib.sha256(self.idx(number)).hexdigest(),
            )
            for number in range(num_shards)
        )  # fmt: skip
        split = SplitEntry(num_shards * len(samples), num_shards * entry.bytes, hasher.hexdigest(), entries)
        manifest = Manifest(one.source, one.options, {"train": split}, one.quarantine)
        self.manifest = json_bytes({"digest": manifest.digest, **manifest.body()})

    def idx(self, number: int) -> bytes:
        return self._head + f"train-{number:06d}.tar".encode() + self._tail

    def index(self) -> Iterator[bytes]:
        yield self.head
        for _ in range(self.num_shards):
            yield self.rows

    def index_range(self, begin: int, end: int) -> bytes:
        """As `index`, a stretch of it."""
        head, out = len(self.head), bytearray(self.head[begin:end])
        while begin + len(out) < end:
            at = (begin + len(out) - head) % len(self.rows)
            out += self.rows[at : at + end - begin - len(out)]
        return bytes(out)


def serve(folder: Path, num_shards: int) -> None:
    """Say the port, then answer until stdin ends."""
    files, sent = Set(folder, num_shards), Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == COUNT:
                self._answer(json.dumps(sent).encode(), 0, None)
                sent.clear()
                return
            name = self.path.lstrip("/")
            kind = name.rpartition(".")[2]
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            begin, end = (int(wanted[1]), int(wanted[2]) + 1) if wanted else (0, None)
            if kind == "index":
                size = index_size(files.num_shards * PER_SHARD)
                data, total = files.index_range(begin, min(end or size, size)), size
            else:
                number = int(re.sub(r"\D", "", name) or 0)
                whole = {"json": files.manifest, "tar": files.tar, "idx": b""}[kind] or files.idx(number)
                data, total = whole[begin:end], len(whole)
            sent[kind] += len(data)
            sent[f"{kind} requests"] += 1
            self._answer(data, begin, total if wanted else None)

        def _answer(self, data: bytes, begin: int, total: int | None) -> None:
            self.send_response(200 if total is None else 206)
            if total is not None:
                self.send_header("Content-Range", f"bytes {begin}-{begin + len(data) - 1}/{total}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


def first_batch(url: str, cache: str, whole: bool, start: int) -> dict[str, Any]:
    """What a rank pays for the batch of step `start`, its first one, in this process."""
    from streamgan.data.loader import build_loader
    from streamgan.data.shards import index_parts

    index_parts.WHOLE_BYTES = sys.maxsize if whole else 0
    settings: dict[str, Any] = {
        "batch": BATCH,
        "size": 32,
        "workers": 2,
        "world": WORLD,
        "node_ranks": NODE_RANKS,
    }
    before = own_peak()
    began, worked = time.monotonic(), time.process_time()
    loader = build_loader(url, cache=cache, cache_gb=100, window=WINDOW, start_step=start, **settings)
    batches = iter(loader)
    next(batches)
    wall_s, cpu_s = time.monotonic() - began, time.process_time() - worked
    sent = json.load(urllib.request.urlopen(f"{url}{COUNT}"))
    memory = own_peak() - before
    batches.close()
    return {"wall_s": wall_s, "cpu_s": cpu_s, "memory": memory, "sent": sent}


@contextmanager
def served(num_shards: int, folder: Path) -> Iterator[str]:
    """The address of such a set."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(20):
        photo = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((32, 32))
        encoded = []
        for image in (photo, photo.convert("L")):
            image.save(out := io.BytesIO(), "JPEG")
            encoded.append(vary(out.getvalue(), number))
        pairs.append((encoded[0], encoded[1]))
    write_parquet(folder / "a.parquet", (pairs[n % 20] for n in range(PER_SHARD)), group=PER_SHARD)
    options = ShardOptions(samples_per_shard=PER_SHARD, splits="train=1")
    shard([str(folder / "a.parquet")], folder / "set", options=options, num_workers=0)
    words = [sys.executable, __file__, "--serve", str(folder / "set"), str(num_shards)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


ARMS = [  # whole, cache, whether something is in it, share of the epoch behind
    (True, "a", False, 0.0),
    (True, "a", True, 0.0),
    (False, "b", False, 0.0),
    (False, "b", True, 0.0),
    (False, "c", False, 0.99),
]


def measure(num_shards: int) -> list[dict[str, Any]]:
    found = []
    with scratch(None) as folder, served(num_shards, folder) as url:
        for whole, cache, _, share in ARMS:
            start = int(share * (num_shards * PER_SHARD // BATCH))
            child = ["--child", url, str(folder / cache), str(int(whole)), str(start)]
            words = [sys.executable, __file__, *child]
            found.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    return found


HEAD = ["index", "cache", "first batch", "s", "CPU s", "memory", "bytes of the index", "requests for it"]
REPORT = """# The index of a large set at an address

Machine: {machine}. Load average {load}.
Command: `{command}`.

The first batch of a rank of {world}, {node} to a machine, of {samples:,} samples in {shards:,} shards:
batches of {batch}, default lanes, windows of {window}, two loader processes. The server is here too, so
seconds are of its CPUs and disk; at 1 Gbit/s the whole index alone takes {gbit:.0f} s. Bytes and requests are
those until the first batch, in parts with what was fetched ahead meanwhile. CPU seconds and memory (what it
grew by at its peak) are those of the training process, the manifest of {manifest:.1f} MB included.

{table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=100_000, help=f"of {PER_SHARD} samples each")
    parser.add_argument("--out", type=Path, help="keep the report in this file")
    options = parser.parse_args()
    found, rows = measure(options.shards), []
    for (whole, _, used, share), one in zip(ARMS, found, strict=True):
        kind = "index" if whole else "idx"
        rows.append(
            [
                "whole" if whole else "in parts",
                "used" if used else "empty",
                "at 99%" if share else "at 0",
                f"{one['wall_s']:.1f}",
                f"{one['cpu_s']:.1f}",
                f"{one['memory'] / 1e6:.0f} MB",
                f"{one['sent'].get(kind, 0) / 1e6:,.1f} MB",
                f"{one['sent'].get(f'{kind} requests', 0):,}",
            ]
        )
    samples = options.shards * PER_SHARD
    text = REPORT.format(
        machine=machine(),
        load=load(),
        command=shlex.join(["python", "benchmarks/large_index.py", *sys.argv[1:]]),
        world=WORLD,
        node=NODE_RANKS,
        samples=samples,
        shards=options.shards,
        batch=BATCH,
        window=WINDOW,
        gbit=index_size(samples) * 8e-9,
        manifest=found[0]["sent"]["json"] / 1e6,
        table=markdown(HEAD, rows),
    )
    write_report(options.out, text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--child"]:
        url, cache, whole, start = sys.argv[2:]
        print(json.dumps(first_batch(url, cache, whole == "1", int(start))))
    else:
        main()
