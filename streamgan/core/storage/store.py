"""What a store has and takes, object by object, through fsspec: look, list, put, create, delete.

Reading is `download`'s. An object appears whole or not at all; there are no folders.
"""

import asyncio
import atexit
import functools
import io
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, BinaryIO

from streamgan.core.errors import ConfigError

from .address import BUCKETS, parse
from .retry import status_of, with_retries

PART_BYTES = 16 << 20  # of an upload; S3 takes 10,000 parts of at least 5 MiB


def filesystem(address: str) -> Any:
    """The fsspec filesystem of an address; ConfigError if its library is not installed."""
    return _filesystem(parse(address).scheme, os.getpid())


@functools.cache
def _filesystem(scheme: str, pid: int) -> Any:  # the connections of one process are of no use to its child
    import fsspec

    atexit.register(_end_requests)
    # a cached listing hides what other processes have written since
    options = {"use_listings_cache": False} if scheme in BUCKETS else {}
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


def _unless_absent(address: str, action: Callable[[], Any]) -> Any:
    """What `action` returns, with retries; None if there is no such object."""

    def ask() -> Any:
        with suppress(FileNotFoundError):
            return action()

    return with_retries(address, ask)


def object_size(address: str) -> int | None:
    """Bytes of an object; None if there is none of this name, perhaps only some below it."""
    info = _unless_absent(address, lambda: filesystem(address).info(address))
    return info["size"] if info and info["type"] == "file" else None


def object_tree(prefix: str) -> dict[str, dict[str, Any]]:
    """What the store says of every object below a prefix, by its name relative to the prefix."""
    start = parse(prefix).rest + "/"
    found = with_retries(prefix, lambda: filesystem(prefix).find(prefix, detail=True)).items()
    below = {name.removeprefix(start): info for name, info in found if name.startswith(start)}
    below.pop("", None)  # how web consoles make an empty folder
    return below


def modified(address: str) -> datetime | None:
    """When an object was written, by the clock of the store; None if there is no such object."""
    return _unless_absent(address, lambda: filesystem(address).modified(address))


def put(address: str, data: bytes) -> None:
    """In one request, so for small objects only."""
    with_retries(address, lambda: filesystem(address).pipe_file(address, data), to="write")


def create(address: str, data: bytes) -> bool:
    """As `put` unless there is such an object already; False if there is, so far as this answer tells.

    A store without conditional requests (HTTP 501) is looked at first, which two programs may do at once.
    """

    def ask() -> bool:
        fs = filesystem(address)
        try:
            fs.pipe_file(address, data, mode="create")
        except Exception as error:
            if isinstance(error, FileExistsError) or status_of(error) == 412:
                return False
            if status_of(error) != 501:
                raise
            if object_size(address) is not None:
                return False
            fs.pipe_file(address, data)
        return True

    return with_retries(address, ask, to="write")


def delete(address: str) -> None:
    """Nothing if it is not there."""

    def ask() -> None:
        with suppress(FileNotFoundError):
            filesystem(address).rm_file(address)

    with_retries(address, ask, to="write")


def upload(address: str, file: BinaryIO) -> None:
    """The content of a file of any size, in parts if it is large."""
    size = file.seek(0, io.SEEK_END)

    def ask() -> None:
        fs = filesystem(address)
        file.seek(0)
        if size <= PART_BYTES:
            fs.pipe_file(address, file.read())
            return
        # not a `with` block: that would complete what an error has cut
        upload = fs.open(address, "wb", block_size=PART_BYTES, autocommit=False)
        try:
            shutil.copyfileobj(file, upload, PART_BYTES)
            upload.close()
            upload.commit()
        except BaseException:
            upload.closed = True
            with suppress(Exception):  # the first error counts; what is left here is given up at the end
                upload.discard()
            raise

    with_retries(address, ask, to="write")


def abort_uploads(prefix: str, wanted: Callable[[str], bool]) -> None:
    """Give up uploads in parts below a prefix that nobody has completed, of names that are `wanted`.

    S3 keeps, and charges for, their parts until then; Google Cloud forgets them by itself.
    """
    if parse(prefix).scheme != "s3":
        return
    bucket, _, folder = parse(prefix).rest.partition("/")
    fs, where = filesystem(prefix), {"Bucket": bucket, "Prefix": f"{folder}/" if folder else ""}

    def abort(key: str, number: str) -> None:
        with suppress(FileNotFoundError):  # completed or given up meanwhile
            fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=number)

    more: dict[str, Any] = {}
    while True:
        answer = with_retries(prefix, lambda more=more: fs.call_s3("list_multipart_uploads", **where, **more))
        for one in answer.get("Uploads", []):
            key, number = one["Key"], one["UploadId"]
            if wanted(key.removeprefix(where["Prefix"])):
                with_retries(prefix, lambda key=key, number=number: abort(key, number), to="write")
        if not answer.get("IsTruncated"):
            return
        more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
