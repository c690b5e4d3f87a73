"""What the benchmarks share: varied photos as parquet, a process with its cost, numbers with their spread."""

import argparse
import io
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamgan.core.machine import processor, usable_cores
from streamgan.core.storage.files import atomic_write

Pair = tuple[bytes, bytes]  # encoded colour image, encoded gray twin
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("image", IMAGE), ("conditioning_image", IMAGE), ("text", pa.string())])
STREAMGAN = (sys.executable, "-m", "streamgan.cli")
_COMMENT_BYTES = 65_533  # the most that one JPEG segment holds
_POLL_S = 0.05


@dataclass(frozen=True)
class Cost:
    """What a process took with all its children: seconds, CPU seconds (user + sys), peak RSS by process."""

    code: int
    wall_s: float
    cpu_s: float
    peak_rss: dict[int, int] = field(default_factory=dict)


def measure(command: Sequence[str], *, watch_memory: bool = False, quiet: bool = True) -> Cost:
    """Run a command to its end; SystemExit with its last words if it fails."""
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=said, stderr=said if quiet else None)
        peaks: dict[int, int] = {}
        status, usage = 0, None
        while usage is None:
            pid, status, rusage = os.wait4(process.pid, os.WNOHANG if watch_memory else 0)
            if pid:
                usage = rusage
            else:
                peaks |= peak_rss(process.pid)
                time.sleep(_POLL_S)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(
                f"{shlex.join(command)} ended with {process.returncode}:\n{said.read()[-3000:].decode()}"
            )
    return Cost(process.returncode, wall, usage.ru_utime + usage.ru_stime, peaks)


def peak_rss(pid: int) -> dict[int, int]:
    """Peak resident bytes so far (the kernel's high-water mark) of a process and of each of its children."""
    peaks = {}
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM"):
                    peaks[pid] = int(line.split()[1]) * 1024
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(child) for child in file.read().split()]
    except OSError:  # it has just ended
        return peaks
    for child in children:
        peaks |= peak_rss(child)
    return peaks


def own_peak() -> int:
    """Peak resident bytes of this process. `getrusage` has that of its parent too, if it is larger."""
    return peak_rss(os.getpid())[os.getpid()]


def read_pairs(folder: Path) -> list[Pair]:
    """Every pair of a source in the Hub's schema."""
    pairs = []
    for path in sorted(folder.rglob("*.parquet")):
        table = pq.read_table(path, columns=["image", "conditioning_image"])
        colors, grays = (table[name].to_pylist() for name in ("image", "conditioning_image"))
        pairs += [(color["bytes"], gray["bytes"]) for color, gray in zip(colors, grays, strict=True)]
    if not pairs:
        raise SystemExit(f"{folder}: no pairs")
    return pairs


def vary(jpeg: bytes, number: int, *, size: int = 0) -> bytes:
    """The same picture with other bytes: comments of noise, seeded by `number`, that make it `size` bytes."""
    noise = np.random.default_rng(number).bytes(max(16, size - len(jpeg) - 4))
    out = io.BytesIO()
    out.write(jpeg[:2])
    for at in range(0, len(noise), _COMMENT_BYTES):
        piece = noise[at : at + _COMMENT_BYTES]
        out.write(b"\xff\xfe" + (len(piece) + 2).to_bytes(2, "big") + piece)
    out.write(jpeg[2:])
    return out.getvalue()


def varied(pairs: Sequence[Pair], count: int, *, first: int = 0, size: int = 0) -> Iterator[Pair]:
    """`count` pairs, no two alike; `size` as of the colour image."""
    for number in range(first, first + count):
        color, gray = pairs[number % len(pairs)]
        yield vary(color, 2 * number, size=size), vary(gray, 2 * number + 1)


def write_parquet(path: Path, pairs: Iterable[Pair], *, group: int, page_rows: int = 1024) -> None:
    """Pairs as one parquet file with row groups of `group` rows, one group in memory at a time.

    A page gets at least `page_rows` rows (1024 is the default of pyarrow), however large they are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"compression": "none", "use_dictionary": False, "write_batch_size": page_rows}
    with pq.ParquetWriter(path, SCHEMA, **options) as writer:
        rows: list[dict] = []
        for color, gray in pairs:
            image, twin = {"bytes": color, "path": None}, {"bytes": gray, "path": None}
            rows.append({"image": image, "conditioning_image": twin, "text": ""})
            if len(rows) == group:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA), row_group_size=group)
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA), row_group_size=group)


def tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (min-max)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def parser_of_two_trees(doc: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark of this tree beside another one."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--other", type=Path, required=True, metavar="CHECKOUT", help="the tree to compare with"
    )
    parser.add_argument("--name", default="the other tree", help="what CHECKOUT is, for the report")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    return parser


def two_trees(options: argparse.Namespace) -> dict[str, Path]:
    """This tree and the other one, by their names in the report."""
    return {"this tree": Path(__file__).parents[1], options.name: options.other.absolute()}


def ask_tree(tree: Path, *words: object) -> Any:
    """The JSON that a new Python with the arguments `words` prints, its `streamgan` that of a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout)


def in_turn(arms: Iterable[str], number: int) -> list[str]:
    """All arms, beginning with another one in each round."""
    names = list(arms)
    first = number % max(1, len(names))
    return names[first:] + names[:first]


def machine() -> str:
    """Cores, processor and memory in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{usable_cores()} cores {processor()}, {memory:.0f} GB; Linux, Python {platform.python_version()}"


def load() -> str:
    """The load average of 1, 5 and 15 minutes: how busy the machine is with everything on it."""
    return "{:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg())


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_report(path: Path | None, text: str) -> None:
    """Show a report and, if `path` is given, keep it."""
    print(text)
    if path:
        with atomic_write(path) as file:
            file.write(text.encode() + b"\n")


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="streamgan-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
