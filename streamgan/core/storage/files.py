"""Files that appear whole or not at all, on a disk or in a bucket, and their checksums."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from streamgan.core.errors import DataError

from .objects import ObjectPath, Place

TEMPORARY_SUFFIX = ".tmp"
NUM_REQUESTS = 16  # to a bucket, at once
_LONGEST_STEM = 64  # bytes of a name that a temporary one still shows


@contextmanager
def atomic_write(path: Place, *, token: str = "") -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` only when the block ends without an error.

    The bytes are flushed to the disk before the rename, and the rename itself before this returns: after a
    power loss the file is absent, old or new, never partial. `token` joins the temporary name: with one of
    their own, several processes may write the same path at once, and the last rename wins. Objects in a
    bucket have all of this from the store. An OSError names `path`, for `errors.file_error`.
    """
    if isinstance(path, ObjectPath):
        with path.writing() as file:
            yield file
        return
    temporary = temporary_path(path, token=token)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and str(error.filename or temporary) == str(temporary):
            error.filename, error.filename2 = str(path), None  # the name that the user knows
        raise
    sync_directory(path.parent)


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


def json_bytes(value: Any) -> bytes:
    """`value` as indented JSON. Equal values give equal bytes."""
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False).encode() + b"\n"


def write_json(path: Place, value: Any) -> None:
    """Write `value` as `json_bytes`, atomically."""
    with atomic_write(path) as file:
        file.write(json_bytes(value))


def read_json(path: Place, *, todo: str) -> Any:
    """The JSON value in `path`; DataError with the advice `todo` if it is missing or damaged."""
    try:
        return parse_json(path, path.read_bytes(), todo=todo)
    except FileNotFoundError:
        raise DataError(path, "no such file", todo) from None
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", todo) from error


def parse_json(path: Place | str, data: bytes, *, todo: str) -> Any:
    """As `read_json`, of the bytes `data` of `path`."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        if data.lstrip().startswith(b"<"):
            if "://" in str(path):
                todo = "check the address: servers answer so for what they lack, or before a login"
            raise DataError(path, "is a page of HTML or XML, not JSON", todo) from error
        raise DataError(path, f"cannot be read as JSON ({_reason(error)})", todo) from error


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}"
    words = {UnicodeDecodeError: "not UTF-8", RecursionError: "nested too deep"}
    return words.get(type(error), "a number of too many digits")


def canonical_sha256(value: Any) -> str:
    """sha256 of `value` as JSON with sorted keys and no spaces: independent of layout and key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_file(path: Place) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open_binary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_binary(path: Place) -> io.BufferedReader:
    """A file or object for reading at any position."""
    return path.open() if isinstance(path, ObjectPath) else open(path, "rb")


def file_size(path: Place) -> int:
    """Size of a file or object in bytes."""
    return path.size() if isinstance(path, ObjectPath) else path.stat().st_size


def list_names(folder: Place) -> list[str]:
    """What lies right in `folder`, sorted; nothing if there is no such folder."""
    if isinstance(folder, ObjectPath):
        return sorted({name.partition("/")[0] for name in folder.tree()})
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def file_sizes(folder: Place) -> dict[str, int]:
    """Size in bytes by name of the files right in `folder`; nothing if there is no such folder."""
    if isinstance(folder, ObjectPath):
        return {name: info["size"] for name, info in folder.tree().items() if "/" not in name}
    if not folder.is_dir():
        return {}
    sizes = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a temporary name, and gone
                if entry.is_file():
                    sizes[entry.name] = entry.stat().st_size
    return sizes


def read_many(paths: Sequence[Place]) -> Iterator[bytes]:
    """The bytes of small files in the order of `paths`; objects are asked for many at once."""
    if not any(isinstance(path, ObjectPath) for path in paths):
        yield from map(_read_bytes, paths)
        return
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        yield from pool.map(_read_bytes, paths)


def _read_bytes(path: Place) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror or 'no such object'})"
        raise DataError(path, what, "check the disk and its permissions") from error
