"""Bytes of a remote file by range, whatever network and server do on the way.

A request asks for at most `CHUNK_BYTES`. What arrived before a failure is kept and the next request begins
there. Busy servers, resets, short answers, ranges other than asked for, stalls and trickles are tried again
after pauses, `Retry-After` of websites included; five failures in a row without progress are a DataError that
names address, byte and attempts.
"""

import asyncio
import io
import os
import threading
from collections.abc import Callable
from typing import Any

from streamgan.core.errors import DataError

from . import client as clients
from .address import BUCKETS, is_address, parse, redacted
from .client import asked_pause, call, client, wait
from .retry import Attempts, BadAnswer, Busy, ShortBody, Stopped, status_of, with_retries
from .store import object_info

CHUNK_BYTES = 8 << 20
PIECE_BYTES = 64 << 10  # has to arrive in `client.STALL_S` seconds
RANGE_BYTES = 1 << 20  # in one piece
PROGRESS_BYTES = 256 << 10  # after so many the count of failures begins anew

Sink = Callable[[bytes], None]


class _NoRanges(DataError):
    """All of the file came instead of a part."""


class _OtherRange(BadAnswer):
    """The answer is another part of the file than the one asked for."""


def read_whole(address: str, *, stop: threading.Event | None = None) -> bytes:
    """All bytes of a small file. Raises Stopped soon after `stop` is set."""

    def ask() -> bytes:
        pieces: list[bytes] = []
        _request(address, None, pieces.append, stop)
        return b"".join(pieces)

    return with_retries(address, ask, stop=stop)


def read_range(address: str, begin: int, end: int) -> bytes:
    """Bytes [begin, end) of a file: up to RANGE_BYTES in one request, of which a failure leaves nothing.

    A thread of requests would cost more than such a request: this one waits in the caller's.
    """
    import obstore

    if end - begin > RANGE_BYTES:
        data = bytearray()
        download(address, begin, end, lambda at, piece: data.extend(piece))
        return bytes(data)
    attempts = Attempts(address)
    while True:
        try:
            whole = bytes(obstore.get_range(*client(address, "range"), start=begin, end=end))
            if len(whole) == end - begin:
                return whole
            raise ShortBody(f"{len(whole)} of {end - begin} bytes")
        except Exception as error:
            attempts.pause(_explained(error, address), at=begin)


def size_of(address: str) -> int:
    """The size of a file in bytes."""
    info = file_info(address)
    if info is None:
        raise _absent(address)
    return info["size"]


def file_info(address: str) -> dict[str, Any] | None:
    """`size`, `e_tag` and `last_modified` of a file; None if a bucket has none of this name."""
    return object_info(address) if parse(address).scheme in BUCKETS else _web_info(address)


def _absent(address: str) -> DataError:
    error = DataError(
        redacted(address), "cannot be read (HTTP 404)", "check the address and that you may read it"
    )
    error.__cause__ = FileNotFoundError(redacted(address))
    return error


def _web_info(address: str) -> dict[str, Any]:
    """As `file_info`, of a website: from the answer to a request for one byte.

    Signed addresses allow no other kind of request.
    """

    import obstore

    def ask() -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        try:
            _request(address, (0, 1), lambda data: None, None, about=found)
        except _NoRanges:  # or the file is empty
            info = call(obstore.head_async, address)
            if info["size"]:
                raise
            return info
        except Exception as error:
            if status_of(error) != 416:  # nothing to satisfy the range: an empty file
                raise
            return {"size": 0, "e_tag": None, "last_modified": None}
        return found[0]

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
    about: list[dict[str, Any]] | None = None,
) -> None:
    """One request for the bytes of `limits` (None: all of the file); bytes may arrive before an error."""
    if stop is not None and stop.is_set():
        raise Stopped
    gate = _Gate(sink)
    try:
        wait(_get(address, limits, gate, about), stop)
    except Exception as error:
        raise _explained(error, address) from error
    finally:
        gate.close()


def _explained(error: Exception, address: str) -> Exception:
    """`error`, or one that says more of it."""
    if "Range request not supported" in str(error):
        what = "the server does not answer requests for a part of a file (ranges)"
        return _NoRanges(redacted(address), what, "use one that does, or download it and name it here")
    if parse(address).scheme not in BUCKETS and (status := status_of(error)) in (429, 503):
        return Busy(status, asked_pause(address))
    return error


async def _get(
    address: str, limits: tuple[int, int] | None, sink: Sink, about: list[dict[str, Any]] | None
) -> None:
    import obstore

    store, path = client(address)
    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(clients.STALL_S) as patience:
        answer = await obstore.get_async(store, path, options={"range": limits} if limits else None)
        if limits and answer.range != limits:
            raise _OtherRange("another range than asked for")
        if about is not None:
            about.append(dict(answer.meta))
        begin, end = answer.range
        received = 0
        async for data in answer.stream(PIECE_BYTES):
            patience.reschedule(clock() + clients.STALL_S)
            received += len(data)
            if received > end - begin:
                raise _OtherRange(f"more than {end - begin} bytes")
            sink(bytes(data))
    if received != end - begin:
        raise ShortBody(f"{received} of {end - begin} bytes")


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
