"""Parquet files as a source: which files, which columns, what is in the footers, and rows in bounded memory.

This is the only module that opens the source. Everything that identifies it (names relative to the common
folder, sizes, row counts, a hash of each footer) is independent of where the files lie, so that a copy of
the source gives the same shard set.
"""

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamgan.core.errors import ConfigError, DataError

IMAGE_NAMES = ("image",)
GRAY_NAMES = ("conditioning_image", "grayscale_image")
TEXT_NAMES = ("text", "caption")
BATCH_ROWS = 16  # rows in memory at a time: 16 images of 4 MB are 64 MB
BUFFER_BYTES = 1 << 20  # read through a buffer instead of a whole column chunk, which may be gigabytes
_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Column:
    """An image column: `nested` for the Hub's struct {bytes, path}, otherwise plain binary."""

    name: str
    nested: bool


@dataclass(frozen=True)
class SourceFile:
    """One parquet file as its footer describes it. `name` is relative to the folder all files share."""

    name: str
    path: str
    bytes: int
    group_rows: tuple[int, ...]
    footer_sha256: str
    image: Column
    gray: Column | None
    text: str | None

    def fingerprint(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bytes": self.bytes,
            "rows": sum(self.group_rows),
            "footer_sha256": self.footer_sha256,
        }


@dataclass(frozen=True)
class Cell:
    """An image as the row holds it: its bytes, or None with perhaps a path to a file we do not have."""

    data: bytes | None
    path: str | None = None


@dataclass(frozen=True)
class Row:
    """A row by its number in the file. `text` is raw UTF-8, not yet checked."""

    number: int
    color: Cell
    gray: Cell | None
    text: bytes | None


def find_files(sources: Sequence[str]) -> list[tuple[str, str]]:
    """(name, path) of every parquet file under files, folders (recursive) and globs, sorted by name.

    Names are relative to the deepest folder that holds all files, with forward slashes.
    """
    paths: set[str] = set()
    for source in sources:
        matches = [source] if os.path.exists(source) else sorted(glob.glob(source, recursive=True))
        if not matches:
            raise DataError(
                source, "no such file or folder, nor a pattern that matches one", "check the path"
            )
        found = [path for match in matches for path in _parquet_under(match)]
        if not found:
            raise DataError(source, "holds no .parquet file", "name a folder or file of the source")
        paths.update(os.path.abspath(path) for path in found)
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return sorted((PurePosixPath(Path(path).relative_to(root)).as_posix(), path) for path in paths)


def _parquet_under(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    found = [file.relative_to(path) for file in Path(path).rglob("*.parquet")]
    # download caches keep partial files in dotted folders
    return [
        os.path.join(path, file) for file in found if not any(part.startswith(".") for part in file.parts)
    ]


def read_source(
    sources: Sequence[str],
    *,
    image_column: str | None = None,
    gray_column: str | None = None,
    text_column: str | None = None,
    keep_gray: bool = True,
    keep_text: bool = False,
) -> list[SourceFile]:
    """Every file of the source with its footer read and its columns resolved; no row is read.

    Files may spell a column differently, but either all or none of them have a gray twin.
    """
    files = []
    for name, path in find_files(sources):
        metadata, size, footer_sha256 = _read_footer(path)
        schema = metadata.schema.to_arrow_schema()
        image = _find_column(path, schema, image_column, IMAGE_NAMES, "--image-column")
        if image is None:
            raise ConfigError(
                path,
                f"no column {' or '.join(IMAGE_NAMES)} (got {', '.join(schema.names)})",
                "name the colour image with --image-column",
            )
        gray = _find_column(path, schema, gray_column, GRAY_NAMES, "--gray-column") if keep_gray else None
        text = _find_column(path, schema, text_column, TEXT_NAMES, "--text-column") if keep_text else None
        if keep_text and text is None:
            raise ConfigError(
                path,
                f"no column {' or '.join(TEXT_NAMES)} (got {', '.join(schema.names)})",
                "name it with --text-column, or leave out --keep-text",
            )
        rows = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        files.append(
            SourceFile(
                name,
                path,
                size,
                rows,
                footer_sha256,
                _image_type(path, schema, image),
                _image_type(path, schema, gray) if gray else None,
                _text_type(path, schema, text) if text else None,
            )
        )
    with_twin = [file for file in files if file.gray]
    if with_twin and len(with_twin) < len(files):
        without = next(file for file in files if not file.gray)
        raise ConfigError(
            without.path,
            f"no gray column, but {with_twin[0].name} has one",
            "shard them apart, or drop the twins with --gray derive",
        )
    return files


def _read_footer(path: str) -> tuple[pq.FileMetaData, int, str]:
    """(metadata, file size, sha256 of the footer with its length and magic)."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            tail = file.read(8)
            length = int.from_bytes(tail[:4], "little")
            if tail[4:] != _MAGIC or length + 12 > size:
                raise DataError(path, "not a parquet file, or cut short", "download it again")
            file.seek(size - 8 - length)
            footer = file.read(length + 8)
        return pq.read_metadata(path), size, hashlib.sha256(footer).hexdigest()
    except (OSError, pa.ArrowException) as error:
        raise DataError(path, f"cannot be read as parquet ({error})", "download it again") from error


def _find_column(
    path: str, schema: pa.Schema, wanted: str | None, names: tuple[str, ...], option: str
) -> str | None:
    if wanted is not None and wanted not in schema.names:
        raise ConfigError(path, f"no column {wanted!r} (got {', '.join(schema.names)})", f"change {option}")
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
        raise ConfigError(path, f"column {name!r} holds {kind}, not text", "change --text-column")
    return name


def read_rows(file: SourceFile, *, row_group: int, start: int, stop: int) -> Iterator[Row]:
    """Rows [start, stop) of a row group in file order, a few at a time whatever the size of the group."""
    first = sum(file.group_rows[:row_group])
    columns = [name for column in (file.image, file.gray) if column for name in _leaves(column)]
    columns += [file.text] if file.text else []
    position = 0
    try:
        with pq.ParquetFile(file.path, pre_buffer=False, buffer_size=BUFFER_BYTES) as parquet:
            batches = parquet.iter_batches(
                BATCH_ROWS, row_groups=[row_group], columns=columns, use_threads=False
            )
            for batch in batches:
                begin, end = max(0, start - position), min(len(batch), stop - position)
                if begin < end:
                    yield from _rows(file, batch.slice(begin, end - begin), first + position + begin)
                position += len(batch)
                if position >= stop:
                    return
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            file.path, f"row group {row_group} cannot be read ({error})", "download the file again"
        ) from error
    what = f"row group {row_group} ends after {position} rows (the footer says {stop} or more)"
    raise DataError(file.path, what, "download the file again")


def _leaves(column: Column) -> list[str]:
    return [f"{column.name}.bytes", f"{column.name}.path"] if column.nested else [column.name]


def _rows(file: SourceFile, batch: pa.RecordBatch, number: int) -> Iterator[Row]:
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
