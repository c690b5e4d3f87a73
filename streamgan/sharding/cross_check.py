"""Sealed files that contradict each other: the work of a defect, not of a disk.

Every number of the manifest that the set itself can tell is counted again. Others describe what is not in the
set (bytes and footers of the source, the seed, sizes of units, quality): for those its digest must do.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgan.core.errors import DataError
from streamgan.core.storage.files import read_json
from streamgan.core.storage.place import Place
from streamgan.data.format import (
    FORMAT,
    MANIFEST,
    QUARANTINE,
    VERSION,
    Manifest,
    Sample,
    ShardEntry,
    idx_name,
    open_index,
    pack_index,
    read_idx,
)

from .splits import HASH_RANGE


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `key` is the sample it hits or lies next to, where there is one."""

    file: str
    key: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.what}" if self.key else f"{self.file}: {self.what}"


def read_members(path: Place, samples: list[Sample], *, images: bool) -> Iterator[tuple[Sample, str, bytes]]:
    """(sample, suffix, bytes) of every image in a tar, or of every KEY.json."""
    with path.open_binary() as file:
        for sample in samples:
            for member in sample.members:
                if images != (member.suffix == "json"):
                    file.seek(member.offset)
                    yield sample, member.suffix, file.read(member.size)


def cross_check(root: Place, manifest: Manifest, *, foreign: bool) -> Iterator[Finding]:
    """What disagrees in a set all of whose files are as sealed."""
    try:
        yield from _cross_check(root, manifest, foreign=foreign)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # sealed, but of another kind
        what = f"is not what `streamgan` writes ({type(error).__name__}: {error})"
        yield Finding(MANIFEST, None, what)


def _cross_check(root: Place, manifest: Manifest, *, foreign: bool) -> Iterator[Finding]:
    counted, sound = _Counted(), True
    for name, split in manifest.splits.items():
        try:
            rows = open_index(root, name, split)
        except DataError as error:
            yield Finding(f"{name}.index", None, error.what)
            sound = False
            continue
        begin = 0
        for entry in split.shards:
            try:
                samples = read_idx(root / idx_name(entry.name))
            except DataError as error:
                yield Finding(idx_name(entry.name), None, error.what)
                samples = []
            yield from _idx(root, entry, samples)
            packed = rows[begin : begin + entry.samples]
            if len(samples) != len(packed) or not np.array_equal(pack_index(samples), packed):
                yield Finding(
                    f"{name}.index", None, f"disagrees with the .idx files or the manifest ({entry.name})"
                )
                sound = False
            elif not foreign:
                yield from counted.add(root, manifest, name, entry, samples)
            begin += entry.samples
    yield from _quarantine(root, manifest, counted)
    if foreign:
        yield from _foreign(manifest)
    elif sound:
        yield from counted.compare(manifest)


def _idx(root: Place, entry: ShardEntry, samples: list[Sample]) -> Iterator[Finding]:
    name = idx_name(entry.name)
    head = read_json(root / name, todo="")
    about = {"name": entry.name, "bytes": entry.bytes, "sha256": entry.sha256}
    for key, value in {"format": FORMAT, "version": VERSION, **about}.items():
        if repr(head.get(key)) != repr(value):
            yield Finding(name, None, f"{key} is {head.get(key)!r}, not {value!r} as in the manifest")
    if len(samples) != entry.samples:
        yield Finding(name, None, f"{len(samples)} samples (the manifest says {entry.samples})")
    for sample in samples:
        if any(member.offset + member.size > entry.bytes for member in sample.members):
            yield Finding(name, sample.key, f"lies outside {entry.name}")


class _Counted:
    """What samples and rejected rows add up to."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()

    def add(
        self, root: Place, manifest: Manifest, split: str, entry: ShardEntry, samples: list[Sample]
    ) -> Iterator[Finding]:
        """Count the samples of a shard, and hold them against the options."""
        files, path = manifest.source["files"], root / entry.name
        told = {one.key: json.loads(data) for one, _, data in read_members(path, samples, images=False)}
        for sample in samples:
            about = told.get(sample.key, {})
            number = int(sample.key.partition("-")[0])
            if number >= len(files):
                yield Finding(
                    entry.name, sample.key, f"names source file {number}, but the manifest lists {len(files)}"
                )
                continue
            self.rows[files[number]["name"]] += 1
            self.changed.update(about.get("changed", ()))
            if what := _against_options(manifest.options, split, sample, about):
                yield Finding(entry.name, sample.key, what)

    def compare(self, manifest: Manifest) -> Iterator[Finding]:
        """Differences between what was counted and what the manifest says."""
        said = Counter(manifest.quarantine.get("changed", {}))
        for what in sorted(said | self.changed):
            if said[what] != self.changed[what]:
                said_in = f"quarantine.changed says {what} {said[what]}"
                yield Finding(MANIFEST, None, f"{said_in}, the shards hold {self.changed[what]}")
        files, limit = manifest.source["files"], manifest.options.get("max_samples")
        for file in files:
            rows = self.rows[file["name"]]
            if rows != file["rows"] and (limit is None or rows > file["rows"]):
                what = f"source file {file['name']} has {file['rows']} rows, {rows} are samples or rejected"
                yield Finding(MANIFEST, None, what)
        if limit is not None and self.rows.total() != min(limit, sum(file["rows"] for file in files)):
            what = f"options.max_samples is {limit}, {self.rows.total()} rows are samples or rejected"
            yield Finding(MANIFEST, None, what)


def _against_options(
    options: dict[str, Any], split: str, sample: Sample, about: dict[str, Any]
) -> str | None:
    """Which option would not have let a sample be what it is, or where."""
    width, height = about.get("width", 0), about.get("height", 0)
    for name, value in (("max_pixels", width * height), ("size", min(width, height))):
        if (limit := options.get(name)) is not None and value > limit:
            return f"{width}x{height} pixels, but options.{name} is {limit}"
    ends = options.get("splits", {}).get("ends")
    if ends and not about.get("changed"):  # otherwise the CRC-32 is not that of the source
        color = next(member for member in sample.members if member.suffix.startswith("color."))
        begins = dict(zip(ends, [0, *ends.values()], strict=False))
        if options["splits"]["of"] != HASH_RANGE or not begins[split] <= color.crc32 < ends[split]:
            return f"by options.splits no sample of {split}"
    return None


def _quarantine(root: Place, manifest: Manifest, counted: _Counted) -> Iterator[Finding]:
    reasons: Counter[str] = Counter()
    with (root / QUARANTINE).open_binary() as file:
        for line in file:
            row = json.loads(line)
            reasons[row["reason"]] += 1
            counted.rows[row["file"]] += 1
    said = Counter(manifest.quarantine["reasons"])
    for reason in sorted(said | reasons):
        if said[reason] != reasons[reason]:
            what = f"{reason} comes {reasons[reason]} times (the manifest says {said[reason]})"
            yield Finding(QUARANTINE, None, what)


def _foreign(manifest: Manifest) -> Iterator[Finding]:
    """The tars are the source."""
    listed = {file["name"]: file for file in manifest.source["files"]}
    shards = {entry.name: entry for split in manifest.splits.values() for entry in split.shards}
    for name in sorted(listed.keys() | shards.keys()):
        if name not in listed or name not in shards:
            yield Finding(
                MANIFEST, None, f"{name} is {'no shard' if name in listed else 'not in source.files'}"
            )
            continue
        for key in ("bytes", "sha256"):
            said, there = listed[name].get(key), getattr(shards[name], key)
            if said != there:
                yield Finding(
                    MANIFEST, None, f"source file {name}: {key} is {said}, that of the shard {there}"
                )
