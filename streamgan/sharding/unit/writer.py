"""One unit of work: rows from the source into one tar per split, then the indexes, then the commit record.

Each file is written under a temporary name, flushed and renamed; the record comes when all of that is on the
disk. A unit without a record is done again from the start and gives the same bytes, so a crash at any point
costs at most one unit per worker.
"""

import hashlib
import os
import secrets
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from isal import isal_zlib

from streamgan.core.errors import file_error
from streamgan.core.storage.files import json_bytes
from streamgan.core.storage.place import Place
from streamgan.data.format import Member, Sample, ShardEntry, idx_bytes, idx_name, index_bytes, pack_index
from streamgan.sharding.sample.check import BadRow
from streamgan.sharding.sample.members import Rules, make_members
from streamgan.sharding.source.read import Data, Row, SourceFile
from streamgan.sharding.splits import split_of_content

from . import tar
from .plan import Unit

WORK = ".work"
CHUNK_BYTES = 1 << 18  # of a tar, written at once: less than IOV_MAX pieces, still in the cache of the core


@dataclass(frozen=True)
class Job:
    """What all units need to know. `file_splits`, one per file, stands instead of `split_ends`."""

    root: Place
    files: tuple[SourceFile, ...]
    split_ends: dict[str, int]
    file_splits: tuple[str, ...] | None
    rules: Rules


def shard_name(split: str, unit: int) -> str:
    return f"{split}-{unit:06d}.tar"


def record_name(unit: int) -> str:
    """In the folder WORK."""
    return f"unit-{unit:06d}.json"


def packed_name(split: str, unit: int) -> str:
    """In WORK, what a unit adds to `SPLIT.index`, so that the last step need not parse every `.idx`."""
    return f"{split}-{unit:06d}.index"


class _Shard:
    """A tar under construction, hashed on the way so that nobody has to read it, and its index so far."""

    def __init__(self, file: BinaryIO):
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0
        self.samples: list[Sample] = []
        self._pieces: list[Data] = []  # not written yet
        self._written = 0

    def add(self, key: str, members: dict[str, Data], known: tuple[Data, int]) -> None:
        """Append a sample. `members` in the order of their names, as WebDataset has them.

        `known`: bytes whose CRC-32 is known already; a member mostly is this very object.
        """
        begin, listed = self.size, []
        for suffix, data in members.items():
            crc32 = known[1] if data is known[0] else isal_zlib.crc32(data)
            listed.append(Member(suffix, self.size + tar.BLOCK, len(data), crc32))
            padding = tar.padding(len(data))
            self._pieces += (tar.header(f"{key}.{suffix}", len(data)), data, padding)
            self.size += tar.BLOCK + len(data) + len(padding)
        self.samples.append(Sample(key, begin, self.size - begin, tuple(listed)))
        if self.size - self._written >= CHUNK_BYTES:
            self._write()

    def close(self) -> None:
        self._pieces.append(tar.end(self.size))
        self.size += len(self._pieces[-1])
        self._write()

    def _write(self) -> None:
        for piece in self._pieces:
            self.sha256.update(piece)
        done = os.writev(self.file.fileno(), self._pieces)
        if done < self.size - self._written:  # the file itself tries again and says what is wrong
            self.file.write(b"".join(self._pieces)[done:])
            self.file.flush()
        self._pieces.clear()
        self._written = self.size


@contextmanager
def _open_shard(path: Place, token: str) -> Iterator[_Shard]:
    with path.writing(token=token, lasting=False) as file:
        shard = _Shard(file)
        yield shard
        shard.close()


