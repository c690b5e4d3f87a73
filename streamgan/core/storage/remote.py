"""Requests to object stores and websites through fsspec, each tried again while its failure may pass.

Messages name an address without its query and its credentials, and an error by its kind alone: either may
hold a token.
"""

import asyncio
import atexit
import functools
import io
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from streamgan.core.errors import ConfigError, DataError, StreamganError

SCHEMES = ("s3", "gs", "https", "http", "hf")
RETRY_DELAYS_S = (0.2, 1.0, 4.0, 10.0)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BUSY = (408, 425, 429)  # HTTP: timed out, too early, too many requests; and everything from 500
_BUSY_CODES = ("RequestTimeout", "OperationAborted", "ConditionalRequestConflict")  # of S3, 400 and 409
_NETWORK_LIBRARIES = (
    "aiohttp",
    "botocore",
    "aiobotocore",
    "httpx",
    "httpx2",
    "httpcore",
    "urllib3",
    "requests",
    "gcsfs",
    "google",
)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_LASTING_WORDS = ("Credentials", "ParamValidation")  # of botocore, whose errors have no useful classes
_HUB = re.compile(r"hf://(datasets/)?([\w.-]+/[\w.-]+?)(?:@(refs/(?:convert|pr)/[\w.-]+|[^/@]+))?/(.*)")

_T = TypeVar("_T")


def is_remote(path: str) -> bool:
    """Whether `path` is an address; ConfigError if it is one that cannot be read."""
    scheme, mark, rest = path.partition("://")
    if not mark:
        return False
    if scheme not in SCHEMES:
        what = f"cannot read {scheme}:// (it reads {', '.join(SCHEMES)})"
        raise ConfigError(redacted(path), what, "download it and name the folder")
    if scheme == "http" and urlsplit(path).hostname not in _LOOPBACK:
        raise ConfigError(redacted(path), f"plain http from {rest.partition('/')[0]}", "use https")
    return True


