"""The same training on any number of processes: curves, weights of every rank, and a NaN on one of them."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from training import losses, read_metrics, settings, tiny_config

from streamgan.train.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.dist]
STEPS = 50
FIFTY = [f"run.steps={STEPS}", "run.validate_every=100", "loss.r1_weight=1.0", "loss.r1_every=4"]


def ranks_of(out: Path, count: int) -> list[list[dict]]:
    """What each rank saw, without its own number."""
    ranks = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(count)]
    assert [{row.pop("rank") for row in rows} for rows in ranks] == [{rank} for rank in range(count)]
    return ranks


def assert_same_curve(run: Path, other: Path) -> None:
    ours, theirs = losses(run), losses(other)
    assert list(ours) == list(theirs) == list(range(1, STEPS + 1))
    assert all("loss/d_total" in ours[step] for step in range(3, STEPS + 1))
    for step, values in theirs.items():
        assert ours[step] == pytest.approx(values, abs=1e-4), step


@pytest.fixture(scope="module")
def alone(shard_set, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    train(tiny_config(shard_set, run, *FIFTY))
    return run


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fifty_steps_on_any_number_of_processes_have_the_same_curve_and_weights(
    template, shard_set, alone, tmp_path, count
):
    words = [str(tmp_path), "none", *settings(shard_set, tmp_path / "run", *FIFTY)]
    said = template.run_ranks(words, count, "tests/dist/watched_train.py")
    assert f"{count} x cpu, mixed precision no" in said
    assert_same_curve(tmp_path / "run", alone)
    first, *others = ranks_of(tmp_path, count)
    assert len(first) == STEPS + 1
    assert all(rows == first for rows in others)  # EMA, both networks and their buffers, at every step
    for before, after in pairwise(first[2:]):
        assert all(before[name] != after[name] for name in ("generator", "discriminator", "ema"))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_fifty_steps_with_accumulation_have_the_same_curve(shard_set, alone, tmp_path, accumulate):
    train(tiny_config(shard_set, tmp_path, *FIFTY, f"optim.accumulate={accumulate}"))
    assert_same_curve(tmp_path, alone)


def test_a_nan_on_one_rank_skips_the_same_step_on_all_and_training_goes_on(template, shard_set, tmp_path):
    poison = "1:5:generator,1:8:discriminator,1:11:generator,1:11:discriminator"
    words = [str(tmp_path), poison, *settings(shard_set, tmp_path / "run", "run.steps=14")]
    template.run_ranks(words, 2, "tests/dist/watched_train.py")
    first, second = ranks_of(tmp_path, 2)
    assert first == second
    skipped = {5: ["generator"], 8: ["discriminator"], 11: ["discriminator", "generator"]}
    for step in range(2, 14):
        same = [name for name in ("discriminator", "generator") if first[step][name] == first[step + 1][name]]
        assert same == skipped.get(step, []), step
        assert first[step]["skipped"] == len(same)
    counts = {
        line["step"] - 1: line["grad/skipped"] for line in read_metrics(tmp_path / "run") if "lr/g" in line
    }
    assert {step: count for step, count in counts.items() if count} == {5: 1, 8: 1, 11: 2}
    assert all(value == value for step in losses(tmp_path / "run").values() for value in step.values())
