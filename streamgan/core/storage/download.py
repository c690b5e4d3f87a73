"""Bytes of a remote file by range, whatever network and server do on the way.

A request asks for at most `CHUNK_BYTES`. What arrived before a failure is kept and the next request begins
there (from object stores a request comes whole or not at all). Busy servers, resets, short answers, ranges
other than asked for, stalls and trickles are tried again after pauses, `Retry-After` included; five failures
in a row without progress are a DataError that names address, byte and attempts.

https:// and hf:// go through fsspec's HTTP session, the object stores through their fsspec filesystems.
"""

import asyncio
import concurrent.futures
import email.utils
import re
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from streamgan.core.counters import Counters
from streamgan.core.errors import DataError, StreamganError

from . import remote
from .remote import (
    BadAnswer,
    ShortBody,
    error_kind,
    filesystem,
    is_defect,
    is_transient,
    redacted,
    web_address,
)

CHUNK_BYTES = 8 << 20
STALL_S = 30.0  # without any byte
TRICKLE_BYTES = 64 << 10  # fewer in STALL_S seconds is a stall, too
PROGRESS_BYTES = 256 << 10  # after so many the count of failures begins anew
MAX_PAUSE_S = 120.0  # no server may ask for a longer one
_POLL_S = 0.1
_HTTP = ("https", "http", "hf")
_session_lock = threading.Lock()
# Memory that processes forked from here share; two that count at one instant may count one.
_retries = Counters(1, 1)

Sink = Callable[[bytes], None]


class Stopped(Exception):
    """The download was told to end."""


class _Stall(BadAnswer):
    """Too few bytes for too long."""


class _OtherRange(BadAnswer):
    """The answer is another part of the file than the one asked for."""


def num_retries() -> int:
    """Requests that this process and its loader processes have made again after a failure."""
    return _retries.row(0)[0]


def read_whole(address: str) -> bytes:
    """All bytes of a small file."""
    pieces: list[bytes] = []
    patience = _Patience(address, None)
    while True:
        pieces.clear()
        try:
            _request(address, None, pieces.append, None)
            return b"".join(pieces)
        except Exception as error:
            patience.after(error, at=None)


def read_range(address: str, begin: int, end: int, *, heartbeat: Callable[[], None] | None = None) -> bytes:
    """Bytes [begin, end) of a file; `heartbeat` is called ten times per second meanwhile."""
    data = bytearray()
    stop = _Beating(heartbeat) if heartbeat else None
    download(address, begin, end, lambda at, piece: data.extend(piece), stop=stop)
    return bytes(data)


def size_of(address: str) -> int:
    """The size of a file in bytes."""
    if address.partition("://")[0] not in _HTTP:
        return remote.with_retries(address, lambda: filesystem(address).info(address)["size"])
    total: list[int] = []
    patience = _Patience(address, None)
    while not total:
        try:
            _request(address, (0, 1), lambda data: None, None, total=total)
        except Exception as error:
            if remote.status_of(error) == 416:  # nothing to satisfy the range: an empty file
                return 0
            patience.after(error, at=None)
    return total[0]


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
    position = begin
    patience = _Patience(address, stop)

    def sink(data: bytes) -> None:
        nonlocal position
        write(position, data)
        position += len(data)

    while position < end:
        try:
            _request(address, (position, min(end, position + CHUNK_BYTES)), sink, stop)
        except Exception as error:
            patience.after(error, at=position)


class _Patience:
    """Counts failures of one file and pauses after each, or raises what becomes of the last one."""

    def __init__(self, address: str, stop: threading.Event | None):
        self.address, self.stop = address, stop or threading.Event()
        self.failures, self.position = 0, 0

    def after(self, error: Exception, *, at: int | None) -> None:
        if isinstance(error, StreamganError | Stopped):
            raise error
        if at is not None and at - self.position >= PROGRESS_BYTES:
            self.failures = 0
        self.position = at or 0
        self.failures += 1
        kind, where = error_kind(error), "" if at is None else f" at byte {at}"
        if not is_transient(error):
            if is_defect(error):
                raise error
            todo = "check the address and that you may read it"
            raise DataError(redacted(self.address), f"cannot be read{where} ({kind})", todo) from error
        if self.failures > len(remote.RETRY_DELAYS_S):
            what = f"cannot be read{where} ({kind}, {self.failures} attempts)"
            raise DataError(redacted(self.address), what, "the same command continues") from error
        _retries.add(0, (1,))
        asked = min(_retry_after(error), MAX_PAUSE_S)
        if self.stop.wait(max(remote.RETRY_DELAYS_S[self.failures - 1], asked)):
            raise Stopped from error


def _retry_after(error: BaseException) -> float:
    """Seconds that the server asks to wait, or 0."""
    headers: Any = getattr(error, "headers", None)
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if not headers:
        return _retry_after(error.__cause__) if error.__cause__ else 0.0
    text = str(headers.get("Retry-After") or headers.get("retry-after") or "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


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
    if address.partition("://")[0] in _HTTP:
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
    slowest_s = STALL_S + CHUNK_BYTES / TRICKLE_BYTES  # the answer comes in one piece
    data = _wait_for(fs.loop, asyncio.wait_for(fs._cat_file(path, start=begin, end=end), slowest_s), stop)
    if limits and len(data) != limits[1] - limits[0]:
        raise ShortBody(f"{len(data)} of {limits[1] - limits[0]} bytes")
    sink(data)


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
        raise DataError(redacted(address), what, "use one that does, or download the set and name its folder")
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if not found or (int(found[1]), int(found[2]) + 1) != limits:
        raise _OtherRange("another range than asked for")
    return int(found[3])
