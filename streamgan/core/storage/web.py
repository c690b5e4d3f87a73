"""Files of a set at any address that can be read, through the methods that `ObjectPath` has for buckets.

A website lists nothing and takes nothing, so there is only the reading half. Requests go through `download`,
which tries again what may pass.
"""

import io
from dataclasses import dataclass
from typing import Any

from streamgan.core.errors import DataError

from .download import read_range, read_whole, size_of
from .objects import SCHEMES as BUCKETS
from .objects import ObjectPath, Place, place
from .remote import RangeFile, is_remote, join, pinned, status_of

_READ_BYTES = 8 << 20
_ABSENT = (404, 410)


@dataclass(frozen=True)
class WebPath(ObjectPath):
    """A file, or the folder of a set, at https:// or hf://."""

    def __truediv__(self, name: str) -> "WebPath":
        return WebPath(join(self.url, name))

    def tree(self) -> dict[str, dict[str, Any]]:
        return {}  # nobody can list it

    def open(self) -> io.BufferedReader:
        return io.BufferedReader(_Ranges(self.url, self.size()), _READ_BYTES)

    def read_bytes(self) -> bytes:
        try:
            return read_whole(self.url)
        except DataError as error:
            if _is_absent(error):
                raise FileNotFoundError(str(self)) from error
            raise

    def _info(self) -> dict[str, Any] | None:
        try:
            return {"type": "file", "size": size_of(self.url)}
        except DataError as error:
            if _is_absent(error):
                return None
            raise


class _Ranges(RangeFile):
    """As its parent, without a file of fsspec's, which explains itself in its own words."""

    def __init__(self, path: str, size: int):
        io.RawIOBase.__init__(self)
        self.path, self.size, self.position = path, size, 0

    def read(self, size: int = -1) -> bytes:
        begin = self.position
        end = self.size if size is None or size < 0 else min(self.size, begin + size)
        if begin >= end:
            return b""
        data = read_range(self.path, begin, end)
        self.position = end
        return data


def _is_absent(error: DataError) -> bool:
    cause = error.__cause__
    return isinstance(cause, FileNotFoundError) or (cause is not None and status_of(cause) in _ABSENT)


def readable(root: Place | str) -> Place:
    """The folder, bucket or web address of a set that is only read; ConfigError if nothing can read it."""
    if isinstance(root, str) and is_remote(root) and root.partition("://")[0] not in BUCKETS:
        return WebPath(pinned(root).rstrip("/"))
    return place(root)
