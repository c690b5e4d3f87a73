"""Where source files lie: on this machine, or anywhere that fsspec can list and read by range.

A remote file is read in pieces, each of which is asked for again, after a pause, when the network or the
server fails. Nothing is downloaded whole but single images. Messages name an address without its query and
its credentials, and an error by its kind alone: either may hold a token.
"""

import functools
import glob
import io
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from streamgan.core.errors import ConfigError, DataError, StreamganError

SCHEMES = ("s3", "gs", "https", "http", "hf")
RETRY_DELAYS_S = (0.2, 1.0, 4.0, 10.0)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BUSY = (408, 425, 429)  # HTTP: timed out, too early, too many requests; and everything from 500
_NETWORK_LIBRARIES = (
    "aiohttp",
    "botocore",
    "aiobotocore",
    "httpx",
    "httpx2",
    "httpcore",
    "urllib3",
    "requests",
)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Found:
    """A file of a source: its path or address, the folder it was asked for in, its size where that is known.

    `origin` names a pinned version of a repository of the Hub.
    """

    path: str
    base: str
    bytes: int | None = None
    origin: str | None = None


def is_remote(path: str) -> bool:
    """Whether `path` is an address; ConfigError if it is one that cannot be read."""
    scheme, mark, rest = path.partition("://")
    if not mark:
        return False
    if scheme not in SCHEMES:
        what = f"cannot read {scheme}:// (it reads {', '.join(SCHEMES)})"
        raise ConfigError(shown(path), what, "download it and name the folder")
    if scheme == "http" and urlsplit(path).hostname not in _LOOPBACK:
        raise ConfigError(shown(path), f"plain http from {rest.partition('/')[0]}", "use https")
    return True


