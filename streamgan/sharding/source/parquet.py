"""Parquet files as a source: which columns, what is in the footers, and rows in bounded memory.

Everything that identifies a file (its relative name, size, row count, a hash of its footer) is independent
of where it lies, so that a copy of the source gives the same shard set. Of a remote file the plan reads the
footer and a worker the columns that it needs, by range. Where pages have checksums, they are verified.

pyarrow keeps two pages of a column in memory, and mapped ones that are not compressed cost none. But a file
that shrinks while it is mapped kills the process, so files are mapped in worker processes alone.
"""

import hashlib
import io
import mmap
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import parent_process
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.address import is_address, is_remote, redacted
from streamgan.core.storage.download import open_file

from . import columns
from .columns import GRAY_NAMES, IMAGE_NAMES, TEXT_NAMES, Column, Wanted, find_column, leaves
from .footer import DAMAGED, metadata_of, parse, read_footer, words
from .listing import Found, identity_of, refuse_changed, relative_names, source_error
from .rows import Cell, Row

SUFFIX = ".parquet"
BATCH_BYTES = 8 << 20  # in memory at a time, if the rows are of one size
MIN_BATCH_ROWS, MAX_BATCH_ROWS = 16, 128  # so 16 images of 4 MB are 64 MB
BUFFER_BYTES = 1 << 20  # of a column, read ahead
REMOTE_BUFFER_BYTES = 8 << 20  # per request of a column: large, since each costs a round trip
NUM_REQUESTS = 8  # footers of remote files that are fetched at a time


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
    identity: str | None
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

    def confirm(self, row_groups: Iterable[int]) -> None:
        """DataError if the file is not the one that was listed any more."""
        try:
            with _open(self):
                pass
        except OSError as error:
            raise source_error(error, self.path) from error

    def for_any_machine(self) -> Self:
        """Without what this machine alone knows of a local file."""
        return self if is_address(self.path) else replace(self, identity=None)


def read_footers(found: Sequence[Found], wanted: Wanted) -> list[ParquetFile]:
    """Every file with its footer read and its columns resolved, sorted by name; no row is read.

    Files may spell a column differently, but either all or none of them have a gray twin.
    """
    names = relative_names((one.path.rpartition("/")[0], one.path) for one in found)
    by_path = {one.path: one for one in found}
    ordered = [by_path[path] for path in sorted(names, key=lambda path: names[path])]

    def resolve(one: Found) -> ParquetFile:
        path = redacted(one.path)
        footer = _read_footer(one)
        metadata, schema = parse(path, footer)
        image = find_column(path, schema, wanted.image, IMAGE_NAMES, "image")
        if image is None:
            raise ConfigError(
                path,
                f"no column {' or '.join(IMAGE_NAMES)} (got {', '.join(schema.names)})",
                "name the colour image with --columns image=NAME",
            )
        gray = find_column(path, schema, wanted.gray, GRAY_NAMES, "gray") if wanted.keep_gray else None
        text = find_column(path, schema, wanted.text, TEXT_NAMES, "text") if wanted.keep_text else None
        if wanted.keep_text and text is None:
            raise ConfigError(
                path,
                f"no column {' or '.join(TEXT_NAMES)} (got {', '.join(schema.names)})",
                "name it with --columns text=NAME, or leave out --keep-text",
            )
        if gray == image:
            raise ConfigError(path, f"{image!r} is both colour and gray twin", "change --columns")
        file = ParquetFile(
            names[one.path],
            one.path,
            one.bytes,
            tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)),
            hashlib.sha256(footer).hexdigest(),
            columns.image_column(path, schema, image),
            columns.image_column(path, schema, gray) if gray else None,
            columns.text_column(path, schema, text) if text else None,
            one.identity,
            one.origin,
        )
        _refuse_contradictions(file, metadata)
        return file

    with ThreadPoolExecutor(NUM_REQUESTS if is_remote(found[0].path) else 1) as pool:
        files = list(pool.map(resolve, ordered))
    with_twin = [file for file in files if file.gray]
    if with_twin and len(with_twin) < len(files):
        without = next(file for file in files if not file.gray)
        raise ConfigError(
            redacted(without.path),
            f"no gray column, but {with_twin[0].name} has one",
            "shard them separately, or drop the twins with --gray derive",
        )
    return files


def _read_footer(one: Found) -> bytes:
    """The footer with its length and magic."""
    try:
        with open_file(one.path, one.bytes) as file:
            return read_footer(one.path, file)
    except OSError as error:
        raise source_error(error, one.path) from error


def _refuse_contradictions(file: ParquetFile, metadata: pq.FileMetaData) -> None:
    """DataError if the footer's own numbers do not agree; ConfigError if a name means two columns."""
    path, schema = redacted(file.path), metadata.schema
    paths = [schema.column(i).path for i in range(len(schema))]
    for name in _columns(file):
        if paths.count(name) > 1:
            raise ConfigError(path, f"has two columns {name!r}", "write it again with a name for each")
    if sum(file.group_rows) != metadata.num_rows or min(file.group_rows, default=0) < 0:
        what = f"{metadata.num_rows} rows, but its row groups hold {sum(file.group_rows)}"
        raise DataError(path, f"its footer contradicts itself ({what})", "download it again")


