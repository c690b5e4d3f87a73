"""Bytes of a remote file by range, whatever network and server do on the way.

A request asks for at most `CHUNK_BYTES`. What arrived before a failure is kept and the next request begins
there (from object stores a request comes whole or not at all). Busy servers, resets, short answers, ranges
other than asked for, stalls and trickles are tried again after pauses, `Retry-After` included; five failures
in a row without progress are a DataError that names address, byte and attempts.

https:// and hf:// go through fsspec's HTTP session, the object stores through their fsspec filesystems.
"""

import asyncio
import concurrent.futures
import io
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from streamgan.core.errors import DataError

from .address import is_address, parse, redacted
from .hub import web_address
from .retry import Attempts, BadAnswer, ShortBody, Stopped, status_of, with_retries
from .store import filesystem

CHUNK_BYTES = 8 << 20
STALL_S = 30.0  # without any byte
TRICKLE_BYTES = 64 << 10  # fewer in STALL_S seconds is a stall, too
WHOLE_S = 600.0  # for all of an object in one request
PROGRESS_BYTES = 256 << 10  # after so many the count of failures begins anew
_POLL_S = 0.1
_HTTP = ("https", "http", "hf")
_session_lock = threading.Lock()

Sink = Callable[[bytes], None]


class _Stall(BadAnswer):
    """Too few bytes for too long."""


class _OtherRange(BadAnswer):
    """The answer is another part of the file than the one asked for."""


def read_whole(address: str) -> bytes:
    """All bytes of a small file."""

    def ask() -> bytes:
        pieces: list[bytes] = []
        _request(address, None, pieces.append, None)
        return b"".join(pieces)

    return with_retries(address, ask)


def read_range(address: str, begin: int, end: int, *, heartbeat: Callable[[], None] | None = None) -> bytes:
    """Bytes [begin, end) of a file; `heartbeat` is called ten times per second meanwhile."""
    data = bytearray()
    stop = _Beating(heartbeat) if heartbeat else None
    download(address, begin, end, lambda at, piece: data.extend(piece), stop=stop)
    return bytes(data)


def size_of(address: str) -> int:
    """The size of a file in bytes."""

    def ask() -> int:
        if parse(address).scheme not in _HTTP:
            return filesystem(address).info(address)["size"]
        total: list[int] = []
        try:
            _request(address, (0, 1), lambda data: None, None, total=total)
        except Exception as error:
            if status_of(error) != 416:  # nothing to satisfy the range: an empty file
                raise
            return 0
        return total[0]

    return with_retries(address, ask)


def download(
    address: str,
    begin: int,
    end: int,
    write: Callable[[int, bytes], None],
    *,
    stop: threading.Event | None = None,
) -> None:
    """Hand bytes [begin, end) of a file to `write(offset, data)`, in order, each byte once.

    Raises Stopped soon after `stop` is set.
    """
    position = mark = begin
    attempts = Attempts(address, stop=stop)

    def sink(data: bytes) -> None:
        nonlocal position
        write(position, data)
        position += len(data)

    while position < end:
        try:
            _request(address, (position, min(end, position + CHUNK_BYTES)), sink, stop)
        except Exception as error:
            if position - mark >= PROGRESS_BYTES:
                attempts.failures = 0
            mark = position
            attempts.pause(error, at=position)


def _request(
    address: str,
    limits: tuple[int, int] | None,
    sink: Sink,
    stop: threading.Event | None,
    *,
    total: list[int] | None = None,
) -> None:
    """One request for the bytes of `limits` (None: all of the file); bytes may arrive before an error."""
    if stop is not None and stop.is_set():
        raise Stopped
    if parse(address).scheme in _HTTP:
        fs = filesystem("https://")
        with _session_lock:
            if fs._session is None:
                _wait_for(fs.loop, fs.set_session(), stop)
        gate = _Gate(sink)
        try:
            _wait_for(fs.loop, _get(fs, address, limits, gate, total), stop)
        finally:
            gate.close()
        return
    fs = filesystem(address)
    path = fs._strip_protocol(address)
    begin, end = limits or (None, None)
    slowest_s = STALL_S + CHUNK_BYTES / TRICKLE_BYTES if limits else WHOLE_S  # the answer comes in one piece
    data = _wait_for(fs.loop, asyncio.wait_for(fs._cat_file(path, start=begin, end=end), slowest_s), stop)
    if limits and len(data) != limits[1] - limits[0]:
        raise ShortBody(f"{len(data)} of {limits[1] - limits[0]} bytes")
    sink(data)


