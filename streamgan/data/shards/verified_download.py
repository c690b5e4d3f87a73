"""A download becomes the file that the manifest names, or an error: what differs is fetched again."""

import hashlib
import os
import threading
from collections.abc import Callable

from streamgan.core.errors import DataError, file_error
from streamgan.core.storage.address import redacted
from streamgan.core.storage.download import download, read_whole

from .node_cache import Blob

MAX_DOWNLOADS = 4  # of the same bytes, where they are not what the manifest says
_PIECE_BYTES = 4 << 20

Spans = list[tuple[int, int]]


def fill(
    descriptor: int, blob: Blob, *, damaged: Callable[[int], Spans], stop: threading.Event | None = None
) -> None:
    """Complete a partial download; DataError if it does not become the blob.

    Whatever is there already is kept. If the sha256 is another one, `damaged` tells which stretches are
    wrong, and only those are fetched anew; if it knows of none, everything is.
    """

    def write(offset: int, data: bytes) -> None:
        _write(descriptor, offset, data)

    for attempt in range(1, MAX_DOWNLOADS + 1):
        if os.fstat(descriptor).st_size > blob.bytes:
            os.ftruncate(descriptor, 0)
        download(blob.address, os.fstat(descriptor).st_size, blob.bytes, write, stop=stop)
        if sha256_of(descriptor) == blob.sha256:
            return
        wrong = damaged(descriptor) if attempt < MAX_DOWNLOADS - 1 else []
        for begin, end in wrong:
            download(blob.address, begin, end, write, stop=stop)
        if not wrong:
            os.ftruncate(descriptor, 0)
    raise never_right(blob.address)


def fill_small(descriptor: int, blob: Blob, *, stop: threading.Event | None = None) -> None:
    """As `fill`, of a small file whose size nobody knows: `blob.bytes` are enough for it."""
    data = read_sealed(blob.address, blob.sha256, stop=stop)
    os.ftruncate(descriptor, 0)
    _write(descriptor, 0, data)


def read_sealed(address: str, sha256: str, *, stop: threading.Event | None = None) -> bytes:
    """All bytes of a small file; DataError if they do not become what the manifest says."""
    for _ in range(MAX_DOWNLOADS):
        data = read_whole(address, stop=stop)
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    raise never_right(address)


def _write(descriptor: int, offset: int, data: bytes) -> None:
    try:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
    except OSError as error:
        then = "lower data.cache_gb or choose another data.cache"
        raise file_error(error, "data.cache", what="cannot be written", then=then) from error


def never_right(address: str) -> DataError:
    """What is at `address` is not what the manifest promises, however often it is downloaded."""
    what = f"is not what the manifest says (sha256, {MAX_DOWNLOADS} downloads)"
    todo = "run `streamgan verify` where the set was made, restore it there"
    return DataError(redacted(address), what, todo)


def sha256_of(descriptor: int) -> str:
    hasher, offset = hashlib.sha256(), 0
    while data := os.pread(descriptor, _PIECE_BYTES, offset):
        hasher.update(data)
        offset += len(data)
    return hasher.hexdigest()