@contextmanager
def _open(file: ParquetFile) -> Iterator[tuple[Any, pq.FileMetaData]]:
    """The file and its footer; DataError if it is not the one that was listed."""
    with open_file(file.path, file.bytes) as opened:
        local = isinstance(opened, io.BufferedReader)
        if file.identity is not None:
            refuse_changed(file.path, file.identity, identity_of(opened.fileno() if local else file.path))
        footer = read_footer(file.path, opened)
        refuse_changed(file.path, file.footer_sha256, hashlib.sha256(footer).hexdigest())
        yield opened, metadata_of(footer)


def _read_rows(file: ParquetFile, *, row_group: int, start: int, stop: int) -> Iterator[Row]:
    first = sum(file.group_rows[:row_group])
    buffer_bytes = REMOTE_BUFFER_BYTES if is_remote(file.path) else BUFFER_BYTES
    what = f"row group {row_group} cannot be read"
    position = 0
    try:
        with (
            _open(file) as (opened, metadata),
            _mapped(opened) as mapped,
            pq.ParquetFile(
                pa.BufferReader(pa.py_buffer(mapped)) if mapped else opened,
                metadata=metadata,
                pre_buffer=False,
                buffer_size=0 if mapped else buffer_bytes,
                page_checksum_verification=True,
            ) as parquet,
        ):
            rows = batch_rows(file.group_rows[row_group], metadata.row_group(row_group).total_byte_size)
            batches = parquet.iter_batches(
                rows, row_groups=[row_group], columns=_columns(file), use_threads=False
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
    except (OSError, *DAMAGED) as error:
        file.confirm([row_group])  # a file that is replaced or cut meanwhile is not a damaged one
        if isinstance(error, OSError) and error.errno:
            raise source_error(error, file.path, what) from error
        raise DataError(redacted(file.path), f"{what} ({words(error)})", "download the file again") from error
    what = f"row group {row_group} ends after {position} rows (the footer says {stop} or more)"
    raise DataError(redacted(file.path), what, "download the file again")


def batch_rows(rows: int, size: int) -> int:
    """How many rows of a group of so many, and of `size` bytes, are read at a time."""
    return min(max(MIN_BATCH_ROWS, BATCH_BYTES * rows // max(1, size)), MAX_BATCH_ROWS)


def _mapped(opened: Any) -> AbstractContextManager[mmap.mmap | None]:
    if not isinstance(opened, io.BufferedReader) or parent_process() is None:
        return nullcontext()
    # not closed by hand: the last reader of its pages does that
    return nullcontext(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _columns(file: ParquetFile) -> list[str]:
    """Paths of the parquet columns that hold what is needed."""
    images = [name for column in (file.image, file.gray) if column for name in leaves(column)]
    return images + ([file.text] if file.text else [])


def _rows(file: ParquetFile, batch: pa.RecordBatch, number: int) -> Iterator[Row]:
    colors = _cells(batch, file.image)
    grays = _cells(batch, file.gray) if file.gray else [None] * len(batch)
    # as bytes: a string that is not UTF-8 must become a bad row, not an exception
    texts = _plain(batch.column(file.text)).cast(pa.large_binary()) if file.text else None
    for i, (color, gray) in enumerate(zip(colors, grays, strict=True)):
        yield Row(number + i, color, gray, texts[i].as_py() if texts is not None else None)


def _plain(values: Any) -> Any:
    return values.dictionary_decode() if isinstance(values, pa.DictionaryArray) else values


def _cells(batch: pa.RecordBatch, column: Column) -> list[Cell]:
    values = batch.column(column.name)
    nested = isinstance(values, pa.StructArray)
    images = values.field("bytes") if nested else values
    if not pa.types.is_binary(images.type):
        images = images.cast(pa.large_binary())
    if not images.null_count:
        return [Cell(data) for data in _views(images)]
    paths = [None] * len(values)
    if nested and "path" in [field.name for field in values.type]:
        paths = values.field("path").cast(pa.large_binary()).to_pylist()
    return [
        Cell(data, None if path is None else path.decode(errors="replace"))
        for data, path in zip(images.to_pylist(), paths, strict=True)
    ]


def _views(values: pa.BinaryArray | pa.LargeBinaryArray) -> list[memoryview]:
    """Each value where it lies; none of them is null."""
    _, ends, data = values.buffers()
    ends = memoryview(ends).cast("i" if pa.types.is_binary(values.type) else "q")
    data = memoryview(data or b"").cast("B")
    first = values.offset
    return [data[begin:end] for begin, end in pairwise(ends[first : first + len(values) + 1])]
