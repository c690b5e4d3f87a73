"""Checkpoints: folders of named files that exist whole or not at all; what they say, and how they are loaded.

`RUN/checkpoints/step-00012000/` holds `generator.safetensors`, `ema.safetensors`,
`discriminator.safetensors`, `trainer.pt` (optimizers and loss scaler) and, last, `meta.json` (step,
configuration, digest of the data, validation figures, size and sha256 of every file). The folder is written
under a temporary name and renamed; only then are older ones removed. There is no data state and no random
state to save: both are functions of the step.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file

from streamgan.core.config import TrainConfig, dump_yaml
from streamgan.core.errors import CheckpointError, StreamganError
from streamgan.core.files import atomic_write, sha256_file
from streamgan.core.hub import BUNDLED, download_model, is_hub_model
from streamgan.core.logs import say

from .state import Networks

FORMAT = "streamgan-checkpoint"
VERSION = 1
LOWER_IS_BETTER = {"loss", "ab_error", "dcf"}
DAMAGED_SUFFIX = ".damaged"
# Settings that may differ between the start of a run and its continuation: they change no batch.
FREE_SETTINGS = {
    "data.shards",  # its digest is compared instead: a set may move
    *(f"data.{key}" for key in ("workers", "on_bad", "max_bad", "stall_s", "cache", "cache_gb")),
    *(f"run.{key}" for key in ("dir", "steps", "epochs", "log_every", "keep", "max_bad_steps", "threads")),
    *(f"run.{key}_every" for key in ("validate", "sample", "checkpoint", "keep")),
    *(f"run.{key}_images" for key in ("validate", "sample")),
    *(f"run.{key}" for key in ("patience", "init_from", "profile_steps", "compile", "timeout_s")),
}


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its folder and what its meta.json says."""

    path: Path
    step: int
    meta: dict[str, Any]

    @property
    def score(self) -> float | None:
        """The run's named metric, negated if lower is better; None if nothing was validated."""
        return self.meta["score"]


@dataclass
class Progress:
    """The best score of the named metric so far, and how many validations ago that was."""

    metric: str
    best: float | None = None
    stale: int = 0

    def score(self, validation: dict[str, float]) -> float | None:
        """The metric of a validation, as the higher the better."""
        value = validation.get(f"val/{self.metric}")
        return None if value is None else -value if self.metric in LOWER_IS_BETTER else value

    def add(self, validation: dict[str, float]) -> None:
        score = self.score(validation)
        better = score is not None and (self.best is None or score > self.best)
        self.best, self.stale = (score, 0) if better else (self.best, self.stale + 1)


def checkpoint_folder(run: Path) -> Path:
    return run / "checkpoints"


def list_checkpoints(run: Path) -> list[Checkpoint]:
    """Committed checkpoints of a run, oldest first. Unfinished folders do not count."""
    return [read_checkpoint(path) for path in _committed(run)]


def _committed(run: Path) -> list[Path]:
    folders = sorted(checkpoint_folder(run).glob("step-????????"))
    return [path for path in folders if (path / "meta.json").is_file()]


def read_checkpoint(path: Path) -> Checkpoint:
    """What the commit mark of a checkpoint says; CheckpointError if it is damaged or of another release."""
    try:
        meta = json.loads((path / "meta.json").read_bytes())
        kind = f"{meta.get('format')} {meta.get('version')}"
    except (OSError, ValueError, AttributeError) as error:
        todo = f"delete {path} to continue from the one before"
        raise CheckpointError(path / "meta.json", f"damaged ({error!r})", todo) from error
    if kind != f"{FORMAT} {VERSION}":
        what = f"is {kind} (this release reads {FORMAT} {VERSION})"
        raise CheckpointError(path / "meta.json", what, "use the streamgan release that wrote it")
    return Checkpoint(path, int(meta["step"]), meta)


def newest_whole(run: Path, accelerator: Accelerator) -> Checkpoint | None:
    """The newest checkpoint whose files are as they were written, the same on every rank; None if none is.

    Newer ones that are damaged are named and set aside (`.damaged`); CheckpointError if only such are left.
    """
    found: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            found = [_set_damaged_aside(run)]
        except StreamganError as error:  # for all ranks, which would wait for this one
            found = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if isinstance(found[0], StreamganError):
        raise found[0]
    return None if found[0] is None else read_checkpoint(Path(found[0]))


