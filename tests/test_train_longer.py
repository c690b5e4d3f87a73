"""A run that is made longer or shorter, or goes on in another precision: what stays, what is said."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.state import AcceleratorState
from marks import slow
from training import read_metrics, tiny_config

from streamgan.core.errors import CheckpointError, ConfigError
from streamgan.core.run_folder import list_checkpoints, sealed
from streamgan.core.storage.files import write_json
from streamgan.train import build
from streamgan.train.loop import train

# What the configuration leaves open: the warm-up is 15% of the steps, the ramp as long.
OPEN = ["loss.warmup_steps=null", "loss.ramp_steps=null", "run.validate_every=1000", "run.sample_every=1000"]


def adversarial_steps(run: Path) -> list[int]:
    """The steps that trained a discriminator."""
    return [row["step"] for row in read_metrics(run) if "loss/d_total" in row]


def forget_lengths(run: Path) -> None:
    """As checkpoints were written before they held them."""
    for checkpoint in list_checkpoints(run):
        meta = {
            key: value for key, value in checkpoint.meta.items() if key not in ("lengths", "mixed_precision")
        }
        write_json(checkpoint.path / "meta.json", sealed(meta))


@pytest.mark.parametrize(
    ("unit", "forgets"), [("steps", False), slow("epochs", True), slow("steps", True), slow("epochs", False)]
)
def test_a_longer_run_does_not_enter_its_warm_up_again(shard_set, tmp_path, capsys, unit, forgets):
    short, long = (7, 16) if unit == "steps" else (1, 2)
    total, more = (short, long) if unit == "steps" else (8, 16)
    train(tiny_config(shard_set, tmp_path, *OPEN, f"run.{unit}={short}"))
    if forgets:
        forget_lengths(tmp_path)
    capsys.readouterr()
    train(tiny_config(shard_set, tmp_path, *OPEN, f"run.{unit}={long}"))
    (news,) = (line for line in capsys.readouterr().err.splitlines() if "was to have" in line)
    assert news == (
        f"{tmp_path}: the run was to have {total} steps and now has {more}; "
        "its warm-up stays at 1 steps, the ramp after it at 1"
    )
    assert adversarial_steps(tmp_path) == list(range(2, more + 1))
    train(tiny_config(shard_set, tmp_path, *OPEN, "run.steps=18"))  # still those of the beginning
    assert adversarial_steps(tmp_path) == list(range(2, 19))


def test_a_length_that_is_named_counts_when_the_change_is_allowed(shard_set, tmp_path):
    train(tiny_config(shard_set, tmp_path, *OPEN, "run.steps=7"))
    words = ["run.steps=12", "loss.warmup_steps=9"]
    with pytest.raises(CheckpointError, match=r"loss\.warmup_steps=None \(got 9\)"):
        train(tiny_config(shard_set, tmp_path, *OPEN, *words))
    train(tiny_config(shard_set, tmp_path, *OPEN, *words), allow_changed=True)
    assert adversarial_steps(tmp_path) == [2, 3, 4, 5, 6, 7, 10, 11, 12]


def test_what_a_longer_run_does_to_its_schedule_is_said(shard_set, tmp_path, capsys):
    words = [*OPEN, "loss.gan_weight=0", "optim.schedule=linear"]
    train(tiny_config(shard_set, tmp_path, *words, "run.steps=4"))
    train(tiny_config(shard_set, tmp_path, *words, "run.steps=8"))
    assert (
        f"{tmp_path}: the run was to have 4 steps and now has 8; the linear schedule ends at step 8, "
        "so learning rates go on at 0.5 of their full height (was 0)\n"
    ) in capsys.readouterr().err
    rates = [row["lr/g"] / 2e-4 for row in read_metrics(tmp_path) if "lr/g" in row]
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125])


def test_another_precision_is_refused_unless_allowed(
    shard_set, tmp_path, monkeypatch, fresh_accelerator, capsys
):
    train(tiny_config(shard_set, tmp_path, "run.steps=1"))
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(CheckpointError, match=r"with mixed precision no \(got bf16\); .*allow-changed"):
        train(tiny_config(shard_set, tmp_path, "run.steps=2"))
    train(tiny_config(shard_set, tmp_path, "run.steps=2"), allow_changed=True)
    assert "mixed precision no (got bf16); going on as asked" in capsys.readouterr().err


def test_ranks_that_do_not_divide_the_batch_are_told_the_numbers_that_do(shard_set, tmp_path):
    config = tiny_config(shard_set, tmp_path, "run.steps=1", "data.batch=24", "optim.accumulate=2")
    five = SimpleNamespace(num_processes=5)
    with pytest.raises(ConfigError, match=r"a number of ranks out of 1, 2, 3, 4, 6, 12, or"):
        build.build_train_loader(config, five, start_step=0, stop_step=1)