class RangeFile(io.RawIOBase):
    """A remote file of known size for reading at any position, without a cache: each read is a request."""

    def __init__(self, address: str, size: int):
        super().__init__()
        self.address, self.size, self.position = address, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        begin = self.position
        end = self.size if size is None or size < 0 else min(self.size, begin + size)
        data = read_range(self.address, begin, end) if begin < end else b""
        self.position += len(data)
        return data


def open_file(path: str, size: int | None = None) -> io.RawIOBase | io.BufferedReader:
    """A file for reading, local or remote; `size` saves a request."""
    if not is_address(path):
        return open(path, "rb")
    return RangeFile(path, size or size_of(path))


class _Beating(threading.Event):
    """Is never set, but tells somebody whenever it is looked at."""

    def __init__(self, heartbeat: Callable[[], None]):
        super().__init__()
        self._beat = heartbeat

    def is_set(self) -> bool:
        self._beat()
        return False

    def wait(self, timeout: float | None = None) -> bool:
        end = time.monotonic() + (timeout or 0)
        while (left := end - time.monotonic()) > 0:
            self._beat()
            time.sleep(min(left, _POLL_S))
        return False


class _Gate:
    """A sink that takes nothing once it is closed: a cancelled request may live on for a while."""

    def __init__(self, sink: Sink):
        self._sink, self._lock, self._closed = sink, threading.Lock(), False

    def __call__(self, data: bytes) -> None:
        with self._lock:
            if not self._closed:
                self._sink(data)

    def close(self) -> None:
        with self._lock:
            self._closed = True


def _wait_for(loop: Any, coroutine: Coroutine[Any, Any, Any], stop: threading.Event | None) -> Any:
    """The result of a coroutine in fsspec's thread; it is cancelled when `stop` is set."""
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        while not concurrent.futures.wait([future], timeout=_POLL_S).done:
            if stop is not None and stop.is_set():
                raise Stopped
        return future.result()
    finally:
        future.cancel()


async def _get(
    fs: Any, address: str, limits: tuple[int, int] | None, sink: Sink, total: list[int] | None
) -> None:
    import aiohttp

    url, own_headers = web_address(address)
    options = fs.kwargs.copy()
    headers = {**options.pop("headers", {}), **own_headers, "Accept-Encoding": "identity"}
    if limits:
        headers["Range"] = f"bytes={limits[0]}-{limits[1] - 1}"
    options["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)
    async with fs._session.get(fs.encode_url(url), headers=headers, **options) as response:
        response.raise_for_status()
        expected = None
        if total is not None and response.status == 200 and response.content_length == 0:
            total.append(0)  # how some servers answer for an empty file
            return
        if limits:
            whole = _check_range(address, response, limits)
            expected = limits[1] - limits[0]
            if total is not None:
                total.append(whole)
        received, mark, since = 0, 0, time.monotonic()
        async for data in response.content.iter_any():
            received += len(data)
            if expected is not None and received > expected:
                raise _OtherRange(f"more than {expected} bytes")
            sink(data)
            now = time.monotonic()
            if now - since >= STALL_S:
                if received - mark < TRICKLE_BYTES:
                    raise _Stall(f"{received - mark} bytes in {now - since:.0f} s")
                mark, since = received, now
        if expected is not None and received != expected:
            raise ShortBody(f"{received} of {expected} bytes")


def _check_range(address: str, response: Any, limits: tuple[int, int]) -> int:
    """The size of the file, if the answer is the part asked for."""
    if response.status == 200:
        what = "the server does not answer requests for a part of a file (ranges)"
        raise DataError(redacted(address), what, "use one that does, or download it and name it here")
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if not found or (int(found[1]), int(found[2]) + 1) != limits:
        raise _OtherRange("another range than asked for")
    return int(found[3])
