"""One set made by many jobs that know nothing of each other: part I of N does every N-th unit.

Parts share the folder of the set. Each commits its units there and leaves; publishing takes every record,
whoever wrote it, so `--finish` (or a run without `--part`, which also does what is missing) ends the work.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.place import Place
from streamgan.sharding.unit.plan import Unit

_MARKER = re.compile(r"parts-of-(\d+)")


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def label(self) -> str:
        """As `str`, fit for a file name."""
        return f"{self.number}-of-{self.count}"

    def share(self, plan: Sequence[Unit]) -> Sequence[Unit]:
        """Every unit of a plan is in the share of exactly one part."""
        return plan[self.number - 1 :: self.count]


def parse_part(spec: str) -> Part:
    """`2/8` -> Part(2, 8)."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", spec.strip(), re.ASCII)
    part = Part(int(match[1]), int(match[2])) if match else None
    if part is None or not 1 <= part.number <= part.count:
        raise ConfigError("--part", f"not one of N parts (got {spec[:40]})", "write for example 1/8 to 8/8")
    return part


def claim_count(work: Place, part: Part) -> None:
    """Say in `work` into how many parts the plan is cut; two ways of cutting it would do units twice."""
    (work / f"parts-of-{part.count}").touch()
    if other := counts(work) - {part.count}:
        (work / f"parts-of-{part.count}").unlink(missing_ok=True)
        raise ConfigError(
            work.parent,
            f"is being made in {min(other)} parts (got --part {part})",
            f"use --part I/{min(other)}; or, when no part runs, leave out --part to do what is missing",
        )


def counts(work: Place) -> set[int]:
    """Every N with which `--part I/N` was begun here: one or none."""
    return {int(match[1]) for path in work.iterdir() if (match := _MARKER.fullmatch(path.name))}


def forget_count(work: Place) -> None:
    """Let the plan be cut anew; only who is alone in the folder may."""
    for count in counts(work):
        (work / f"parts-of-{count}").unlink(missing_ok=True)


def refuse_missing(root: Place, units: Sequence[int], *, total: int, count: int | None) -> None:
    """DataError naming the units that nobody has done, and the parts that would."""
    if not units:
        return
    todo = "run the command without --finish to make them"
    if count:
        parts = _ranges({unit % count + 1 for unit in units})
        todo = f"run --part I/{count} again for I = {parts}, then --finish"
    raise DataError(root, f"{len(units)} of {total} units are missing ({_ranges(units)})", todo)


def _ranges(numbers: Iterable[int]) -> str:
    """{1, 2, 3, 7} -> `1-3, 7`; at most ten ranges."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:10]]
    return ", ".join(shown) + (", ..." if len(ranges) > 10 else "")
