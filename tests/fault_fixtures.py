"""A website that serves the shards of a set with seeded faults, each range once, and counts its bytes."""

import re
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from remote_fixtures import Website

from streamgan.core.seeding import hash64
from streamgan.core.storage import client, download, retry

KINDS = ("503", "429", "reset", "short", "cut", "stall", "trickle", "flip", "other_range")

HALVES = ("reset", "short", "cut", "stall", "trickle")  # only half of the answer arrives, or no more in time


def impatient(monkeypatch) -> None:
    """Limits of the downloads that suit shards of some kilobytes and a server on this machine."""
    monkeypatch.setattr(download, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(download, "PROGRESS_BYTES", 1024)
    monkeypatch.setattr(download, "PIECE_BYTES", 512)
    monkeypatch.setattr(retry, "RETRY_DELAYS_S", (0.01,) * 4)


class Faults:
    """To be a Website's `fault`: answers the first request for some ranges of tars wrongly.

    `flips` says which bytes of a file may be flipped. `served` counts the faults by kind.
    """

    def __init__(
        self, site: Website, kinds: tuple[str, ...], monkeypatch, *, seed: int = 0, share: float = 0.5
    ):
        if {"stall", "trickle"} & set(kinds):  # else a busy machine's late answers would count
            monkeypatch.setattr(client, "STALL_S", 0.4)
        self.site, self.kinds, self.seed, self.share = site, kinds, seed, share
        self.served: Counter[str] = Counter()
        self.flips: dict[str, list[tuple[int, int]]] = {}
        self._lock = threading.Lock()
        site.fault = self

    def __call__(self, handler: BaseHTTPRequestHandler, attempt: int) -> bool:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        if attempt > 1 or not wanted or not handler.path.endswith(".tar"):
            return False
        begin, end = int(wanted[1]), int(wanted[2]) + 1
        draw = int(hash64(self.seed, begin, end, *handler.path.encode()))
        if draw % 1000 >= self.share * 1000:
            return False
        kind = self.kinds[draw // 1000 % len(self.kinds)]
        if kind in HALVES and end - begin < 2048:  # several without progress are a failure that lasts
            return False
        data = (self.site.root / handler.path.lstrip("/")).read_bytes()
        if kind == "flip":
            places = [
                (max(low, begin), min(high, end))
                for low, high in self.flips[handler.path.lstrip("/")]
                if max(low, begin) < min(high, end)
            ]
            if not places:
                return False
            low, high = places[draw // 10**6 % len(places)]
            at = low + draw // 10**9 % (high - low)
            data = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
        with self._lock:
            self.served[kind] += 1
        self._answer(handler, kind, data, begin, end)
        return True

    def _answer(self, handler: BaseHTTPRequestHandler, kind: str, data: bytes, begin: int, end: int) -> None:
        if kind in ("503", "429"):
            handler.send_response(int(kind))
            handler.send_header("Retry-After", "0")
            handler.end_headers()
            return
        shift = 512 if kind == "other_range" else 0
        body = data[begin + shift : end + shift]
        size = len(body) // 2 if kind == "short" else len(body)
        handler.send_response(206)
        first, last = begin + shift, begin + shift + len(body) - 1
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        if kind in ("flip", "other_range"):
            self._send(handler, body)
            return
        self._send(handler, body[: len(body) // 2])
        if kind == "reset":
            handler.wfile.flush()
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif kind == "stall":
            self._wait_for_end(handler, 5)
        elif kind == "trickle":
            for byte in body[len(body) // 2 :]:
                if self._wait_for_end(handler, 0.01):
                    break
                self._send(handler, bytes([byte]))

    def _send(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        handler.wfile.write(data)
        with self._lock:
            self.site.sent += len(data)

    @staticmethod
    def _wait_for_end(handler: BaseHTTPRequestHandler, seconds: float) -> bool:
        """Whether the client hung up within `seconds`."""
        handler.connection.settimeout(seconds)
        try:
            return handler.connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


def tar_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("*.tar"))
