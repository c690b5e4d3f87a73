"""`RUN/metrics.jsonl`: one JSON object per line with `step`, `time` and scalars by tag."""

import json
from pathlib import Path
from typing import Any

from streamgan.core.logs import say
from streamgan.core.run_folder import DAMAGED_SUFFIX, METRICS
from streamgan.core.storage.files import atomic_write


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The scalars of a line; None if it is not as it was written."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and type(row.get("step")) is int
    return row if is_row and isinstance(row.get("time", 0.0), int | float) else None


def read_history(run: Path) -> list[dict[str, Any]]:
    """The lines of a run that can be read."""
    rows = map(parse_line, (run / METRICS).read_bytes().splitlines())
    return [row for row in rows if row is not None]


def cut_history(run: Path, step: int, *, again: bool = False) -> None:
    """Drop the lines after `step`; those that cannot be read are named and set aside.

    If `step` is to be validated `again`, the figures of its validation are dropped too.
    A last line without an end is what a killed process leaves, and is dropped.
    """
    path, kept, bad = run / METRICS, list[bytes](), dict[int, bytes]()
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines, 1):
        row = parse_line(line)
        if row is None:
            bad[number] = line + b"\n"
        elif row["step"] < step or (row["step"] == step and not (again and "val/loss" in row)):
            kept.append(line + b"\n")
    bad.pop(len(lines), None)
    if bad:
        aside = path.with_name(path.name + DAMAGED_SUFFIX)
        with open(aside, "ab") as file:
            file.writelines(bad.values())
        told = f"{len(bad)} lines cannot be read (the first is line {min(bad)})"
        if len(bad) == 1:
            told = f"line {min(bad)} cannot be read"
        say(f"{path}: {told}; moved to {aside.name}")
    with atomic_write(path) as file:
        file.writelines(kept)
