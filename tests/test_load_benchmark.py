"""The measurement of loading: its table and its targets, with and without the arms that may be missing."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import load as benchmark
from load_arms import ARMS, OPTIONAL


def costs_of(milliseconds: dict[str, float], *, without: frozenset[str]) -> dict[str, list[dict[str, float]]]:
    """Two rounds of every arm, 1 ms of CPU per image unless said otherwise, the second twice as slow."""
    return {
        name: [
            {"cpu_s": round_ * milliseconds.get(name, 1.0) / 10, "wall_s": 0.2, "images": 100.0}
            for round_ in (1, 2)
        ]
        for name in ARMS.keys() - without
    }


@pytest.mark.parametrize("without", [frozenset(), frozenset(OPTIONAL)])
def test_a_target_is_a_ratio_of_the_same_round_and_of_arms_that_ran(without):
    costs = costs_of({benchmark.ALONE: 1.07, benchmark.GRAY: 1.09, "FFCV, JPEG": 1.0}, without=without)
    told = benchmark.targets(costs)
    assert "at most 1.08 x the decoder alone | 1.07 x | met" in told
    assert "gray derived | 1.09 x | MISSED" in told
    assert ("less CPU than FFCV, JPEG | 0.93 x | MISSED" in told) == (not without)
    assert benchmark.table(costs).count("\n") == 1 + len(ARMS) - len(without)
