"""Where a shard set lies: a folder of a disk, a prefix of a bucket, or, to be read alone, a website.

All three are asked in the same way, through a few methods of `pathlib.Path` and some of our own. In a bucket
there are no folders; a name with a slash is all there is. Files appear whole or not at all.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

from streamgan.core.errors import FULL, ConfigError, DataError

from . import store
from .address import BUCKETS, is_address, is_remote, join, parse, redacted
from .download import RangeFile, read_whole, size_of
from .hub import pinned
from .local import LocalPath, read_small
from .retry import is_absent

NUM_REQUESTS = 16  # to a bucket, at once
_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class ObjectPath:
    """An object of a bucket, or the prefix of a set of them. `url` has no slash at its end."""

    url: str

    def __str__(self) -> str:
        return redacted(self.url)

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        return type(self)(self.url.rpartition("/")[0])

    def absolute(self) -> Self:
        return self

    def _size(self) -> int | None:
        return store.object_size(self.url)

    def exists(self) -> bool:
        """Whether there is an object of this name; not so for a prefix."""
        return self._size() is not None

    def is_file(self) -> bool:
        return self.exists()

    def size(self) -> int:
        size = self._size()
        if size is None:
            raise FileNotFoundError(str(self))
        return size

    def tree(self) -> dict[str, dict[str, Any]]:
        """What the store says of every object below this prefix, by its name relative to the prefix."""
        return store.object_tree(self.url)

    def sizes(self) -> dict[str, int]:
        return {name: info["size"] for name, info in self.tree().items() if "/" not in name}

    def names(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self.tree()})

    def iterdir(self) -> Iterator[Self]:
        """Every object below."""
        return (self / name for name in self.tree())

    def open_binary(self) -> io.BufferedReader:
        """In few and large requests."""
        return io.BufferedReader(RangeFile(self.url, self.size()), _READ_BYTES)

    def read_bytes(self) -> bytes:
        try:
            return read_whole(self.url)
        except DataError as error:
            if is_absent(error.__cause__):
                raise FileNotFoundError(str(self)) from error
            raise

    def read_many(self, names: Sequence[str]) -> Iterator[bytes]:
        with ThreadPoolExecutor(NUM_REQUESTS) as pool:
            yield from pool.map(read_small, [self / name for name in names])

    def create(self, data: bytes) -> bool:
        return store.create(self.url, data) or self.read_bytes() == data  # perhaps without an answer

    def write_bytes(self, data: bytes) -> None:
        """In one request, so for small objects only."""
        store.put(self.url, data)

    def touch(self) -> None:
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok and not self.exists():
            raise FileNotFoundError(str(self))
        store.delete(self.url)

    def modified(self) -> datetime | None:
        """When it was written, by the clock of the store; None if there is no such object."""
        return store.modified(self.url)

    @contextmanager
    def writing(self, *, token: str = "", lasting: bool = True) -> Iterator[BinaryIO]:
        """As `LocalPath.writing`: a temporary file here first, uploaded when it is complete."""
        try:
            with tempfile.TemporaryFile(prefix="streamgan-") as file:  # no name: a killed process leaves none
                yield file
                file.flush()
                store.upload(self.url, file)
        except OSError as error:
            if error.errno not in FULL:
                raise
            what = f"the disk is full (a file on its way to {self})"
            raise DataError(tempfile.gettempdir(), what, "make room, or set TMPDIR") from error

    def keep(self) -> None:
        """What a store has taken stays."""


class WebPath(ObjectPath):
    """A file, or the folder of a set, at https:// or hf://, to be read. Nobody can list it."""

    def __truediv__(self, name: str) -> Self:
        return type(self)(join(self.url, name))

    def tree(self) -> dict[str, dict[str, Any]]:
        return {}

    def _size(self) -> int | None:
        try:
            return size_of(self.url)
        except DataError as error:
            if is_absent(error.__cause__):
                return None
            raise


Place = LocalPath | ObjectPath


def place(path: Path | str | Place) -> Place:
    """The folder or prefix `path`; ConfigError if it is an address where nothing can be written."""
    if isinstance(path, LocalPath | ObjectPath):
        return path
    text = str(path)
    if isinstance(path, Path) or not is_address(text):
        return LocalPath(text)
    address = parse(text)
    if address.scheme not in BUCKETS:
        what = f"cannot hold a shard set ({address.scheme}:// is for reading, if anything)"
        raise ConfigError(redacted(text), what, "name a folder, s3://BUCKET/PREFIX, gs:// or az://")
    if not address.rest.strip("/"):
        raise ConfigError(redacted(text), "names no bucket", f"write {address.scheme}://BUCKET/PREFIX")
    if "@" in address.root and not address.scheme.startswith("abfs"):
        todo = "leave them to the settings of your provider (AWS_PROFILE, gcloud, ...)"
        raise ConfigError(redacted(text), "holds credentials", todo)
    return ObjectPath(text.rstrip("/"))


def readable(root: Path | str | Place) -> Place:
    """The folder, bucket or web address of a set that is only read; ConfigError if nothing can read it."""
    if isinstance(root, str) and is_remote(root) and parse(root).scheme not in BUCKETS:
        return WebPath(pinned(root).rstrip("/"))
    return place(root)
