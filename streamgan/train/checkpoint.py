"""What a run takes from a checkpoint when it goes on, and what must be as it was then.

There is no data state and no random state to save: both are functions of the step.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from streamgan.core.config import may_change, setting_names
from streamgan.core.digests import check_file, require_list
from streamgan.core.errors import CheckpointError, StreamganError
from streamgan.core.logs import say
from streamgan.core.run_folder import (
    Checkpoint,
    DamagedCheckpoint,
    best_first,
    check_files,
    list_checkpoints,
    read_checkpoint,
    score_of,
    set_aside,
    without_another,
)
from streamgan.core.settings import TrainConfig
from streamgan.core.storage.hub import BUNDLED, model_path
from streamgan.models.zhang import ZhangClassifier

from .build import GENERATOR_OPTIONS
from .networks import Networks

_BY_SIZE = {"timm_unet": "enlarge", "unet": "depth"}  # an option whose default depends on data.size


@dataclass
class Progress:
    """The best score of the named metric so far, and how many validations ago that was."""

    metric: str
    patience: int  # validations; 0: endless
    best: float | None = None
    stale: int = 0

    def add(self, validation: dict[str, float]) -> bool:
        """Whether this one is the best so far: its weights are to be kept."""
        score = score_of(validation, self.metric)
        better = score is not None and (self.best is None or score > self.best)
        self.best, self.stale = (score, 0) if better else (self.best, self.stale + 1)
        return better

    @property
    def out_of_patience(self) -> bool:
        return 0 < self.patience <= self.stale


def newest_whole(config: TrainConfig, accelerator: Accelerator) -> tuple[Checkpoint, Progress] | None:
    """The newest checkpoint whose files are as they were written, the same on every rank; None: a new run.

    Those that are damaged are named and set aside (`.damaged`), DamagedCheckpoint if only such are left. The
    best score is that of the checkpoints that are there: with a damaged one its score is lost too.
    """
    run, found = config.run, [None]
    if accelerator.is_main_process:
        try:
            found = [_set_damaged_aside(Path(run.dir), run.best_metric)]
        except (StreamganError, OSError) as error:  # for all ranks, which would wait for this one
            found = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    if found[0] is None:
        return None
    path, best = found[0]
    newest = read_checkpoint(Path(path))
    return newest, Progress(run.best_metric, run.patience, best, newest.meta["progress"]["stale"])


def _set_damaged_aside(run: Path, metric: str) -> tuple[str, float | None] | None:
    """(path of the newest whole one, best score)."""
    checkpoints = list_checkpoints(run, when_damaged=set_aside)
    while checkpoints:
        newest = checkpoints[-1]
        try:
            check_files(newest)
        except DamagedCheckpoint as error:
            if len(checkpoints) == 1:
                raise without_another(newest.path, error) from error
            set_aside(newest.path, error, newest=True)
            checkpoints.pop()
        else:
            return str(newest.path), best_first(checkpoints, metric)[0].score(metric)
    return None


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    config: TrainConfig,
    digest: str,
    networks: Networks,
    accelerator: Accelerator,
    allow_changed: bool = False,
) -> None:
    """Put weights and optimizers in place; CheckpointError if it is of another run.

    `allow_changed` says what differs instead of refusing it.
    """
    if change := _changes(checkpoint, config, digest, accelerator.mixed_precision):
        if not allow_changed:
            todo = "start a new run with another run.dir, restore the setting, or give --allow-changed"
            raise CheckpointError(checkpoint.path, change, todo)
        say(f"{checkpoint.path}: {change}; going on as asked")
    _load_weights(checkpoint.path, networks, config)
    state = torch.load(checkpoint.path / "trainer.pt", map_location="cpu", weights_only=True)
    theirs, ours = (
        [len(group["params"]) for group in groups]
        for groups in (state["optimizer_g"]["param_groups"], networks.optimizer_g.param_groups)
    )
    if theirs != ours:  # optim.lr_encoder
        what = f"its generator has {len(theirs)} learning rates, that of this run has {len(ours)}"
        if len(theirs) == len(ours):
            what = (
                f"its learning rates are for {theirs} tensors of the generator, those of this run for {ours}"
            )
        raise CheckpointError(
            checkpoint.path, what, "set optim.lr_encoder as it was then, or leave it out if it was not set"
        )
    for name, optimizer in (("optimizer_g", networks.optimizer_g), ("optimizer_d", networks.optimizer_d)):
        if optimizer is not None and state[name] is not None:
            ours = optimizer.state_dict()["param_groups"]  # betas, ...: those of the configuration
            optimizer.load_state_dict({**state[name], "param_groups": ours})
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])


def with_origin(config: TrainConfig, checkpoint: Checkpoint) -> TrainConfig:
    """`config` with the `run.init_from` that the run began with, for the record: it cannot begin again.

    Another one is said to have no effect.
    """
    origin = checkpoint.meta["config"]["run"].get("init_from")
    if config.run.init_from not in (None, origin):
        begun = origin or "new networks"
        say(
            f"{checkpoint.path}: run.init_from={config.run.init_from} is without effect, this run began with "
            f"{begun} and goes on; to start from it, choose another run.dir"
        )
    return config.model_copy(update={"run": config.run.model_copy(update={"init_from": origin})})


def initialise_from(folder: str, networks: Networks, config: TrainConfig) -> None:
    """Start with the networks, not the optimizers, of a run's newest checkpoint, a checkpoint or a bundle."""
    path = model_path(folder)
    checkpoints = list_checkpoints(path)
    if checkpoints:
        path = checkpoints[-1].path
        check_files(checkpoints[-1])
    elif not any((path / name).is_file() for name in ("generator.safetensors", BUNDLED)):
        raise CheckpointError(path, "no checkpoint here", "give a run folder or a checkpoint folder")
    else:
        require_list(path)
        for file in sorted(path.glob("*.safetensors")):
            check_file(file)
    file = next(path / name for name in ("generator.safetensors", BUNDLED) if (path / name).is_file())
    theirs = _model_settings(file)
    head = theirs["head"] if theirs else config.model.head
    if head != config.model.head:  # the shapes of lab and ycbcr are alike, their numbers are not
        what = f"predicts {head}, and this run {config.model.head}"
        raise CheckpointError(file, what, f"choose model.head={head}")
    loaded = _load_weights(path, networks, config)
    fresh = (
        "" if "discriminator" in loaded or not networks.plain_discriminator else "; the discriminator is new"
    )
    say(f"starting from the networks of {path}{fresh}")


