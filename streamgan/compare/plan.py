"""How many steps a row trains, decided once and kept in its folder.

A budget of minutes becomes a number of steps before the row starts, because schedules depend on the length:
the first seconds of the row are trained in a folder that is thrown away, without and with the GAN, and the
mean time of a step says how many fit. That number is in `plan.json`; whoever continues the row uses it.

A row is as long as the budget says, not as its recipe says. All that the recipe gives in steps or images
(warm-up, ramp, half-life of the average, ...) is stretched in the same ratio, so every phase keeps its share.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from streamgan.core.config import may_change, setting_names
from streamgan.core.errors import ConfigError, StreamganError
from streamgan.core.logs import say
from streamgan.core.settings import TrainConfig
from streamgan.core.storage.files import read_json, write_json
from streamgan.data.loader import training_loader
from streamgan.train.build import build_reading, build_shuffle
from streamgan.train.history import read_history
from streamgan.train.loop import train
from streamgan.train.schedule import WARMUP_SHARE, total_steps

from .settings import Budget, Row, differences, with_settings

FORMAT, VERSION = "streamgan-compare-plan", 1
CHECKPOINTS = 10  # in a row: what a kill can cost is a tenth of it
_TIMED, _INTERVALS = 4, 4  # steps an interval, intervals a phase; the first of them is not counted
_NEVER = 10**9


@dataclass(frozen=True)
class Plan:
    """The length of a row, the seconds per step (None: not measured), and the resolved configuration."""

    steps: int
    step_s: float | None
    config: TrainConfig


@dataclass(frozen=True)
class Terms:
    """What holds for all rows: the budget, the precision, the photos."""

    budget: Budget
    mixed_precision: str
    shards_digest: str

    def with_row(self, row: Row) -> dict[str, Any]:
        """All that a row must keep from its beginning to its end."""
        return {
            "budget": self.budget.model_dump(),
            "mixed_precision": self.mixed_precision,
            "shards_digest": self.shards_digest,
            "config": row.config.model_dump(mode="json"),
        }


def refuse_changes(row: Row, terms: Terms) -> None:
    """ConfigError if the row was started with another recipe, budget, precision or shard set."""
    path = _plan_path(row)
    if path.exists() and (changes := _changes(_read(path), terms.with_row(row))):
        todo = (
            f"restore these settings, choose another --out, or delete {path.parent} to train this row again"
        )
        raise ConfigError(path, f"the row was started with {', '.join(changes)}", todo)


def plan_row(row: Row, terms: Terms) -> Plan:
    """The plan in the row's folder, or a new one, written there.

    Raises KeyboardInterrupt if a signal ended the measurement.
    """
    path, budget = _plan_path(row), terms.budget
    recipe = _recipe_steps(row.config)
    if path.exists():
        kept = _read(path)
        steps, step_s = kept["steps"], kept["step_s"]
    else:
        if budget.steps:
            steps, step_s = budget.steps, None
        else:
            step_s = measure_step_s(row.config, gan_share=gan_share(row.config, recipe))
            steps = max(1, int((budget.minutes or 0.0) * 60 / step_s))
        about = {"format": FORMAT, "version": VERSION, "steps": steps, "step_s": step_s}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**about, "recipe_steps": recipe, **terms.with_row(row)})
        if step_s is not None:
            say(f"{row.name}: {1000 * step_s:.0f} ms per step, so {steps} steps in {budget}")
    return Plan(steps, step_s, stretch(row.config, recipe, steps))


def stretch(config: TrainConfig, recipe_steps: int, steps: int) -> TrainConfig:
    """`config` as a run of `steps`, each of its phases as long in proportion as in `recipe_steps`."""

    def scaled(value: int | None, *, least: int = 0) -> int | None:
        return None if value is None else max(min(least, value), round(value * steps / recipe_steps))

    loss, optim, run = config.loss, config.optim, config.run
    return with_settings(
        config,
        {
            "loss.warmup_steps": scaled(loss.warmup_steps),
            "loss.ramp_steps": scaled(loss.ramp_steps),
            "optim.warmup_steps": scaled(optim.warmup_steps),
            "optim.decay_every": scaled(optim.decay_every, least=1),
            "optim.decay_after": scaled(optim.decay_after),
            "optim.ema_half_life_images": optim.ema_half_life_images * steps / recipe_steps,
            "run.steps": steps,
            "run.epochs": None,
            "run.validate_every": scaled(run.validate_every, least=1),
            "run.sample_every": scaled(run.sample_every, least=1),
            "run.checkpoint_every": max(1, steps // CHECKPOINTS),
            "run.keep": 1,
            "run.keep_every": 0,
        },
    )


def gan_share(config: TrainConfig, steps: int) -> float:
    """The part of the steps that train a discriminator too."""
    if config.loss.gan_weight == 0:
        return 0.0
    warmup = config.loss.warmup_steps
    return 1 - (WARMUP_SHARE if warmup is None else min(1.0, warmup / steps))


def measure_step_s(config: TrainConfig, *, gan_share: float) -> float:
    """Seconds of a training step, all of it, with `gan_share` of the steps in the GAN phase.

    Of each phase the median of its intervals counts: something else may have run at the time.
    """
    folder = Path(config.run.dir) / "timing"
    phase, phases = _TIMED * _INTERVALS, (gan_share < 1) + (gan_share > 0)
    warmup = phase if gan_share < 1 else 0
    short = with_settings(
        config,
        {
            "run.dir": str(folder),
            "run.steps": phase * phases,
            "run.epochs": None,
            "run.log_every": _TIMED,
            "run.validate_every": _NEVER,
            "run.validate_images": config.data.batch,
            "run.sample_every": _NEVER,
            "run.checkpoint_every": 0,
            "loss.warmup_steps": warmup,
            "loss.ramp_steps": 0,
        },
    )
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if train(short)["stopped"]:
            raise KeyboardInterrupt
        times = [(step, took) for step, took in step_times(folder) if (step - 1) % phase >= _TIMED]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    alone = [took for step, took in times if step <= warmup]
    both = [took for step, took in times if step > warmup]
    parts = ((alone, 1 - gan_share), (both, gan_share))
    return sum(median(took) * share for took, share in parts if share > 0)


def step_times(run: Path) -> list[tuple[int, float]]:
    """(step at its end, mean seconds of a step) of every interval that a run has logged."""
    return [(row["step"], row["perf/step_ms"] / 1000) for row in read_history(run) if "perf/step_ms" in row]


def training_minutes(run: Path) -> float:
    """Minutes of the steps that made a run's newest weights; validation and start-up are not counted."""
    minutes, before = 0.0, 0
    for step, took in step_times(run):
        minutes, before = minutes + (step - before) * took / 60, step
    return minutes


def _plan_path(row: Row) -> Path:
    return Path(row.config.run.dir) / "plan.json"


def _recipe_steps(config: TrainConfig) -> int:
    if config.run.steps:
        return config.run.steps
    loader = training_loader(build_reading(config), "train", build_shuffle(config), stop_step=0)
    return total_steps(config, loader.steps_per_epoch)


def _read(path: Path) -> dict[str, Any]:
    plan = read_json(path, todo=f"delete {path.parent} to train this row again")
    kind = (plan.get("format"), plan.get("version")) if isinstance(plan, dict) else None
    if kind != (FORMAT, VERSION):
        raise StreamganError(path, "is not a plan that this release can read", f"delete {path.parent}")
    return plan


def _changes(kept: dict[str, Any], given: dict[str, Any]) -> list[str]:
    length = ("run.steps", "run.epochs")  # what it gets of the budget
    ignored = [name for name in setting_names() if may_change(name) and name not in length]
    changes = [
        f"{key}={kept[key]} (got {given[key]})"
        for key in ("budget", "mixed_precision", "shards_digest")
        if kept[key] != given[key]
    ]
    return changes + differences(kept["config"], given["config"], ignored)
