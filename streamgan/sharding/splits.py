"""Which split an image belongs to: by the CRC-32 of its bytes, or by the name of the file that it came in."""

import re
from fractions import Fraction
from pathlib import PurePosixPath

from streamgan.core.errors import ConfigError
from streamgan.data.format import SPLITS

HASH_RANGE = 1 << 32
_WEIGHT = re.compile(r"[+-]?\d{0,30}(\.\d{0,30}|/\d{1,30})?", re.ASCII)
_FILE_SPLIT = re.compile(r"(train|validation|val|test)(?![A-Za-z0-9])")


def parse_splits(spec: str) -> dict[str, int]:
    """`train=70,val=20,test=10` -> for each split the end of its range of hashes, the last one 2**32.

    Weights need not add up to 100. The order is always train, val, test, whatever the order in `spec`.
    """
    todo = "write for example train=70,val=20,test=10, or source"
    weights: dict[str, Fraction] = {}
    for part in spec.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in SPLITS or name in weights:
            what = f"the same split twice ({name})" if name in weights else f"unknown split {name!r}"
            raise ConfigError("--splits", f"{what} (got {spec})", todo)
        try:  # digits alone: the fraction 1e999999999 would take hours to write out
            weights[name] = Fraction(value if _WEIGHT.fullmatch(value) else "")
        except (ValueError, ZeroDivisionError):
            raise ConfigError("--splits", f"{name} has no number (got {spec})", todo) from None
        if weights[name] <= 0:
            raise ConfigError("--splits", f"{name} is not positive (got {spec})", todo)
    total, below = sum(weights.values()), Fraction(0)
    ends = {}
    for name in SPLITS:
        if name in weights:
            below += weights[name]
            ends[name] = int(below * HASH_RANGE / total)
    return ends


def split_of_content(crc32: int, ends: dict[str, int]) -> str:
    """The split of an image by the CRC-32 of its bytes: the same in every set, for every copy."""
    return next(name for name, end in ends.items() if crc32 < end)


def split_of_file(name: str) -> str:
    """The split that a file's name says in the convention of the Hub (train-00000-of-00044.parquet)."""
    match = _FILE_SPLIT.match(PurePosixPath(name).name)
    if not match:
        raise ConfigError(
            name,
            "its name does not say its split (train-*, validation-*, val-* or test-*)",
            "rename it, or split by content with --splits train=70,val=20,test=10",
        )
    return "val" if match[1] == "validation" else match[1]
