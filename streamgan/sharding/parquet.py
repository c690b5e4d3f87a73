"""Parquet files as a source: which columns, what is in the footers, and rows in bounded memory.

Everything that identifies a file (its relative name, size, row count, a hash of its footer) is independent
of where it lies, so that a copy of the source gives the same shard set. Of a remote file the plan reads the
footer and a worker the columns that it needs, by range.
"""

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.remote import is_remote, open_file, shown

from .rows import Cell, Row
from .storage import Found, relative_names

SUFFIX = ".parquet"
IMAGE_NAMES = ("image",)
GRAY_NAMES = ("conditioning_image", "grayscale_image")
TEXT_NAMES = ("text", "caption")
BATCH_ROWS = 16  # rows in memory at a time: 16 images of 4 MB are 64 MB
REMOTE_BUFFER_BYTES = 8 << 20  # a request a column: large, since each costs a round trip
NUM_OPEN = 64  # files whose footers a worker keeps
NUM_REQUESTS = 8  # footers of remote files that are fetched at a time
_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Column:
    """An image column: `nested` for the Hub's struct {bytes, path}, otherwise plain binary."""

    name: str
    nested: bool


@dataclass(frozen=True)
class ParquetFile:
    """One parquet file as its footer describes it. `name` is relative to the folder all files share."""

    name: str
    path: str
    bytes: int
    group_rows: tuple[int, ...]
    footer_sha256: str
    image: Column
    gray: Column | None
    text: str | None
    origin: str | None = None

    def fingerprint(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bytes": self.bytes,
            "rows": sum(self.group_rows),
            "footer_sha256": self.footer_sha256,
            **({"from": self.origin} if self.origin else {}),
        }

    def read(self, *, row_group: int, start: int, stop: int) -> Iterator[Row]:
        """Rows [start, stop) of a row group in file order, a few at a time whatever the size of the group."""
        return _read_rows(self, row_group=row_group, start=start, stop=stop)


def read_footers(
    found: Sequence[Found],
    *,
    image_column: str | None = None,
    gray_column: str | None = None,
    text_column: str | None = None,
    keep_gray: bool = True,
    keep_text: bool = False,
) -> list[ParquetFile]:
    """Every file with its footer read and its columns resolved, sorted by name; no row is read.

    Files may spell a column differently, but either all or none of them have a gray twin.
    """
    names = relative_names((one.path.rpartition("/")[0], one.path) for one in found)
    by_path = {one.path: one for one in found}
    ordered = [by_path[path] for path in sorted(names, key=lambda path: names[path])]

    def resolve(one: Found) -> ParquetFile:
        path = shown(one.path)
        metadata, size, footer_sha256 = _read_footer(one.path, one.bytes)
        schema = metadata.schema.to_arrow_schema()
        image = _find_column(path, schema, image_column, IMAGE_NAMES, "image")
        if image is None:
            raise ConfigError(
                path,
                f"no column {' or '.join(IMAGE_NAMES)} (got {', '.join(schema.names)})",
                "name the colour image with --columns image=NAME",
            )
        gray = _find_column(path, schema, gray_column, GRAY_NAMES, "gray") if keep_gray else None
        text = _find_column(path, schema, text_column, TEXT_NAMES, "text") if keep_text else None
        if keep_text and text is None:
            raise ConfigError(
                path,
                f"no column {' or '.join(TEXT_NAMES)} (got {', '.join(schema.names)})",
                "name it with --columns text=NAME, or leave out --keep-text",
            )
        return ParquetFile(
            names[one.path],
            one.path,
            size,
            tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)),
            footer_sha256,
            _image_type(path, schema, image),
            _image_type(path, schema, gray) if gray else None,
            _text_type(path, schema, text) if text else None,
            one.origin,
        )

    with ThreadPoolExecutor(NUM_REQUESTS if is_remote(found[0].path) else 1) as pool:
        files = list(pool.map(resolve, ordered))
    with_twin = [file for file in files if file.gray]
    if with_twin and len(with_twin) < len(files):
        without = next(file for file in files if not file.gray)
        raise ConfigError(
            shown(without.path),
            f"no gray column, but {with_twin[0].name} has one",
            "shard them apart, or drop the twins with --gray derive",
        )
    return files


def _read_footer(path: str, size: int | None = None) -> tuple[pq.FileMetaData, int, str]:
    """(metadata, file size, sha256 of the footer with its length and magic)."""
    try:
        with open_file(path, size) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            tail = file.read(8) or b""
            length = int.from_bytes(tail[:4], "little")
            if tail[4:] != _MAGIC or length + 12 > size:
                raise DataError(shown(path), "not a parquet file, or cut short", "download it again")
            file.seek(size - 8 - length)
            footer = file.read(length + 8) or b""
        metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))
        return metadata, size, hashlib.sha256(footer).hexdigest()
    except (OSError, pa.ArrowException) as error:
        raise DataError(shown(path), f"cannot be read as parquet ({error})", "download it again") from error


