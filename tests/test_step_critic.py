"""Several discriminator steps to one of the generator, and what is drawn at random in a step."""

import json

import pytest
import torch
from accelerate import Accelerator
from test_train_step import images, make
from training import losses, read_metrics, settings, tiny_config

from streamgan.core.color import HEADS
from streamgan.core.config import load_config
from streamgan.core.errors import StreamganError
from streamgan.train import schedule
from streamgan.train import step as step_module
from streamgan.train.loop import train
from streamgan.train.step import GanStep
from streamgan.train.terms import build_losses

CRITIC = ["loss.gan=wgan", "loss.n_critic=3", "run.validate_every=100"]


def test_with_n_critic_the_generator_moves_in_every_nth_step_and_always_in_the_warm_up():
    words = ["run.steps=20", "loss.n_critic=5", "loss.warmup_steps=3", "loss.ramp_steps=2"]
    config = load_config(None, words)
    lengths = schedule.Lengths(total=20, warmup=3, ramp=2)
    moves = [step for step in range(20) if schedule.generator_moves(config, step, lengths)]
    assert moves == [0, 1, 2, 4, 9, 14, 19]
    without_gan = load_config(None, ["run.steps=20", "loss.n_critic=5", "loss.gan_weight=0"])
    assert all(schedule.generator_moves(without_gan, step, lengths) for step in range(20))


def test_n_critic_trains_alike_whatever_the_break_and_the_accumulation(shard_set, tmp_path):
    whole, cut, split = (tmp_path / name for name in ("whole", "cut", "split"))
    train(tiny_config(shard_set, whole, "run.steps=7", *CRITIC))
    for steps in (4, 7):  # the break lies between two steps of the generator
        train(tiny_config(shard_set, cut, f"run.steps={steps}", *CRITIC))
    train(tiny_config(shard_set, split, "run.steps=7", *CRITIC, "optim.accumulate=4"))
    rows = losses(whole)
    assert [step for step, row in rows.items() if "loss/g_adv" in row] == [3, 6]
    assert losses(cut) == rows
    for step, row in losses(split).items():
        assert row == pytest.approx(rows[step], abs=1e-4), step
    lines = [line for line in read_metrics(whole) if "lr/g" in line]
    assert [line["step"] for line in lines if "loss/d_total" in line] == list(range(3, 8))
    assert [line["step"] for line in lines if "loss/gp" in line] == list(range(3, 8))


def test_good_steps_of_the_discriminator_do_not_hide_a_generator_that_never_moves(shard_set, tmp_path):
    words = ["run.steps=30", "loss.warmup_steps=0", "loss.rec_weight=1e39", "run.max_bad_steps=3"]
    words += ["run.checkpoint_every=4"]  # at 4 the first of the bad steps, 3, 6 and 9, is over
    told = "not finite for 3 steps, all skipped; there is no earlier checkpoint"
    with pytest.raises(StreamganError, match=told):
        train(tiny_config(shard_set, tmp_path / "run", *words, *CRITIC))
    assert read_metrics(tmp_path / "run")[-1]["step"] == 9


def shares(monkeypatch, *, world: int, accumulate: int, step: int = 7, seed: int = 0) -> torch.Tensor:
    """The shares of the mixtures of one global batch of 8, drawn by `world` ranks in turn."""
    seen = []
    monkeypatch.setattr(
        step_module, "mix", lambda real, fake, share: seen.append(share) or torch.lerp(fake, real, 0.5)
        .detach().requires_grad_()
    )  # fmt: skip
    for rank in range(world):
        config, accelerator, networks = make("loss.gan=wgan")
        monkeypatch.setattr(Accelerator, "process_index", rank)
        train_step = GanStep(
            accelerator, networks, HEADS["lab"], build_losses(config), seed=seed, accumulate=accumulate
        )
        train_step(images(8 // world), None, step=step, adversarial_weight=0.1)
    return torch.cat(seen)


def test_mixtures_do_not_depend_on_ranks_and_micro_batches(monkeypatch):
    alone = shares(monkeypatch, world=1, accumulate=1)
    assert len(alone.unique()) == 8
    assert 0 <= alone.min() < 0.5 < alone.max() < 1
    for world, accumulate in ((1, 4), (2, 1), (2, 2)):
        assert torch.equal(shares(monkeypatch, world=world, accumulate=accumulate), alone)
    assert not torch.equal(shares(monkeypatch, world=1, accumulate=1, step=8), alone)
    assert not torch.equal(shares(monkeypatch, world=1, accumulate=1, seed=1), alone)


@pytest.mark.slow
@pytest.mark.dist
def test_two_processes_train_a_critic_like_one(template, shard_set, tmp_path):
    more = ["run.steps=12", "loss.warmup_steps=0", *CRITIC]
    train(tiny_config(shard_set, tmp_path / "one", *more))
    words = settings(shard_set, tmp_path / "two", *more)
    template.run_ranks([str(tmp_path), "none", *words], script="tests/dist/watched_train.py")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == [3, 6, 9, 12]
    for step, row in one.items():
        assert two[step] == pytest.approx(row, abs=1e-4), step
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert [row["all"] for row in ranks[0]] == [row["all"] for row in ranks[1]]