@contextmanager
def disk_errors(
    root: Place, *, then: str = "run the same command again: finished shards are kept"
) -> Iterator[None]:
    """Failures of the output disk as DataError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise file_error(error, error.filename or root, what="cannot be written", then=then) from error


def make_unit(job: Job, unit: Unit, heartbeat: Callable[[int, int, int], None]) -> dict[str, Any]:
    """Write the shards of `unit` and its record, which is returned: shard entries and rejected rows.

    Two processes that do the same unit at once, as a cluster may when it loses sight of a node, are harmless:
    their temporary names differ and their bytes do not. `heartbeat(file, rows, bytes)` is told where
    the unit is before a file is opened and before each row.
    """
    token, done, size = secrets.token_hex(4), 0, 0
    rejected: list[dict[str, Any]] = []
    changed: Counter[str] = Counter()
    shards: dict[str, _Shard] = {}

    def opening(file: int) -> None:
        heartbeat(file, done, size)

    with disk_errors(job.root):
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # PIL warns about odd metadata of images that are fine
            for file_index, row in _unit_rows(job, unit, opening):
                heartbeat(file_index, done, size)
                done += 1
                try:
                    file = job.files[file_index]
                    members, changes = make_members(row, job.rules, with_text=file.text is not None)
                except BadRow as bad:
                    where = {
                        "file": file_index,
                        "row": row.number,
                        **({"name": row.name} if row.name else {}),
                    }
                    rejected.append({**where, "reason": bad.reason, "detail": bad.detail})
                    continue
                if changes:
                    changed.update(changes)
                # the bytes of the source, not those of the member: the split must not depend on --size
                source = row.color.data or b""
                known = source, isal_zlib.crc32(source)
                if job.file_splits is not None:
                    split = job.file_splits[file_index]
                else:
                    split = split_of_content(known[1], job.split_ends)
                if split not in shards:
                    path = job.root / shard_name(split, unit.number)
                    shards[split] = stack.enter_context(_open_shard(path, token))
                shards[split].add(f"{file_index:05d}-{row.number:09d}", members, known)
                size += sum(map(len, members.values()))
        entries = _commit(job.root, unit.number, shards, token)
        record: dict[str, Any] = {"unit": unit.number, "rows": unit.num_rows, "shards": entries}
        record |= {"rejected": rejected, "changed": changed}
        _put(job.root / WORK / record_name(unit.number), json_bytes(record), token)
    return record


def _unit_rows(job: Job, unit: Unit, opening: Callable[[int], None]) -> Iterator[tuple[int, Row]]:
    for piece in unit.pieces:
        opening(piece.file)
        file = job.files[piece.file]
        for row in file.read(row_group=piece.row_group, start=piece.start, stop=piece.stop):
            yield piece.file, row
    for number in {piece.file for piece in unit.pieces}:
        job.files[number].confirm(piece.row_group for piece in unit.pieces if piece.file == number)


def _commit(root: Place, unit: int, shards: dict[str, _Shard], token: str) -> dict[str, Any]:
    """Write both indexes of the finished tars, all at once; when they are on the disk, entries by split."""
    entries: dict[str, Any] = {}
    files: dict[Place, bytes] = {}
    for split, shard in sorted(shards.items()):
        name, sha256 = shard_name(split, unit), shard.sha256.hexdigest()
        idx = idx_bytes({"name": name, "bytes": shard.size, "sha256": sha256}, shard.samples)
        files[root / idx_name(name)] = idx
        files[root / WORK / packed_name(split, unit)] = index_bytes(pack_index(shard.samples))
        idx_sha256 = hashlib.sha256(idx).hexdigest()
        entries[split] = asdict(ShardEntry(name, len(shard.samples), shard.size, sha256, idx_sha256))
    with ThreadPoolExecutor(max(1, len(files))) as pool:  # a disk flushes many files as soon as one
        for done in [pool.submit(_put, path, data, token, lasting=False) for path, data in files.items()]:
            done.result()
        for done in [pool.submit(folder.keep) for folder in (root, root / WORK)]:
            done.result()
    return entries


def _put(path: Place, data: bytes, token: str, *, lasting: bool = True) -> None:
    with path.writing(token=token, lasting=lasting) as file:
        file.write(data)
