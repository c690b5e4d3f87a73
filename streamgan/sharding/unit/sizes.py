"""`--shard-size`: how many rows make a shard of about so many bytes, from the footers alone."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

from streamgan.core.errors import ConfigError
from streamgan.sharding.source.read import SourceFile
from streamgan.sharding.splits import HASH_RANGE

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


def parse_size(spec: str) -> int:
    """`256MB`, `0.5 GiB` -> bytes."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMG]I?)?B?", spec.strip().upper(), re.ASCII)
    size = int(Fraction(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise ConfigError("--shard-size", f"not a size (got {spec[:40]})", "write for example 256MB or 1GiB")
    return size


def rows_per_unit(files: Sequence[SourceFile], shard_bytes: int, *, largest_share: float) -> int:
    """Rows of which a unit needs so many that the shards of its largest split have about `shard_bytes`.

    A row is taken to be as large as the source's files are on average, with what is not kept of it.
    """
    rows, size = sum(sum(file.group_rows) for file in files), sum(file.bytes for file in files)
    return max(1, round(shard_bytes / largest_share * rows / max(1, size)))


def largest_share(
    files: Sequence[SourceFile], split_ends: Mapping[str, int], file_splits: Sequence[str] | None
) -> float:
    """The fraction of all rows that goes to the split with most of them."""
    if file_splits is None:
        bounds = [0, *split_ends.values()]
        return max(end - begin for begin, end in pairwise(bounds)) / HASH_RANGE
    rows: Counter[str] = Counter()
    for file, split in zip(files, file_splits, strict=True):
        rows[split] += sum(file.group_rows)
    return max(rows.values()) / max(1, rows.total())
