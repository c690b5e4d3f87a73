"""What a store has and takes, object by object: look, list, put, create, delete. Reading is `download`'s.

An object appears whole or not at all; there are no folders.
"""

import io
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, BinaryIO

from streamgan.core.errors import ConfigError

from .address import parse
from .client import call, client, wait
from .providers import boto3_session
from .retry import status_of, with_retries

PART_BYTES = 16 << 20  # of an upload; S3 takes 10,000 parts of at least 5 MiB
NUM_PARTS = 4  # of an upload, at once


def object_info(address: str) -> dict[str, Any] | None:
    """`size`, `e_tag` and `last_modified` of an object; None if there is none of this name."""
    import obstore

    def ask() -> Any:
        with suppress(FileNotFoundError):
            return call(obstore.head_async, address)

    return with_retries(address, ask)


def object_size(address: str) -> int | None:
    """Bytes of an object; None if there is none of this name, perhaps only some below it."""
    info = object_info(address)
    return info["size"] if info else None


def object_tree(prefix: str) -> dict[str, dict[str, Any]]:
    """`object_info` of every object below a prefix, by its name relative to the prefix."""
    import obstore

    async def ask() -> Any:
        store, path = client(prefix)
        return path, await obstore.list(store, path).collect_async()

    path, found = with_retries(prefix, lambda: wait(ask()))
    start = f"{path}/" if path else ""
    folders = {info["path"].rpartition("/")[0] for info in found}
    # Web consoles mark a folder with an empty object, whose name ends with a slash that obstore does not tell
    marks = {info["path"] for info in found if not info["size"]} & {path, *folders}
    return {info["path"].removeprefix(start): info for info in found if info["path"] not in marks}


def modified(address: str) -> datetime | None:
    """When an object was written, by the clock of the store; None if there is no such object."""
    info = object_info(address)
    return info["last_modified"] if info else None


def put(address: str, data: bytes) -> None:
    """In one request, so for small objects only."""
    import obstore

    with_retries(address, lambda: call(obstore.put_async, address, data, use_multipart=False), to="write")


def create(address: str, data: bytes) -> bool:
    """As `put` unless there is such an object already; False if there is, so far as this answer tells.

    A store without conditional requests (HTTP 501) is looked at first, which two programs may do at once.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    def ask() -> bool:
        try:
            call(obstore.put_async, address, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        except BaseError as error:
            if status_of(error) != 501:
                raise
            if object_size(address) is not None:
                return False
            put(address, data)
        return True

    return with_retries(address, ask, to="write")


def delete(address: str) -> None:
    """Nothing if it is not there."""
    import obstore

    def ask() -> None:
        with suppress(FileNotFoundError):
            call(obstore.delete_async, address)

    with_retries(address, ask, to="write")


def upload(address: str, file: BinaryIO) -> None:
    """The content of a file of any size, in parts if it is large."""
    import obstore

    size = file.seek(0, io.SEEK_END)
    how: dict[str, Any] = {"use_multipart": size > PART_BYTES, "chunk_size": PART_BYTES}

    def ask() -> None:
        file.seek(0)
        call(obstore.put_async, address, file, use="parts", max_concurrency=NUM_PARTS, **how)

    with_retries(address, ask, to="write")


def abort_uploads(prefix: str, wanted: Callable[[str], bool]) -> None:
    """Give up uploads in parts below a prefix that nobody has completed, of names that are `wanted`.

    S3 keeps, and charges for, their parts until then; others forget them by themselves. obstore cannot list
    them, so this is boto3's.
    """
    if parse(prefix).scheme != "s3":
        return
    bucket, _, folder = parse(prefix).rest.partition("/")
    try:
        session = boto3_session(bucket)
        from botocore.config import Config
    except ImportError as error:
        todo = "install it with: pip install 'streamgan[remote]'"
        raise ConfigError("s3://", "writing there needs a library (boto3)", todo) from error
    where = {"Bucket": bucket, "Prefix": f"{folder}/" if folder else ""}
    once = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})

    def listed() -> list[tuple[str, str]]:
        pages = s3.get_paginator("list_multipart_uploads").paginate(**where)
        return [(one["Key"], one["UploadId"]) for page in pages for one in page.get("Uploads", [])]

    def abort(key: str, number: str) -> None:
        with suppress(s3.exceptions.NoSuchUpload):  # completed or given up meanwhile
            s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=number)

    s3 = session.client("s3", config=once)
    try:
        for key, number in with_retries(prefix, listed):
            if wanted(key.removeprefix(where["Prefix"])):
                with_retries(prefix, lambda key=key, number=number: abort(key, number), to="write")
    finally:
        s3.close()
