"""Which rows go where, as pure functions of the footers and the options.

Row groups, the smallest piece that parquet reads without waste, are put in an order that depends on the
seed alone and packed whole into units. A unit is the piece of work that one worker does and commits: one
shard per split. So the plan is the same for any number of workers and any history of crashes, and a set can
be made by anyone in any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streamgan.core.seeding import permutation


@dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) of one row group of one file."""

    file: int
    row_group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Unit:
    """What is committed at once: about `samples_per_shard` rows, written as one shard per split."""

    number: int
    pieces: tuple[RowRange, ...]

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
        RowRange(file, group, start, stop)
        for file, groups in enumerate(group_rows)
        for group, rows in enumerate(groups)
        for start, stop in _ranges(rows, samples_per_shard)
    ]
    line = [pieces[i] for i in permutation(len(pieces), seed)]
    units: list[Unit] = []
    open_unit: list[RowRange] = []
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


def _first(line: list[RowRange], max_samples: int | None) -> list[RowRange]:
    if max_samples is None:
        return line
    kept, left = [], max_samples
    for piece in line:
        if left <= 0:
            break
        stop = min(piece.stop, piece.start + left)
        kept.append(RowRange(piece.file, piece.row_group, piece.start, stop))
        left -= stop - piece.start
    return kept
