"""Objects in a bucket, asked like files through the few methods of `pathlib.Path` that a shard set needs.

An object appears whole or not at all: it is written to a temporary file here first and uploaded when that is
complete, in parts if it is large. There are no folders; a name with a slash is all there is.
"""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from streamgan.core.errors import FULL, ConfigError, DataError

from .remote import RangeFile, filesystem, redacted, status_of, with_retries

SCHEMES = ("s3", "gs")
PART_BYTES = 16 << 20  # of an upload; S3 takes 10,000 parts of at least 5 MiB
_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class ObjectPath:
    """An object, or the prefix of a set of them. `url` has no slash at its end."""

    url: str

    def __str__(self) -> str:
        return redacted(self.url)

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self.url.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is an object of this name; not so for a prefix."""
        return self._info() is not None

    def is_file(self) -> bool:
        return self.exists()

    def size(self) -> int:
        info = self._info()
        if info is None:
            raise FileNotFoundError(str(self))
        return info["size"]

    def tree(self) -> dict[str, dict[str, Any]]:
        """What the store says of every object below this prefix, by its name relative to the prefix."""

        def ask() -> dict[str, Any]:
            return filesystem(self.url).find(self.url, detail=True)

        start = self.url.partition("://")[2] + "/"
        found = with_retries(self.url, ask).items()
        below = {name.removeprefix(start): info for name, info in found if name.startswith(start)}
        below.pop("", None)  # how web consoles make an empty folder
        return below

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Every object below."""
        return (self / name for name in self.tree())

    def open(self) -> io.BufferedReader:
        """For reading at any position, in few and large requests."""
        return io.BufferedReader(RangeFile(self.url, self.size()), _READ_BYTES)

    def read_bytes(self) -> bytes:
        """All of it; FileNotFoundError if there is no such object."""

        def ask() -> bytes | None:
            try:
                return filesystem(self.url).cat_file(self.url)
            except FileNotFoundError:
                return None

        data = with_retries(self.url, ask)
        if data is None:
            raise FileNotFoundError(str(self))
        return data

    def write_bytes(self, data: bytes) -> None:
        """In one request, so for small objects only."""
        self._patiently(lambda: filesystem(self.url).pipe_file(self.url, data))

    def create(self, data: bytes) -> bool:
        """As `write_bytes` unless there is such an object already; whether it was written.

        A store without conditional requests (HTTP 501) is looked at first, which two programs may do at once.
        """

        def ask() -> bool:
            fs = filesystem(self.url)
            try:
                fs.pipe_file(self.url, data, mode="create")
            except Exception as error:
                if isinstance(error, FileExistsError) or status_of(error) == 412:
                    return False
                if status_of(error) != 501:
                    raise
                if self.exists():
                    return False
                fs.pipe_file(self.url, data)
            return True

        return self._patiently(ask) or self.read_bytes() == data  # an attempt may succeed without an answer

    def modified(self) -> datetime | None:
        """When it was written, by the clock of the store; None if there is no such object."""

        def ask() -> datetime | None:
            try:
                return filesystem(self.url).modified(self.url)
            except FileNotFoundError:
                return None

        return with_retries(self.url, ask)

    def touch(self) -> None:
        self.write_bytes(b"")

    def unlink(self, *, missing_ok: bool = False) -> None:
        if not missing_ok and not self.exists():
            raise FileNotFoundError(str(self))

        def ask() -> None:
            with suppress(FileNotFoundError):
                filesystem(self.url).rm_file(self.url)

        self._patiently(ask)

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """A file that becomes this object when the block ends without an error."""
        try:
            with tempfile.TemporaryFile(prefix="streamgan-") as file:  # no name: a killed process leaves none
                yield file
                file.flush()
                self._patiently(lambda: self._upload(file))
        except OSError as error:
            if error.errno not in FULL:
                raise
            what = f"the disk is full (a file on its way to {self})"
            raise DataError(tempfile.gettempdir(), what, "make room, or set TMPDIR") from error

    def abort_uploads(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Give up uploads in parts below this prefix that nobody has completed, of names that are `wanted`.

        S3 keeps, and charges for, their parts until then; Google Cloud forgets them by itself.
        """
        if not self.url.startswith("s3://"):
            return
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        fs, where = filesystem(self.url), {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
        more: dict[str, Any] = {}
        while True:
            answer = with_retries(
                self.url, lambda more=more: fs.call_s3("list_multipart_uploads", **where, **more)
            )
            for upload in answer.get("Uploads", []):
                key, number = upload["Key"], upload["UploadId"]
                if wanted(key.removeprefix(where["Prefix"])):
                    self._patiently(lambda key=key, number=number: _abort(fs, bucket, key, number))
            if not answer.get("IsTruncated"):
                return
            more = {
                "KeyMarker": answer["NextKeyMarker"],
                "UploadIdMarker": answer["NextUploadIdMarker"],
            }

    def _patiently(self, action: Callable[[], Any]) -> Any:
        return with_retries(self.url, action, to="write")

    def _info(self) -> dict[str, Any] | None:
        def ask() -> dict[str, Any] | None:
            try:
                return filesystem(self.url).info(self.url)
            except FileNotFoundError:
                return None

        info = with_retries(self.url, ask)
        return info if info and info["type"] == "file" else None

    def _upload(self, file: BinaryIO) -> None:
        fs, size = filesystem(self.url), file.seek(0, io.SEEK_END)
        file.seek(0)
        if size <= PART_BYTES:
            fs.pipe_file(self.url, file.read())
            return
        # not a `with` block: that would complete what an error has cut
        upload = fs.open(self.url, "wb", block_size=PART_BYTES, autocommit=False)
        try:
            shutil.copyfileobj(file, upload, PART_BYTES)
            upload.close()
            upload.commit()
        except BaseException:
            upload.closed = True
            with suppress(Exception):  # the first error counts; what is left here is given up at the end
                upload.discard()
            raise


Place = Path | ObjectPath


def place(path: Path | str | ObjectPath) -> Place:
    """The folder or prefix `path`; ConfigError if it is an address where nothing can be written."""
    if not isinstance(path, str) or "://" not in path:
        return path if isinstance(path, ObjectPath) else Path(path)
    scheme, _, rest = path.partition("://")
    if scheme not in SCHEMES:
        what = f"cannot hold a shard set ({scheme}:// is for reading, if anything)"
        raise ConfigError(redacted(path), what, "name a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    if not rest.strip("/"):
        raise ConfigError(redacted(path), "names no bucket", f"write {scheme}://BUCKET/PREFIX")
    if "@" in rest.partition("/")[0]:
        todo = "leave them to the settings of your provider (AWS_PROFILE, gcloud, ...)"
        raise ConfigError(redacted(path), "holds credentials", todo)
    return ObjectPath(path.rstrip("/"))


def _abort(fs: Any, bucket: str, key: str, number: str) -> None:
    with suppress(FileNotFoundError):  # completed or given up meanwhile
        fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=number)