@lru_cache(NUM_OPEN)
def _metadata(path: str, size: int, footer_sha256: str) -> pq.FileMetaData:
    """The footer again, in the process that reads rows; DataError if it is not the one planned by."""
    metadata, new_size, new_sha256 = _read_footer(path, size)
    if (new_size, new_sha256) != (size, footer_sha256):
        todo = "restore it, or start again in an empty folder"
        raise DataError(shown(path), "the source has changed since the plan was made", todo)
    return metadata


def _find_column(
    path: str, schema: pa.Schema, wanted: str | None, names: tuple[str, ...], role: str
) -> str | None:
    if wanted is not None and wanted not in schema.names:
        what = f"no column {wanted!r} (got {', '.join(schema.names)})"
        raise ConfigError(path, what, f"change --columns {role}={wanted}")
    return wanted or next((name for name in names if name in schema.names), None)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _image_type(path: str, schema: pa.Schema, name: str) -> Column:
    kind = schema.field(name).type
    if isinstance(kind, pa.StructType):
        children = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        if "bytes" in children and _is_binary(children["bytes"]):
            return Column(name, nested=True)
    if _is_binary(kind):
        return Column(name, nested=False)
    raise ConfigError(
        path, f"column {name!r} holds {kind}, not encoded images", "choose a column of image files"
    )


def _text_type(path: str, schema: pa.Schema, name: str) -> str:
    kind = schema.field(name).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not is_text and not _is_binary(kind):
        raise ConfigError(path, f"column {name!r} holds {kind}, not text", "change --columns text=NAME")
    return name


def _read_rows(file: ParquetFile, *, row_group: int, start: int, stop: int) -> Iterator[Row]:
    first = sum(file.group_rows[:row_group])
    columns = [name for column in (file.image, file.gray) if column for name in _leaves(column)]
    columns += [file.text] if file.text else []
    position = 0
    try:
        metadata = _metadata(file.path, file.bytes, file.footer_sha256)
        mapped = None if is_remote(file.path) else _map(file.path)
        # pyarrow keeps two pages of a column in memory; mapped ones that are not compressed cost none
        where: Any = pa.BufferReader(pa.py_buffer(mapped)) if mapped else open_file(file.path, file.bytes)
        options: dict[str, Any] = {} if mapped else {"buffer_size": REMOTE_BUFFER_BYTES}
        with pq.ParquetFile(where, metadata=metadata, pre_buffer=False, **options) as parquet:
            batches = parquet.iter_batches(
                BATCH_ROWS, row_groups=[row_group], columns=columns, use_threads=False
            )
            for batch in batches:
                if mapped:
                    mapped.madvise(mmap.MADV_DONTNEED)  # what has been read does not count as ours
                begin, end = max(0, start - position), min(len(batch), stop - position)
                if begin < end:
                    yield from _rows(file, batch.slice(begin, end - begin), first + position + begin)
                position += len(batch)
                if position >= stop:
                    return
    except (OSError, pa.ArrowException) as error:
        what = f"row group {row_group} cannot be read ({error})"
        raise DataError(shown(file.path), what, "download the file again") from error
    what = f"row group {row_group} ends after {position} rows (the footer says {stop} or more)"
    raise DataError(shown(file.path), what, "download the file again")


def _map(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _leaves(column: Column) -> list[str]:
    return [f"{column.name}.bytes", f"{column.name}.path"] if column.nested else [column.name]


def _rows(file: ParquetFile, batch: pa.RecordBatch, number: int) -> Iterator[Row]:
    colors = _cells(batch, file.image)
    grays = _cells(batch, file.gray) if file.gray else [None] * len(batch)
    # as bytes: a string that is not UTF-8 must become a bad row, not an exception
    texts = batch.column(file.text).cast(pa.large_binary()) if file.text else None
    for i, (color, gray) in enumerate(zip(colors, grays, strict=True)):
        yield Row(number + i, color, gray, texts[i].as_py() if texts is not None else None)


def _cells(batch: pa.RecordBatch, column: Column) -> list[Cell]:
    values = batch.column(column.name)
    if not isinstance(values, pa.StructArray):
        return [Cell(value.as_py()) for value in values]
    names = [field.name for field in values.type]
    paths = values.field("path") if "path" in names else [None] * len(values)
    return [
        Cell(data.as_py(), None if path is None else path.as_py())
        for data, path in zip(values.field("bytes"), paths, strict=True)
    ]
