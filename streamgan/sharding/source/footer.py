"""The footer of a parquet file: where it lies, what it says, and what damage does to it."""

import io
import os
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from streamgan.core.errors import DataError, in_one_line
from streamgan.core.storage.address import redacted

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
# What pyarrow raises of damaged bytes; a size that makes no sense is a MemoryError
DAMAGED = (
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    pa.ArrowException,
)
NUM_KEPT = 64  # footers that a worker keeps parsed


def read_footer(path: str, file: io.RawIOBase | io.BufferedReader) -> bytes:
    """The footer with its length and magic; DataError if there is none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8) or b""
    if tail[4:] == _ENCRYPTED:
        raise DataError(redacted(path), "its footer is encrypted", "decrypt the file")
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length + 12 > size:
        raise DataError(redacted(path), "not a parquet file, or cut short", "download it again")
    file.seek(size - 8 - length)
    return file.read(length + 8) or b""


@lru_cache(NUM_KEPT)
def metadata_of(footer: bytes) -> pq.FileMetaData:
    """What a footer says, parsed once."""
    return pq.read_metadata(pa.BufferReader(_MAGIC + footer))


def parse(path: str, footer: bytes) -> tuple[pq.FileMetaData, pa.Schema]:
    """As `metadata_of`, with the schema; DataError if the footer is damaged."""
    try:
        metadata = metadata_of(footer)
        return metadata, metadata.schema.to_arrow_schema()
    except (OSError, *DAMAGED) as error:
        raise DataError(path, f"its footer cannot be read ({words(error)})", "download it again") from error


def words(error: BaseException) -> str:
    """An error of pyarrow in one short line."""
    return in_one_line(error)[:200]