def redacted(path: str) -> str:
    """`path` as it may stand in a message or a manifest: no user, no password, no query."""
    if "://" not in path:
        return path
    parts = urlsplit(path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme != "hf" else path


def join(root: str, name: str) -> str:
    """The address of the file `name` in the folder `root`; a query stays behind the path."""
    if "://" not in root or root.startswith("hf://"):
        return f"{root.rstrip('/')}/{name}"
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def web_address(address: str) -> tuple[str, dict[str, str]]:
    """Where a request goes, and the headers it needs: files of the Hub have a web address."""
    if not address.startswith("hf://"):
        return address, {}
    match = _HUB.fullmatch(address)
    if not match or not match[4]:
        raise ConfigError(address, "not an address on the Hub", "write hf://datasets/ORG/NAME@REVISION/PATH")
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    kind, repo, revision, path = match.groups()
    revision = unquote(revision) if revision else None
    url = hf_hub_url(repo, path, repo_type="dataset" if kind else None, revision=revision)
    return url, build_hf_headers()


def pinned(address: str) -> str:
    """An address on the Hub at the commit that its revision names now; any other address as it is."""
    match = _HUB.fullmatch(f"{address.rstrip('/')}/")
    if not match:
        return address
    kind, repo, revision, path = match.groups()
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return address
    from huggingface_hub import HfApi

    wanted, kind_of = (unquote(revision) if revision else None), ("dataset" if kind else None)
    commit = with_retries(address, lambda: HfApi().repo_info(repo, repo_type=kind_of, revision=wanted).sha)
    return f"hf://{kind or ''}{repo}@{commit}/{path}".rstrip("/")


def filesystem(path: str) -> Any:
    """The fsspec filesystem of an address; ConfigError if its library is not installed."""
    return _filesystem(path.partition("://")[0], os.getpid())


@functools.cache
def _filesystem(scheme: str, pid: int) -> Any:  # the connections of one process are of no use to its child
    import fsspec

    atexit.register(_end_requests)
    # a cached listing hides what other processes have written since
    options = {"use_listings_cache": False} if scheme in ("s3", "gs") else {}
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        todo = "install it with: pip install 'streamgan[remote]'"
        raise ConfigError(f"{scheme}://", f"needs a library ({error.name or error})", todo) from error


def _end_requests() -> None:
    """Cancel what Ctrl-C has left to fsspec's thread: Python would end with a traceback for each."""
    from fsspec.asyn import get_loop

    async def cancel() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with suppress(Exception):  # nothing depends on it
        asyncio.run_coroutine_threadsafe(cancel(), get_loop()).result(2.0)


def with_retries(path: str, action: Callable[[], _T], *, to: Literal["read", "write"] = "read") -> _T:
    """What `action` returns; it is repeated after pauses while it fails for reasons that may pass."""
    failed = f"cannot be {'read' if to == 'read' else 'written'}"
    for delay in (*RETRY_DELAYS_S, None):
        try:
            return action()
        except StreamganError:
            raise
        except Exception as error:
            kind = error_kind(error)
            if not is_transient(error):
                if is_defect(error):
                    raise
                todo = f"check the address and that you may {to} it"
                raise DataError(redacted(path), f"{failed} ({kind})", todo) from error
            if delay is None:
                what = f"{failed} ({kind}, {len(RETRY_DELAYS_S) + 1} attempts)"
                raise DataError(redacted(path), what, "run the same command again to continue") from error
            time.sleep(delay)
    raise AssertionError("unreachable")


def status_of(error: BaseException) -> int | None:
    """The HTTP status of a failed request, where there was an answer."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None) or getattr(response, "status_code", None)  # aiohttp; requests
    if status is None:
        status = getattr(error, "code", None)  # gcsfs
    if isinstance(status, int):
        return status
    return status_of(error.__cause__) if error.__cause__ and isinstance(error, OSError) else None


def _code(error: BaseException) -> str:
    """The word that S3 has for a failure (NoSuchBucket, SlowDown), if it gave one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = str(response.get("Error", {}).get("Code", ""))
        return code if re.fullmatch("[A-Za-z]{1,60}", code) else ""
    return _code(error.__cause__) if error.__cause__ and isinstance(error, OSError) else ""


def is_defect(error: BaseException) -> bool:
    """Whether an error says nothing of network, server or file, and so is one of this program."""
    return not isinstance(error, OSError | ValueError) and not _from_network(error)


def _from_network(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _NETWORK_LIBRARIES


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, FileNotFoundError) and error.__cause__:  # fsspec says so for every failure of http
        return is_transient(error.__cause__)
    if status := status_of(error):
        return status in _BUSY or (status >= 500 and status != 501) or _code(error) in _BUSY_CODES
    if isinstance(error, _LASTING) or any(word in type(error).__name__ for word in _LASTING_WORDS):
        return False
    return isinstance(error, OSError) or _from_network(error)


def error_kind(error: BaseException) -> str:
    """An error without its message, which may hold an address with a signature."""
    if isinstance(error, FileNotFoundError) and error.__cause__:
        return error_kind(error.__cause__)
    if isinstance(error, BadAnswer):
        return str(error)
    status, code = status_of(error), _code(error)
    named = f"{code}, " if code else ""
    return f"{named}HTTP {status}" if status else type(error).__name__


class BadAnswer(OSError):
    """An answer other than asked for; its text is ours and may be shown."""


class ShortBody(BadAnswer):
    """An answer that ended too early."""


class RangeFile(io.RawIOBase):
    """A remote file of known size for reading at any position, without a cache: each read is one request."""

    def __init__(self, path: str, size: int):
        super().__init__()
        self.path, self.size, self.position = path, size, 0
        options = {"cache_type": "none", "size": size, "block_size": 1 << 20}
        self.file = with_retries(path, lambda: filesystem(path).open(path, "rb", **options))

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
            try:
                data = self.file.read(end - begin)
            except ValueError as error:  # so fsspec speaks of a server that sends the whole file
                what = "the server does not answer requests for a part of a file (ranges)"
                raise DataError(redacted(self.path), what, "download the file and name it here") from error
            if len(data) != end - begin:
                raise ShortBody(f"{len(data)} of {end - begin} bytes at {begin}")
            return data

        data = with_retries(self.path, fetch)
        self.position = end
        return data


def open_file(path: str, size: int | None = None) -> io.RawIOBase | io.BufferedReader:
    """A file for reading, local or remote; `size` saves a request."""
    if "://" not in path:
        return open(path, "rb")
    return RangeFile(path, size or with_retries(path, lambda: filesystem(path).info(path)["size"]))
