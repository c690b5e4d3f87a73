"""What speaks for a whole set, made of the records of its units: split indexes, quarantine, manifest."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.files import sha256_file
from streamgan.core.storage.place import Place
from streamgan.data.format import (
    INDEX_DTYPE,
    QUARANTINE,
    SPLITS,
    Manifest,
    ShardEntry,
    SplitEntry,
    write_index,
    write_manifest,
)
from streamgan.sharding.splits import split_of_file
from streamgan.sharding.unit.writer import WORK, packed_name


@dataclass
class Records:
    """Complete units and what they add up to."""

    units: dict[int, dict[str, Any]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    def add(self, record: dict[str, Any]) -> int:
        """Count a record in; the bytes of its shards."""
        self.units[record["unit"]] = record
        self.rejected.update(row["reason"] for row in record["rejected"])
        self.changed.update(record.get("changed", {}))
        return sum(shard["bytes"] for shard in record["shards"].values())

    @property
    def num_rows(self) -> int:
        return sum(record["rows"] for record in self.units.values())


def allowed(max_bad: float) -> Fraction:
    """The fraction as it was written: 0.29 * 100 is less than 29. ConfigError unless it is from 0 to 1."""
    if not 0 <= max_bad <= 1:
        raise ConfigError("--max-bad", f"must be a number from 0 to 1 (got {max_bad})", "choose another one")
    return Fraction(repr(float(max_bad)))


def refuse_too_many_bad(
    root: Place, identity: dict[str, Any], records: Records, *, total: int, max_bad: float, token: str = ""
) -> None:
    """DataError if more than the fraction `max_bad` of all rows is rejected already; lists them."""
    bad = records.rejected.total()
    if bad > allowed(max_bad) * total:
        write_quarantine(root, identity, records, token=token)
        reasons = ", ".join(f"{reason} {count}" for reason, count in records.rejected.most_common())
        raise DataError(
            root,
            f"{bad} of {total} rows are bad, more than --max-bad {max_bad} allows: {reasons}",
            f"read {QUARANTINE}, repair the source or raise --max-bad, and run the command again",
        )


def write_quarantine(root: Place, identity: dict[str, Any], records: Records, *, token: str = "") -> None:
    """The rejected rows in the order of the source, one JSON object per line."""
    names = [file["name"] for file in identity["source"]["files"]]
    rows = [row for record in records.units.values() for row in record["rejected"]]
    rows.sort(key=lambda row: (row["file"], row["row"]))
    with (root / QUARANTINE).writing(token=token) as file:
        for row in rows:
            line = {**row, "file": names[row["file"]]}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def publish(root: Place, identity: dict[str, Any], records: Records) -> Manifest:
    """Write what speaks for the whole set, the manifest last. `records` holds every unit of the plan."""
    units = [records.units[number] for number in sorted(records.units)]
    write_quarantine(root, identity, records)
    if not any(unit["shards"] for unit in units):
        raise DataError(root, "no row is usable", f"read {QUARANTINE} and repair the source")
    splits = {name: _write_split(root, name, units) for name in split_names(identity)}
    quarantine = {
        "rows": records.rejected.total(),
        "reasons": dict(sorted(records.rejected.items())),
        "changed": dict(sorted(records.changed.items())),
        "sha256": sha256_file(root / QUARANTINE),
    }
    manifest = Manifest(identity["source"], identity["options"], splits, quarantine)
    write_manifest(root, manifest)
    return manifest


def split_names(identity: dict[str, Any]) -> list[str]:
    """The splits of a set, also those that turn out empty, in the order of the format."""
    ends = identity["options"]["splits"].get("ends")
    names = set(ends or (split_of_file(file["name"]) for file in identity["source"]["files"]))
    return [name for name in SPLITS if name in names]


def _write_split(root: Place, split: str, units: Sequence[dict[str, Any]]) -> SplitEntry:
    units = [unit for unit in units if split in unit["shards"]]
    entries = [ShardEntry(**unit["shards"][split]) for unit in units]
    packed = (root / WORK).read_many([packed_name(split, unit["unit"]) for unit in units])
    parts = [np.zeros(0, INDEX_DTYPE), *(np.load(io.BytesIO(data), allow_pickle=False) for data in packed)]
    path = root / f"{split}.index"
    write_index(path, np.concatenate(parts))
    samples, size = sum(entry.samples for entry in entries), sum(entry.bytes for entry in entries)
    return SplitEntry(samples, size, sha256_file(path), tuple(entries))
