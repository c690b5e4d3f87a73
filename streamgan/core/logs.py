"""What a person sees while something long runs: a progress bar, or lines where there is no terminal.

Everything here goes to stderr, mostly from rank 0 alone; stdout belongs to results.
"""

import math
import os
import sys
from typing import Any

from tqdm import tqdm

LINE_INTERVAL_S = 10.0


def is_main_process() -> bool:
    """Whether this process speaks for the whole job (rank 0, or no launcher at all)."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str, *, every_rank: bool = False) -> None:
    """One line on stderr, from rank 0 (or from each, which then says its number), without tearing a bar."""
    if is_main_process() or every_rank:
        named = every_rank and int(os.environ.get("WORLD_SIZE", "1")) > 1
        tqdm.write(f"rank {os.environ['RANK']}: {message}" if named else message, file=sys.stderr)


def interval_text(value: float, around: float | None) -> str:
    """A figure and half the width of its interval, `1.40±0.04`; of an interval that is not known nothing."""
    return f"{value:.2f}" + ("" if around is None or math.isnan(around) else f"±{around:.2f}")


def size_text(num_bytes: float) -> str:
    """4.5e6 -> 4.5 MB."""
    for factor, unit in ((1e18, "EB"), (1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= 0.9995 * factor:  # 999,950 are not 1e+03 kB
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes:.0f} B"


class _Lines:
    """Stands for stderr where there is no cursor to move: every update of a bar becomes a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(
    *,
    total: int | None,
    unit: str,
    label: str,
    start: int = 0,
    hidden: bool = False,
    leave: bool = True,
) -> "tqdm[Any]":
    """A progress bar with rate and time left; on anything but a terminal, one such line every ten seconds.

    `leave` is false for a bar inside another one: it disappears when it ends.
    """
    terminal = sys.stderr.isatty()
    bar: tqdm[Any] = tqdm(
        total=total,
        initial=start,
        unit=unit,
        desc=label,
        file=sys.stderr if terminal else _Lines(),
        delay=0 if terminal else LINE_INTERVAL_S,  # what is over before its first line needs none
        disable=hidden or not is_main_process(),
        dynamic_ncols=terminal,
        ascii=not terminal,
        bar_format=None
        if terminal
        else "{desc}: {n_fmt}/{total_fmt} {elapsed}<{remaining} {rate_fmt}{postfix}",
        mininterval=0.1 if terminal else LINE_INTERVAL_S,
        maxinterval=LINE_INTERVAL_S,
        miniters=None if terminal else 0,  # the clock alone decides: a line also when nothing moves
        leave=leave,
        position=None if terminal else 0,  # lines have no place below each other
    )
    return bar
