"""`streamgan verify`: proof that a set is what its manifest says, and if not, where the damage lies.

The manifest is sealed by its digest and seals every other file by sha256. A file whose seal holds needs no
other look; in a shard whose seal is broken, the CRC-32 of every member and the checksum of every tar header
name the keys.
"""

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from isal import isal_zlib

from streamgan.core.errors import DataError
from streamgan.core.logs import progress
from streamgan.core.machine import usable_cores
from streamgan.core.storage.files import json_bytes, sha256_file
from streamgan.core.storage.local import TEMPORARY_SUFFIX
from streamgan.core.storage.place import Place, readable
from streamgan.data.format import (
    MANIFEST,
    QUARANTINE,
    Manifest,
    Sample,
    ShardEntry,
    idx_name,
    read_idx,
    read_manifest,
)
from streamgan.data.image import BadImage, to_pixels
from streamgan.sharding.foreign.build import KIND as FOREIGN
from streamgan.sharding.unit.tar import BLOCK
from streamgan.sharding.unit.writer import WORK

from .cross_check import Finding, cross_check, read_members


@dataclass(frozen=True)
class VerifyReport:
    """What was found, over how much. `digest` is None if the manifest itself is damaged."""

    findings: list[Finding]
    samples: int
    files: int
    bytes: int
    digest: str | None


def verify(root: Path | Place | str, *, full: bool = False) -> VerifyReport:
    """Check every byte of the set in `root`; `full` also decodes every image. Writes nothing.

    DataError if there is no set at all.
    """
    root = readable(root)
    try:
        manifest = read_manifest(root)
    except DataError as error:
        if not (root / MANIFEST).exists():
            raise
        return VerifyReport([Finding(MANIFEST, None, error.what)], 0, 1, 0, None)
    checked = _Set(root, manifest, full=full)
    findings = [*checked.manifest_layout(), *checked.stray_files()]
    size = 0
    pool = ThreadPoolExecutor(usable_cores())  # hashing and decoding release the GIL
    bar = progress(total=len(checked.seals), unit=" files", label="verify")
    try:
        checks = pool.map(checked.check, checked.seals)
        for name, found in zip(checked.seals, checks, strict=True):
            findings += found
            size += (root / name).size() if (root / name).exists() else 0
            bar.update()
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)
    if full and not findings:
        findings += cross_check(root, manifest, foreign=checked.foreign)
    samples = sum(split.samples for split in manifest.splits.values())
    return VerifyReport(findings, samples, len(checked.seals), size, manifest.digest)


