"""Files that appear whole or not at all, on a disk or in a bucket, and their checksums."""

import hashlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from streamgan.core.errors import DataError, file_error

from .address import is_address
from .place import Place, place


def atomic_write(path: Path | Place, *, token: str = "") -> AbstractContextManager[BinaryIO]:
    """A binary file that takes its name when the block ends without an error: see `LocalPath.writing`."""
    return place(path).writing(token=token)


def json_bytes(value: Any) -> bytes:
    """`value` as indented JSON. Equal values give equal bytes."""
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False).encode() + b"\n"


def write_json(path: Path | Place, value: Any) -> None:
    """Write `value` as `json_bytes`, atomically."""
    with atomic_write(path) as file:
        file.write(json_bytes(value))


def read_json(path: Path | Place, *, todo: str) -> Any:
    """The JSON value in `path`; DataError with the advice `todo` if it is missing or damaged."""
    try:
        return parse_json(path, path.read_bytes(), todo=todo)
    except FileNotFoundError:
        raise DataError(path, "no such file", todo) from None
    except OSError as error:
        raise file_error(error, path, what="cannot be read") from error


def parse_json(path: Path | Place | str, data: bytes, *, todo: str) -> Any:
    """As `read_json`, of the bytes `data` of `path`."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        if data.lstrip().startswith(b"<"):
            if is_address(str(path)):
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


def sha256_file(path: Path | Place) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with place(path).open_binary() as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