def _load_weights(path: Path, networks: Networks, config: TrainConfig) -> Collection[str]:
    """The names of those that are there."""
    modules = {"generator": networks.plain_generator, "ema": networks.ema}
    if networks.plain_discriminator is not None and (path / "discriminator.safetensors").exists():
        modules["discriminator"] = networks.plain_discriminator
    for name, module in modules.items():
        file = path / f"{name}.safetensors"
        if not file.exists() and name != "discriminator":  # a bundle has one file for both, or two
            file = path / BUNDLED
        try:
            weights = load_file(file)
            _refuse_other_bins(file, weights, module)
            module.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(file, *_misfit(file, name, config, error)) from error
    return modules


def _refuse_other_bins(file: Path, weights: dict[str, Tensor], module: nn.Module) -> None:
    """A classifier takes over another number of bins with its weights, in tensors that no optimizer knows."""
    if not isinstance(module, ZhangClassifier) or "centres_Q2" not in weights:
        return
    theirs, ours = len(weights["centres_Q2"]), len(module.centres_Q2)
    if theirs != ours:
        what = f"has other bins of colour than this run (got {theirs}, not {ours})"
        todo = "set model.variant to the file of bins that it has, or leave it out if there was none"
        raise CheckpointError(file, what, todo)


def _misfit(file: Path, network: str, config: TrainConfig, error: Exception) -> tuple[str, str]:
    """Why a file of weights cannot be loaded, which model it is of and which was to take it; what to do."""
    kind, keys = "generator", ("head", *GENERATOR_OPTIONS)
    if network == "discriminator":
        kind, keys = "discriminator", ("d_width",)
    theirs, ours = _model_settings(file), config.model.model_dump()
    names = [key for key in keys if theirs is not None and theirs.get(key) != ours[key]]
    if theirs is None or (theirs[kind] == ours[kind] and not names):
        todo = "choose the model.* settings of the run that wrote it"
        if option := _BY_SIZE.get(config.model.generator):
            todo += f", and its data.size or what model.{option} it had"
        return f"does not fit this model ({str(error).splitlines()[-1].strip()})", todo
    old, new = (
        model[kind] + (f" ({', '.join(f'{key}={model.get(key)}' for key in names)})" if names else "")
        for model in (theirs, ours)
    )
    changed = [kind] if theirs[kind] != ours[kind] else []
    words = [f"model.{key}={'null' if theirs.get(key) is None else theirs[key]}" for key in changed + names]
    return f"is of the {kind} {old}, and this run has {new}", f"give {' '.join(words)}"


def _model_settings(file: Path) -> dict[str, Any] | None:
    """The `model` settings of the run that wrote a file of weights; None if it does not say."""
    try:
        with safe_open(file, "pt") as opened:
            return json.loads(opened.metadata()["config"])["model"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def diverged(run: Path, step: int, bad_steps: int, *, n_critic: int) -> StreamganError:
    """The error of a run whose last steps were all skipped: which checkpoint to go back to, and how.

    They may be those of the generator, which come every `n_critic` steps.
    """
    checkpoints, good = list_checkpoints(run), step - bad_steps * n_critic
    before = [one.step for one in checkpoints if one.step <= good]
    since = [one.path.name for one in checkpoints if one.step > good]
    todo = "lower optim.lr_g and lr_d, or set optim.clip_g and clip_d"
    if before:
        todo = f"delete {', '.join(since)} to go back to step {before[-1]}; then {todo}, with --allow-changed"
    else:
        todo = f"there is no earlier checkpoint; {todo}, and start again in another run.dir"
    return StreamganError(run, f"gradients were not finite for {bad_steps} steps, all skipped", todo)


def _changes(checkpoint: Checkpoint, config: TrainConfig, digest: str, precision: str) -> str | None:
    """What of the run has changed since, in words; all of it matters to the batches or the networks."""
    changes = []
    if checkpoint.meta["shards_digest"] != digest:
        old = checkpoint.meta["shards_digest"][:12]
        changes.append(f"was trained on other shards (digest {old}, now {digest[:12]})")
    old = checkpoint.meta.get("mixed_precision", precision)  # unknown to checkpoints of before
    if old != precision:
        changes.append(f"was trained with mixed precision {old} (got {precision})")
    saved, now = checkpoint.meta["config"], config.model_dump(mode="json")
    for name, field in setting_names().items():
        section, key = name.split(".")
        # a setting that the run did not know yet had no effect, as its default has
        old, new = saved.get(section, {}).get(key, field.default), now[section][key]
        if old != new and not may_change(name):
            changes.append(f"was trained with {name}={old} (got {new})")
    return ", ".join(changes) or None