def _set_damaged_aside(run: Path) -> str | None:
    folders = _committed(run)
    for number, path in enumerate(reversed(folders), 1):
        try:
            _check_files(read_checkpoint(path))
        except CheckpointError as error:
            if number == len(folders):
                todo = f"restore it, or delete {path} to start from the beginning"
                raise CheckpointError(error.where, error.what, todo) from error
            aside = path.with_name(path.name + DAMAGED_SUFFIX)
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            say(f"{error.where}: {error.what}; moved to {aside.name}, continuing from the checkpoint before")
        else:
            return str(path)
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
    if change := _changes(checkpoint, config, digest):
        if not allow_changed:
            todo = "start a new run with another run.dir, restore the setting, or give --allow-changed"
            raise CheckpointError(checkpoint.path, change, todo)
        say(f"{checkpoint.path}: {change}; going on as asked")
    _load_weights(checkpoint.path, networks)
    state = torch.load(checkpoint.path / "trainer.pt", map_location="cpu", weights_only=True)
    networks.optimizer_g.load_state_dict(state["optimizer_g"])
    if networks.optimizer_d is not None and state["optimizer_d"] is not None:
        networks.optimizer_d.load_state_dict(state["optimizer_d"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])


def initialise_from(folder: str, networks: Networks) -> None:
    """Start with the networks, not the optimizers, of a run's newest checkpoint, a checkpoint or a bundle."""
    path = download_model(folder) if is_hub_model(folder) else Path(folder)
    checkpoints = list_checkpoints(path)
    if checkpoints:
        path = checkpoints[-1].path
        _check_files(checkpoints[-1])
    elif not any((path / name).is_file() for name in ("generator.safetensors", BUNDLED)):
        raise CheckpointError(path, "no checkpoint here", "give a run folder or a checkpoint folder")
    _load_weights(path, networks)
    say(f"starting from the networks of {path}")


def _load_weights(path: Path, networks: Networks) -> None:
    modules = {"generator": networks.plain_generator, "ema": networks.ema}
    if networks.plain_discriminator is not None and (path / "discriminator.safetensors").exists():
        modules["discriminator"] = networks.plain_discriminator
    for name, module in modules.items():
        file = path / f"{name}.safetensors"
        if not file.exists() and name != "discriminator":  # a bundle has one file for both, or two
            file = path / BUNDLED
        try:
            module.load_state_dict(load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            todo = "choose the model.* settings of the run that wrote it"
            raise CheckpointError(file, f"does not fit this model ({reason})", todo) from error


def write_config(run: Path, config: TrainConfig) -> None:
    """`RUN/config.yaml`, the resolved configuration."""
    with atomic_write(run / "config.yaml") as file:
        file.write(dump_yaml(config).encode())


def remove_checkpoint(checkpoint: Checkpoint) -> None:
    # Uncommit first: a half-deleted folder must not look whole.
    (checkpoint.path / "meta.json").unlink()
    shutil.rmtree(checkpoint.path)


def _check_files(checkpoint: Checkpoint) -> None:
    for name, expected in checkpoint.meta["files"].items():
        path = checkpoint.path / name
        if not path.is_file() or sha256_file(path) != expected["sha256"]:
            todo = f"delete {checkpoint.path} to continue from the one before"
            raise CheckpointError(path, "missing or damaged (sha256)", todo)


def _changes(checkpoint: Checkpoint, config: TrainConfig, digest: str) -> str | None:
    """What of the run has changed since, in words; all of it matters to the batches or the networks."""
    changes = []
    if checkpoint.meta["shards_digest"] != digest:
        old = checkpoint.meta["shards_digest"][:12]
        changes.append(f"was trained on other shards (digest {old}, now {digest[:12]})")
    saved, now = checkpoint.meta["config"], config.model_dump(mode="json")
    for section, settings in now.items():
        fields = type(getattr(config, section)).model_fields
        for key, value in settings.items():
            # a setting that the run did not know yet had no effect, as its default has
            name, old = f"{section}.{key}", saved.get(section, {}).get(key, fields[key].default)
            if name not in FREE_SETTINGS and old != value:
                changes.append(f"was trained with {name}={old} (got {value})")
    return ", ".join(changes) or None
