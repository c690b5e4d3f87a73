"""Files that appear whole or not at all, and their checksums."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import DataError

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_write(path: Path, *, token: str = "") -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` only when the block ends without an error.

    The bytes are flushed to the disk before the rename, and the rename itself before this returns: after a
    power loss the file is absent, old or new, never partial. `token` joins the temporary name: with one of
    their own, several processes may write the same path at once, and the last rename wins.
    """
    temporary = path.with_name(
        f"{path.name}.{token}{TEMPORARY_SUFFIX}" if token else path.name + TEMPORARY_SUFFIX
    )
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `json_bytes`, atomically."""
    with atomic_write(path) as file:
        file.write(json_bytes(value))


def read_json(path: Path, *, todo: str) -> Any:
    """The JSON value in `path`; DataError with the advice `todo` if it is missing or damaged."""
    try:
        return parse_json(path, path.read_bytes(), todo=todo)
    except FileNotFoundError:
        raise DataError(path, "no such file", todo) from None
    except OSError as error:
        raise DataError(path, f"cannot be read as JSON ({error})", todo) from error


def parse_json(path: Path | str, data: bytes, *, todo: str) -> Any:
    """As `read_json`, of the bytes `data` of `path`."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(path, f"cannot be read as JSON ({error})", todo) from error


def canonical_sha256(value: Any) -> str:
    """sha256 of `value` as JSON with sorted keys and no spaces: independent of layout and key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