def shown(path: str) -> str:
    """`path` as it may stand in a message or a manifest: no user, no password, no query."""
    if "://" not in path:
        return path
    parts = urlsplit(path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme != "hf" else path


def find(source: str, suffixes: tuple[str, ...]) -> list[Found]:
    """Files under `source` (a file, a folder, a glob) that end in `suffixes`, or the one that is named."""
    return _find_remote(source, suffixes) if is_remote(source) else _find_local(source, suffixes)


def _wanted(relative: PurePosixPath, suffixes: tuple[str, ...]) -> bool:
    # download caches and desktops keep files of their own in dotted names
    dotted = any(part.startswith(".") for part in relative.parts)
    return not dotted and relative.name.lower().endswith(suffixes)


def _find_local(source: str, suffixes: tuple[str, ...]) -> list[Found]:
    matches = [source] if os.path.exists(source) else sorted(glob.glob(source, recursive=True))
    if not matches:
        raise DataError(source, "no such file or folder, nor a pattern that matches one", "check the path")
    found = []
    for match in map(os.path.abspath, matches):
        if not os.path.isdir(match):
            found.append(Found(match, os.path.dirname(match)))
            continue
        for folder, _, names in os.walk(match):
            relative = Path(folder).relative_to(match).as_posix()
            found += [
                Found(os.path.join(folder, name), match)
                for name in names
                if _wanted(PurePosixPath(relative, name), suffixes)
            ]
    return found


def _find_remote(source: str, suffixes: tuple[str, ...]) -> list[Found]:
    scheme = source.partition("://")[0]
    if scheme in ("http", "https"):  # there is no listing
        size = patiently(source, lambda: filesystem(source).info(source)["size"])
        if size is None:
            raise DataError(shown(source), "the server does not say its size", "download it first")
        return [Found(source, shown(source).rpartition("/")[0], size)]

    def listing() -> dict[str, Any]:
        fs = filesystem(source)
        fs.invalidate_cache()
        if any(letter in source for letter in "*?["):
            listed = fs.glob(source, detail=True)
            base = source[: min(source.find(letter) for letter in "*?[" if letter in source)]
            return {"base": base.rpartition("/")[0], "files": listed}
        listed = fs.find(source, detail=True)
        names = {fs._strip_protocol(source)}
        single = set(listed) == names
        return {"base": source.rstrip("/").rpartition("/")[0] if single else source, "files": listed}

    answer = patiently(source, listing)
    base = answer["base"].rstrip("/")
    root = PurePosixPath(base.partition("://")[2])
    files = [info for info in answer["files"].values() if info["type"] == "file"]
    if not files:
        raise DataError(source, "no such file or folder, or an empty one", "check the address")
    return [
        Found(f"{scheme}://{info['name']}", base, info["size"])
        for info in files
        if len(files) == 1 or _wanted(PurePosixPath(info["name"]).relative_to(root), suffixes)
    ]


def relative_names(folders_and_paths: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name by path: relative to the deepest folder that holds all `folders`, with forward slashes."""
    parts = {path: (_parts(folder), _parts(path)) for folder, path in folders_and_paths}
    schemes = {path.partition("://")[0] if "://" in path else "" for path in parts}
    if len(schemes) > 1:
        raise ConfigError(
            ", ".join(sorted(map(shown, parts))[:2]), "lie in different kinds of storage", "shard them apart"
        )
    levels = zip(*(folder for folder, _ in parts.values()), strict=False)
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return {path: "/".join(names[common:]) for path, (_, names) in parts.items()}


def _parts(path: str) -> list[str]:
    return (shown(path) if "://" in path else Path(path).as_posix()).split("/")


def filesystem(path: str) -> Any:
    """The fsspec filesystem of an address; ConfigError if its library is not installed."""
    return _filesystem(path.partition("://")[0])


@functools.cache
def _filesystem(scheme: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        todo = "install it with: pip install 'streamgan[remote]'"
        raise ConfigError(f"{scheme}://", f"needs a library ({error.name or error})", todo) from error


def patiently(path: str, action: Callable[[], _T]) -> _T:
    """What `action` returns; it is repeated after pauses while it fails for reasons that may pass."""
    for delay in (*RETRY_DELAYS_S, None):
        try:
            return action()
        except StreamganError:
            raise
        except Exception as error:
            kind = _kind(error)
            if not _may_pass(error):
                if not isinstance(error, OSError | ValueError) and not _from_network(error):
                    raise  # a defect
                todo = "check the address and that you may read it"
                raise DataError(shown(path), f"cannot be read ({kind})", todo) from error
            if delay is None:
                what = f"cannot be read ({kind}, {len(RETRY_DELAYS_S) + 1} attempts)"
                raise DataError(shown(path), what, "run the same command again to continue") from error
            time.sleep(delay)
    raise AssertionError("unreachable")


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _from_network(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _NETWORK_LIBRARIES


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError) and error.__cause__:  # fsspec says so for every failure of http
        return _may_pass(error.__cause__)
    if status := _status(error):
        return status in _BUSY or status >= 500
    if isinstance(error, _LASTING) or "Credentials" in type(error).__name__:
        return False
    return isinstance(error, OSError) or _from_network(error)


def _kind(error: BaseException) -> str:
    """An error without its message, which may hold an address with a signature."""
    if isinstance(error, FileNotFoundError) and error.__cause__:
        return _kind(error.__cause__)
    status = _status(error)
    if isinstance(error, ShortBody):
        return str(error)
    return f"HTTP {status}" if status else type(error).__name__


class ShortBody(OSError):
    """An answer that ended too early."""


class RangeFile(io.RawIOBase):
    """A remote file of known size for reading at any position, without a cache: each read is one request."""

    def __init__(self, path: str, size: int):
        super().__init__()
        self.path, self.size, self.position = path, size, 0
        options = {"cache_type": "none", "size": size, "block_size": 1 << 20}
        self.file = patiently(path, lambda: filesystem(path).open(path, "rb", **options))

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
        if begin >= end:
            return b""

        def fetch() -> bytes:
            self.file.seek(begin)
            data = self.file.read(end - begin)
            if len(data) != end - begin:
                raise ShortBody(f"{len(data)} of {end - begin} bytes at {begin}")
            return data

        data = patiently(self.path, fetch)
        self.position = end
        return data


def open_file(path: str, size: int | None = None) -> io.RawIOBase | io.BufferedReader:
    """A file for reading, local or remote; `size` saves a request."""
    if "://" not in path:
        return open(path, "rb")
    return RangeFile(path, size or patiently(path, lambda: filesystem(path).info(path)["size"]))
