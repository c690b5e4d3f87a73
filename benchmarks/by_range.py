"""Reading image by image from a server that is far away: what a batch takes, and with how many requests.

    python benchmarks/by_range.py DIR --latency-ms 50 --out benchmarks/results/by_range.md

DIR is a shard set, served by a process of this machine that lets every request wait. `data.cache=none` is
read with one request at a time, as a plain loop would, and with as many as `streamgan.data` has under way.
"""

import argparse
import multiprocessing
import re
import shlex
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from common import load, machine, markdown, spread, write_report

from streamgan.data import build_loader
from streamgan.data.shards import coalesce


def serve(folder: Path, latency_s: float, port: Any, requests: Any) -> None:
    """The files of a folder, whole or by range, each answer `latency_s` late; counts those for shards."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            time.sleep(latency_s)
            path = folder / self.path.lstrip("/")
            size = path.stat().st_size
            limits = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            begin, end = (int(limits[1]), int(limits[2]) + 1) if limits else (0, size)
            with open(path, "rb") as file:
                file.seek(begin)
                data = file.read(end - begin)
            self.send_response(206 if limits else 200)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            if path.suffix == ".tar":
                with requests.get_lock():
                    requests.value += 1

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()


def batch_ms(url: str, *, at_once: int, gray: Any, steps: int) -> list[float]:
    """Milliseconds of each batch of 16 after the first."""
    coalesce.NUM_REQUESTS = at_once
    loader = build_loader(url, batch=16, size=256, workers=0, cache="none", gray=gray, stop_step=steps + 1)
    found, began = [], 0.0
    for _ in loader:
        if began:
            found.append(1e3 * (time.perf_counter() - began))
        began = time.perf_counter()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--data", default="unnamed", help="what DIR is, for the report")
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    args = parser.parse_args()
    context = multiprocessing.get_context("fork")
    port, requests = context.Value("i", 0), context.Value("i", 0)
    server = context.Process(
        target=serve, args=(args.folder, args.latency_ms / 1e3, port, requests), daemon=True
    )
    server.start()
    while not port.value:
        time.sleep(0.01)
    url, rows, at_once, before = f"http://127.0.0.1:{port.value}", [], coalesce.NUM_REQUESTS, load()
    for gray in ("derive", "twin"):
        for number in (1, at_once):
            served = requests.value
            times = batch_ms(url, at_once=number, gray=gray, steps=args.steps)
            count = f"{(requests.value - served) / (args.steps + 1):.1f}"
            rows.append([f"data.gray={gray}, {number} at once", spread(times, 0), count])
    server.kill()
    server.join()
    words = ["DIR", "--latency-ms", f"{args.latency_ms:g}", "--steps", str(args.steps)]
    text = (
        f"# Image by image from afar\n\nMachine: {machine()}. Load average {before}.\nData: {args.data}.\n"
        f"Command: `{shlex.join(['python', 'benchmarks/by_range.py', *words])}`; every answer comes "
        f"{args.latency_ms:g} ms late. n = {args.steps} batches of 16, median (min-max); one process.\n\n"
        f"{markdown(['', 'ms per batch', 'requests per batch'], rows)}"
    )
    write_report(args.out, text)


if __name__ == "__main__":
    main()