class _Set:
    """A set and its seals: the sha256 of every file that the manifest speaks for, by name."""

    def __init__(self, root: Place, manifest: Manifest, *, full: bool):
        self.root, self.manifest, self.full = root, manifest, full
        self.foreign = manifest.source.get("kind") == FOREIGN
        self.shards = {entry.name: entry for split in manifest.splits.values() for entry in split.shards}
        self.seals = {}
        for name, split in manifest.splits.items():
            for entry in split.shards:
                self.seals |= {entry.name: entry.sha256, idx_name(entry.name): entry.idx_sha256}
            self.seals[f"{name}.index"] = split.index_sha256
        self.seals[QUARANTINE] = manifest.quarantine["sha256"]
        self.twins = {sha256: name for name, sha256 in self.seals.items()}

    def manifest_layout(self) -> Iterator[Finding]:
        """What its digest cannot see: spaces, escapes, a name given twice or too much, a lost newline."""
        wanted = json_bytes({"digest": self.manifest.digest, **self.manifest.body()})
        if (self.root / MANIFEST).read_bytes() != wanted:
            yield Finding(MANIFEST, None, "its digest holds, but it is not laid out as the format says")

    def stray_files(self) -> Iterator[Finding]:
        """Whatever lies in the folder and is not the set's; of a copy, the file that it is a copy of."""
        for name in sorted(set(self.root.names()) - set(self.seals) - {MANIFEST}):
            path = self.root / name
            if self.foreign and not name.lower().endswith((".tar", ".idx", ".index", TEMPORARY_SUFFIX)):
                continue  # others may keep their files beside tars of their own
            if name == WORK or name.endswith(TEMPORARY_SUFFIX):
                yield Finding(name, None, "left by an interrupted run; run its command again to tidy up")
            else:
                twin = None
                with suppress(OSError):  # it need not be read
                    twin = self.twins.get(sha256_file(path)) if path.is_file() and path.size() else None
                copied = f"; a copy of {twin}" if twin else ""
                yield Finding(name, None, f"not listed in the manifest{copied}")

    def check(self, name: str) -> list[Finding]:
        """Everything wrong with one sealed file."""
        try:
            return list(self._damage(name))
        except OSError as error:  # of a disk, or a file that may not be read: the others have their say
            return [Finding(name, None, f"cannot be read ({error.strerror or error})")]
        except DataError as error:  # an .idx that is as sealed, and no index
            return [] if error.where != str(self.root / name) else [Finding(name, None, error.what)]

    def _damage(self, name: str) -> Iterator[Finding]:
        path, shard = self.root / name, self.shards.get(name)
        if not path.is_file():
            yield Finding(name, None, "missing")
            return
        sha256 = sha256_file(path)
        if sha256 == self.seals[name]:
            if shard and (size := path.size()) != shard.bytes:
                yield Finding(name, None, f"{size} bytes (the manifest says {shard.bytes})")
            elif shard and self.full:
                yield from self._locate(shard, sealed=True)
                yield from self._undecodable(shard)
        elif sha256 in self.twins:
            yield Finding(name, None, f"holds the content of {self.twins[sha256]} (swapped or copied)")
        elif shard:
            yield from self._locate(shard)
        else:
            yield Finding(name, None, "sha256 differs from the manifest")

    def _locate(self, shard: ShardEntry, *, sealed: bool = False) -> Iterator[Finding]:
        """Where in a shard the damage lies. One that is not `sealed`, its sha256 wrong, has a finding."""
        path, name = self.root / shard.name, idx_name(shard.name)
        idx = self.root / name
        size = path.size()
        if size != shard.bytes:
            yield Finding(shard.name, None, f"{size} bytes (the manifest says {shard.bytes})")
        if not idx.is_file() or sha256_file(idx) != self.seals[name]:
            if not sealed:  # otherwise its own check says so
                what = f"sha256 differs; without a sound {name} the place is unknown"
                yield Finding(shard.name, None, what)
            return
        found = size != shard.bytes
        with path.open_binary() as file:
            for finding in _walk(file, size, shard, read_idx(idx), self.foreign):
                found = True
                yield finding
        if not found and not sealed:
            yield Finding(shard.name, None, "sha256 differs, but no member, header or padding shows where")

    def _undecodable(self, shard: ShardEntry) -> Iterator[Finding]:
        try:
            samples = read_idx(self.root / idx_name(shard.name))
        except DataError:
            return  # the .idx is damaged, which its own check reports
        for sample, suffix, data in read_members(self.root / shard.name, samples, images=True):
            try:
                to_pixels(data, "L" if suffix.startswith("gray.") else "RGB", short=1)
            except BadImage as bad:
                yield Finding(shard.name, sample.key, f"{suffix} does not decode ({bad})")


def _walk(
    file: io.BufferedIOBase, size: int, shard: ShardEntry, samples: list[Sample], foreign: bool
) -> Iterator[Finding]:
    """Compare a tar with its index from front to back; of a `foreign` tar that knows the images alone."""
    at = 0
    key: str | None = None
    for number, sample in enumerate(samples):
        key = sample.key
        for member in sample.members:
            end = member.offset + member.size
            if end > size:
                lost = len(samples) - number
                yield Finding(
                    shard.name, key, f"cut at byte {size}: this and all later samples are lost ({lost})"
                )
                return
            if not foreign:
                file.seek(at)
                between = file.read(max(0, member.offset - at))
                if what := _bad_header(between, f"{key}.{member.suffix}", member.size):
                    yield Finding(shard.name, key, f"bytes {at}-{member.offset - 1}: {what}")
            file.seek(member.offset)
            if isal_zlib.crc32(file.read(member.size)) != member.crc32:
                yield Finding(
                    shard.name, key, f"{member.suffix} is damaged (CRC-32, bytes {member.offset}-{end - 1})"
                )
            at = end
    file.seek(at)
    if not foreign and any(file.read(max(0, shard.bytes - at))):
        yield Finding(shard.name, key, f"bytes {at}-{shard.bytes - 1}: not zero after the last member")


def _bad_header(between: bytes, name: str, size: int) -> str | None:
    """What is wrong with the bytes between two members' data: padding, then the header of `name`."""
    if any(between[:-BLOCK]):
        return "damaged padding before the tar header"
    try:
        header = tarfile.TarInfo.frombuf(between[-BLOCK:], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"damaged tar header ({error})"
    if (header.name, header.size) != (name, size):
        return f"the tar header is that of {header.name} ({header.size} bytes)"
    return None
