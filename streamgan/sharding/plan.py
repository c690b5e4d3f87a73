"""Which rows go where, as pure functions of the footers and the options.

Row groups, the smallest piece that parquet reads without waste, are put in an order that depends on the
seed alone and packed whole into units. A unit is the piece of work that one worker does and commits: one
shard a split. So the plan is the same for any number of workers and any history of crashes, and a set can
be made by anyone in any order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath

from streamgan.core.errors import ConfigError
from streamgan.core.seeding import permutation
from streamgan.data.format import SPLITS

HASH_RANGE = 1 << 32
_WEIGHT = re.compile(r"[+-]?\d{0,30}(\.\d{0,30}|/\d{1,30})?", re.ASCII)
_FILE_SPLIT = re.compile(r"(train|validation|val|test)(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of one row group of one file."""

    file: int
    row_group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Unit:
    """What is committed at once: about `samples_per_shard` rows, written as one shard a split."""

    number: int
    pieces: tuple[Piece, ...]

    @property
    def num_rows(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)


def make_plan(
    group_rows: Sequence[Sequence[int]], *, samples_per_shard: int, seed: int, max_samples: int | None = None
) -> tuple[Unit, ...]:
    """Units over `group_rows[file][row group]` (row counts): each row once, or `max_samples` of them.

    Row groups of more than twice `samples_per_shard` are cut into equal ranges; a unit is closed where its
    size is nearest to `samples_per_shard`.
    """
    pieces = [
        Piece(file, group, start, stop)
        for file, groups in enumerate(group_rows)
        for group, rows in enumerate(groups)
        for start, stop in _ranges(rows, samples_per_shard)
    ]
    line = [pieces[i] for i in permutation(len(pieces), seed)]
    units: list[Unit] = []
    open_unit: list[Piece] = []
    size = 0
    for piece in _first(line, max_samples):
        rows = piece.stop - piece.start
        if open_unit and abs(size + rows - samples_per_shard) > abs(size - samples_per_shard):
            units.append(Unit(len(units), tuple(open_unit)))
            open_unit, size = [], 0
        open_unit.append(piece)
        size += rows
    if open_unit:
        units.append(Unit(len(units), tuple(open_unit)))
    return tuple(units)


def _ranges(rows: int, samples_per_shard: int) -> list[tuple[int, int]]:
    parts = -(-rows // samples_per_shard) if rows > 2 * samples_per_shard else min(rows, 1)
    return [(rows * i // parts, rows * (i + 1) // parts) for i in range(parts)]


def _first(line: list[Piece], max_samples: int | None) -> list[Piece]:
    if max_samples is None:
        return line
    kept, left = [], max_samples
    for piece in line:
        if left <= 0:
            break
        stop = min(piece.stop, piece.start + left)
        kept.append(Piece(piece.file, piece.row_group, piece.start, stop))
        left -= stop - piece.start
    return kept


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
