"""What changes with the step: learning rates, the adversarial weight, how long each phase is, what is due.

All are pure functions of the step, so there is no scheduler to save. The lengths that a run resolved at its
beginning belong to it and lie in its checkpoints: a run that is made longer does not enter its warm-up again.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamgan.core.logs import say
from streamgan.core.settings import TrainConfig

from .networks import Networks

RAMP_UP = 0.05  # largest half-life of the average, as a share of the images seen: early weights go soon
WARMUP_SHARE = 0.15  # reconstruction alone, unless loss.warmup_steps says otherwise


@dataclass(frozen=True)
class Lengths:
    """Steps of the whole run, of its warm-up, and of the ramp of the adversarial weight after it."""

    total: int
    warmup: int
    ramp: int

    @classmethod
    def resolve(cls, config: dict[str, Any], steps_per_epoch: int) -> "Lengths":
        """Those of a configuration as JSON has it."""
        run, loss = config["run"], config["loss"]
        total = run["steps"] or (run["epochs"] or 0) * steps_per_epoch
        warmup, ramp = loss["warmup_steps"], loss["ramp_steps"]
        warmup = round(WARMUP_SHARE * total) if warmup is None else warmup
        return cls(total, warmup, warmup if ramp is None else ramp)

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    return Lengths.resolve(config.model_dump(), steps_per_epoch).total


def continue_lengths(
    config: TrainConfig, meta: dict[str, Any], steps_per_epoch: int, *, start: int
) -> Lengths:
    """The lengths of a run that goes on at `start` from a checkpoint; says it if the run's own has changed.

    The phases stay as long as they were, unless the configuration names their lengths.
    """
    loss, schedule = config.loss, config.optim.schedule
    new = Lengths.resolve(config.model_dump(), steps_per_epoch)
    kept = meta.get("lengths")  # unknown to checkpoints of before
    old = Lengths(**kept) if kept else Lengths.resolve(meta["config"], steps_per_epoch)
    lengths = Lengths(
        new.total,
        old.warmup if loss.warmup_steps is None else new.warmup,
        old.ramp if loss.ramp_steps is None else new.ramp,
    )
    if new.total != old.total and start < new.total:
        news = [f"{Path(config.run.dir)}: the run was to have {old.total} steps and now has {new.total}"]
        if loss.gan_weight > 0:
            news.append(f"its warm-up stays at {lengths.warmup} steps, the ramp after it at {lengths.ramp}")
        if schedule in ("linear", "cosine"):
            before, now = (learning_rate_factor(config, start, total) for total in (old.total, new.total))
            news.append(
                f"the {schedule} schedule ends at step {new.total}, "
                f"so learning rates go on at {now:.3g} of their full height (was {before:.3g})"
            )
        say("; ".join(news))
    return lengths


def out_of_reach(config: TrainConfig, lengths: Lengths, *, start: int) -> list[str]:
    """What the settings ask for and no step from `start` to the end does, each with the reason."""
    loss, optim, trace = config.loss, config.optim, config.run.profile_steps
    first_r1 = -(-lengths.warmup // loss.r1_every) * loss.r1_every  # a step counted from 0
    first_decay = optim.warmup_steps + optim.decay_after + optim.decay_every
    late = {
        f"loss.gan_weight (after {lengths.warmup} steps of warm-up)": loss.gan_weight > 0
        and lengths.warmup >= lengths.total,
        f"loss.r1_weight (from step {first_r1 + 1} on)": loss.gan_weight > 0
        and loss.r1_weight > 0
        and lengths.warmup < lengths.total <= first_r1,
        f"optim.decay (after {first_decay} steps)": optim.schedule == "step" and first_decay >= lengths.total,
        f"run.profile_steps={list(trace or ())}": trace is not None and not start < trace[0] <= lengths.total,
    }
    return [what for what, idle in late.items() if idle]


def adversarial_weight(config: TrainConfig, step: int, lengths: Lengths) -> float:
    """Weight of the adversarial loss at `step`: 0 in the warm-up, then rising linearly to loss.gan_weight."""
    if step < lengths.warmup:
        return 0.0
    risen = (step - lengths.warmup + 1) / lengths.ramp if lengths.ramp else 1.0
    return config.loss.gan_weight * min(1.0, risen)


def generator_moves(config: TrainConfig, step: int, lengths: Lengths) -> bool:
    """Whether G steps at `step`: always in the warm-up, then in every n-th, after n steps of D."""
    return adversarial_weight(config, step, lengths) == 0 or (step + 1) % config.loss.n_critic == 0


def learning_rate_factor(config: TrainConfig, step: int, total: int) -> float:
    """Multiplier of the learning rates at `step`."""
    optim = config.optim
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    first = optim.warmup_steps + optim.decay_after
    progress = max(0, step - first) / max(1, total - first)
    if optim.schedule == "linear":
        return 1 - progress
    if optim.schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if optim.schedule == "step":
        return optim.decay ** (max(0, step - first) // optim.decay_every)
    return 1.0


def set_learning_rates(networks: Networks, config: TrainConfig, step: int, total: int) -> dict[str, float]:
    """Give both optimizers their learning rates at `step`; those of G and D by TensorBoard tag."""
    optim, groups = config.optim, networks.optimizer_g.param_groups
    factor = learning_rate_factor(config, step, total)
    rates = [optim.lr_g] if optim.lr_encoder is None else [optim.lr_g, optim.lr_encoder]
    if networks.optimizer_d is not None:
        groups, rates = groups + networks.optimizer_d.param_groups, [*rates, optim.lr_d]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate * factor
    return {"lr/g": optim.lr_g * factor, "lr/d": optim.lr_d * factor}


def ema_decay(config: TrainConfig, step: int) -> float:
    """Weight of the average's old values after `step` steps: 0.5 ** (batch / half-life), ramped up."""
    batch = config.data.batch
    half_life = min(config.optim.ema_half_life_images, step * batch * RAMP_UP)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


class Due:
    """What is to be done after `step` optimizer steps."""

    def __init__(self, config: TrainConfig, step: int, *, steps_per_epoch: int, total: int):
        run, end, epoch_end = config.run, step == total, step % steps_per_epoch == 0
        self.log = end or step % run.log_every == 0
        self.checkpoint = end or epoch_end or _every(step, run.checkpoint_every)
        self.validate = end or (_every(step, run.validate_every) if run.validate_every else epoch_end)
        self.sample = end or (_every(step, run.sample_every) if run.sample_every else self.validate)


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
