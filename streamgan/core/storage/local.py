"""Files of this machine as paths that a shard set can lie at: they appear whole or not at all."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PosixPath
from typing import BinaryIO, Protocol

from streamgan.core.errors import DataError

TEMPORARY_SUFFIX = ".tmp"
_LONGEST_STEM = 64  # bytes of a name that a temporary one still shows


class LocalPath(PosixPath):
    """A file or folder of this machine, as a pathlib.Path."""

    def size(self) -> int:
        return self.stat().st_size

    def sizes(self) -> dict[str, int]:
        """Size in bytes by name of the files right in this folder; nothing if there is no such folder."""
        if not self.is_dir():
            return {}
        sizes = {}
        with os.scandir(self) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # a temporary name, and gone
                    if entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
        return sizes

    def names(self) -> list[str]:
        """What lies right in this folder, sorted; nothing if there is no such folder."""
        return sorted(os.listdir(self)) if self.is_dir() else []

    def open_binary(self) -> io.BufferedReader:
        return open(self, "rb")

    def read_many(self, names: Sequence[str]) -> Iterator[bytes]:
        """The bytes of small files of this folder, in the order of `names`."""
        return (read_small(self / name) for name in names)

    def create(self, data: bytes) -> bool:
        """Write it unless it is there; whether it was written. To be called by one process at a time."""
        if self.exists():
            return False
        with self.writing() as file:
            file.write(data)
        return True

    @contextmanager
    def writing(self, *, token: str = "", lasting: bool = True) -> Iterator[BinaryIO]:
        """A binary file that takes this name only when the block ends without an error.

        The bytes are flushed to the disk before the rename, and the rename itself before this returns: after
        a power loss the file is absent, old or new, never partial. Not `lasting`: the rename is flushed by
        `keep` of the folder, once for all files in it. `token` joins the temporary name: with one
        of their own, several processes may write the same path at once, and the last rename wins. An OSError
        names this path, for `errors.file_error`.
        """
        temporary = temporary_path(self, token=token)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if (
                isinstance(error, OSError)
                and error.errno
                and str(error.filename or temporary) == str(temporary)
            ):
                error.filename, error.filename2 = str(self), None  # the name that the user knows
            raise
        if lasting:
            self.parent.keep()

    def keep(self) -> None:
        """Make renames and removals inside this folder survive a power loss."""
        sync_directory(self)


def temporary_path(path: Path, *, token: str = "") -> Path:
    """The name beside `path` under which it is written: its own with a suffix, or of a long one a digest.

    A name may have 255 bytes on most file systems, and then there is no room for a suffix.
    """
    name = os.fsencode(path.name)
    stem = path.name if len(name) <= _LONGEST_STEM else hashlib.sha256(name).hexdigest()[:32]
    return path.with_name(f"{stem}.{token}{TEMPORARY_SUFFIX}" if token else f"{stem}{TEMPORARY_SUFFIX}")


def sync_directory(path: Path) -> None:
    """Make renames and removals inside `path` survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Readable(Protocol):
    def read_bytes(self) -> bytes: ...


def read_small(path: _Readable) -> bytes:
    """Its bytes; DataError if they cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror or 'no such object'})"
        raise DataError(path, what, "check the disk and its permissions") from error
