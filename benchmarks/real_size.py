"""A set of real size: parquet from real photos, sharded, killed half-way and continued.

    python benchmarks/real_size.py PHOTOS --gb 20 --data "what it is" --out benchmarks/results/real_size.md

Every row has other bytes (the photos with a comment segment of noise). Half of the files have row groups of
100 rows, half of 1,000. The data is deleted afterwards; less is made if the disk would get too full.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import (
    STREAMGAN,
    load,
    machine,
    markdown,
    measure,
    peak_rss,
    read_pairs,
    scratch,
    tree_bytes,
    varied,
    write_parquet,
    write_report,
)

FILE_BYTES = 500e6
GROUPS = (100, 1000)
ROOM = 2.1  # the source, the set and a little


def make_source(photos: Path, folder: Path, num_files: int) -> int:
    """`num_files` parquet files of about 500 MB; the number of rows in all."""
    pairs = read_pairs(photos)
    rows = round(FILE_BYTES / (sum(len(color) + len(gray) for color, gray in pairs) / len(pairs)))
    for file in range(num_files):
        part = varied(pairs, rows, first=file * rows)
        name = f"train-{file:05d}-of-{num_files:05d}.parquet"
        write_parquet(folder / name, part, group=GROUPS[file % len(GROUPS)])
        print(f"{name} written", file=sys.stderr)
    return rows * num_files


def kill_half_way(command: list[str], out: Path, size: int) -> tuple[float, dict[int, int]]:
    """Run until half of `size` bytes are under final names, then SIGKILL; seconds and peak RSS by process."""
    began, peaks = time.monotonic(), {}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    ended = threading.Event()
    while process.poll() is None:
        peaks |= peak_rss(process.pid)
        done = sum(path.stat().st_size for path in out.glob("*.tar")) if out.is_dir() else 0
        if done >= size / 2:
            process.kill()
        ended.wait(0.2)
    return time.monotonic() - began, peaks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", default="unnamed photos", help="what the photos are, for the report")
    parser.add_argument("--gb", type=float, default=20.0)
    parser.add_argument("--keep-free-gb", type=float, default=15.0, help="space that must stay free")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where the data goes for the time being")
    parser.add_argument("--note", default="", help="what else to know about this run")
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    options = parser.parse_args()
    with scratch(options.scratch) as folder:
        room = (shutil.disk_usage(folder).free / 1e9 - options.keep_free_gb) / ROOM
        num_files = int(min(options.gb, room) * 1e9 / FILE_BYTES)
        if num_files < 2:
            raise SystemExit(f"only {room:.1f} GB may be used")
        rows = make_source(options.photos, folder / "in", num_files)
        size, out = tree_bytes(folder / "in"), folder / "set"
        command = [
            *STREAMGAN,
            "shard",
            str(folder / "in"),
            "--out",
            str(out),
            "--workers",
            str(options.workers),
        ]
        before = load()
        first_s, first_peaks = kill_half_way(command, out, size)
        kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
        kept_bytes = sum((out / name).stat().st_size for name in kept)
        second = measure(command, watch_memory=True)
        after = load()
        again = sum((out / name).stat().st_mtime_ns != mtime for name, mtime in kept.items())
        set_bytes = tree_bytes(out)
        checked = measure([*STREAMGAN, "verify", str(out)])
    made = set_bytes - kept_bytes
    peaks = sorted((first_peaks | second.peak_rss).values(), reverse=True)
    table = [
        ["source", f"{size / 1e9:.1f} GB, {num_files} files, {rows} pairs, row groups of {GROUPS}"],
        [
            "until the kill",
            f"{first_s:.0f} s, {kept_bytes / 1e9:.2f} GB, {kept_bytes / 1e6 / first_s:.0f} MB/s",
        ],
        ["continued", f"{second.wall_s:.0f} s, {made / 1e9:.2f} GB, {made / 1e6 / second.wall_s:.0f} MB/s"],
        ["CPU, continued", f"{second.cpu_s:.0f} s, {made / 1e6 / second.cpu_s:.0f} MB a CPU second"],
        ["shards kept, made again", f"{len(kept) - again}, {again}"],
        ["peak RSS by process", ", ".join(f"{peak / 1e6:.0f}" for peak in peaks) + " MB"],
        [
            "`verify` of the set",
            f"nothing wrong, {checked.wall_s:.0f} s, {set_bytes / 1e6 / checked.wall_s:.0f} MB/s",
        ],
    ]
    arguments = ["PHOTOS", "--gb", f"{options.gb:g}", "--workers", str(options.workers)]
    write_report(
        options.out,
        f"""# A set of real size, killed half-way and continued

Machine: {machine()}. Load average {before} before, {after} after. n = 1. {options.note}
Data: {options.data}, repeated with other bytes. Time includes the start of the command.
Command: `{shlex.join(["python", "benchmarks/real_size.py", *arguments])}`.

{markdown(["", ""], table)}""",
    )


if __name__ == "__main__":
    main()
