"""Checkpoints: folders of named files that exist whole or not at all.

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
from safetensors.torch import load_file, save_file

from streamgan.core.config import TrainConfig, dump_yaml
from streamgan.core.errors import CheckpointError
from streamgan.core.files import atomic_write, sha256_file, sync_directory, write_json

from .build import generator_spec
from .state import Networks

FORMAT = "streamgan-checkpoint"
VERSION = 1
BEST_METRIC = "val/psnr"  # higher is better
# Settings that may differ between the start of a run and its continuation: they change no batch.
FREE_SETTINGS = {
    "data.shards",  # its digest is compared instead: a set may move
    *(f"data.{key}" for key in ("workers", "on_bad", "max_bad", "stall_s", "cache", "cache_gb")),
    *(f"run.{key}" for key in ("dir", "steps", "epochs", "log_every", "keep", "max_bad_steps", "threads")),
    *(f"run.{key}_every" for key in ("validate", "sample", "checkpoint")),
    *(f"run.{key}_images" for key in ("validate", "sample")),
}


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its folder and what its meta.json says."""

    path: Path
    step: int
    meta: dict[str, Any]


def checkpoint_folder(run: Path) -> Path:
    return run / "checkpoints"


def list_checkpoints(run: Path) -> list[Checkpoint]:
    """Committed checkpoints of a run, oldest first. Unfinished folders do not count."""
    found = []
    for path in sorted(checkpoint_folder(run).glob("step-????????")):
        if (path / "meta.json").is_file():
            try:
                meta = json.loads((path / "meta.json").read_bytes())
                kind = f"{meta.get('format')} {meta.get('version')}"
            except (OSError, ValueError, AttributeError) as error:
                todo = f"delete {path} to continue from the one before"
                raise CheckpointError(path / "meta.json", f"damaged ({error})", todo) from error
            if kind != f"{FORMAT} {VERSION}":
                what = f"is {kind} (this release reads {FORMAT} {VERSION})"
                raise CheckpointError(path / "meta.json", what, "use the streamgan release that wrote it")
            found.append(Checkpoint(path, int(meta["step"]), meta))
    return found


def best_checkpoint(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """The one with the highest validation PSNR; the newest of equals."""
    scored = [c for c in checkpoints if BEST_METRIC in c.meta["validation"]]
    return max(scored, key=lambda c: (c.meta["validation"][BEST_METRIC], c.step), default=None)


def save_checkpoint(
    run: Path,
    step: int,
    *,
    config: TrainConfig,
    digest: str,
    validation: dict[str, float],
    networks: Networks,
    accelerator: Accelerator,
) -> None:
    """Write and commit a checkpoint, then prune. On the main process only; the others need not wait."""
    if not accelerator.is_main_process:
        return
    final = checkpoint_folder(run) / f"step-{step:08d}"
    if (final / "meta.json").exists():
        return
    temporary = final.with_name(f"{final.name}.tmp")
    for leftover in (temporary, final):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    about = {
        "format": FORMAT,
        "step": str(step),
        "model": json.dumps(generator_spec(config)),
        "config": config.model_dump_json(),
        "shards_digest": digest,
    }
    modules = {"generator": networks.plain_generator, "ema": networks.ema}
    if networks.plain_discriminator is not None:
        modules["discriminator"] = networks.plain_discriminator
    for name, module in modules.items():
        weights = {key: value.detach().contiguous().cpu() for key, value in module.state_dict().items()}
        save_file(weights, temporary / f"{name}.safetensors", metadata=about)
    torch.save(_trainer_state(networks, accelerator), temporary / "trainer.pt")
    files = {}
    for path in sorted(temporary.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "shards_digest": digest,
        "validation": validation,
        "config": json.loads(config.model_dump_json()),
        "files": files,
    }
    write_json(temporary / "meta.json", meta)
    os.replace(temporary, final)
    sync_directory(final.parent)
    _prune(run, config.run.keep)


def load_checkpoint(
    checkpoint: Checkpoint, *, config: TrainConfig, digest: str, networks: Networks, accelerator: Accelerator
) -> None:
    """Put weights and optimizers in place; CheckpointError if damaged or of another run."""
    _refuse_changes(checkpoint, config, digest)
    _check_files(checkpoint)
    device = accelerator.device
    networks.plain_generator.load_state_dict(load_file(checkpoint.path / "generator.safetensors"))
    networks.ema.load_state_dict(load_file(checkpoint.path / "ema.safetensors"))
    if networks.plain_discriminator is not None:
        networks.plain_discriminator.load_state_dict(load_file(checkpoint.path / "discriminator.safetensors"))
    state = torch.load(checkpoint.path / "trainer.pt", map_location=device, weights_only=True)
    networks.optimizer_g.load_state_dict(state["optimizer_g"])
    if networks.optimizer_d is not None:
        networks.optimizer_d.load_state_dict(state["optimizer_d"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])


def write_config(run: Path, config: TrainConfig) -> None:
    """`RUN/config.yaml`, the resolved configuration."""
    with atomic_write(run / "config.yaml") as file:
        file.write(dump_yaml(config).encode())


def _trainer_state(networks: Networks, accelerator: Accelerator) -> dict[str, Any]:
    return {
        "optimizer_g": networks.optimizer_g.state_dict(),
        "optimizer_d": None if networks.optimizer_d is None else networks.optimizer_d.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
    }


def _prune(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    checkpoints = list_checkpoints(run)
    best = best_checkpoint(checkpoints)
    for checkpoint in checkpoints[:-keep]:
        if best is None or checkpoint.step != best.step:
            # Uncommit first: a half-deleted folder must not look whole.
            (checkpoint.path / "meta.json").unlink()
            shutil.rmtree(checkpoint.path)


def _check_files(checkpoint: Checkpoint) -> None:
    for name, expected in checkpoint.meta["files"].items():
        path = checkpoint.path / name
        if not path.is_file() or sha256_file(path) != expected["sha256"]:
            raise CheckpointError(
                path,
                "missing or damaged (sha256)",
                f"delete {checkpoint.path} to continue from the one before",
            )


def _refuse_changes(checkpoint: Checkpoint, config: TrainConfig, digest: str) -> None:
    fresh = "start a new run with another run.dir, or restore the setting"
    if checkpoint.meta["shards_digest"] != digest:
        old = checkpoint.meta["shards_digest"][:12]
        raise CheckpointError(
            checkpoint.path, f"was trained on other shards (digest {old}, now {digest[:12]})", fresh
        )
    saved, now = checkpoint.meta["config"], config.model_dump(mode="json")
    for section, settings in now.items():
        for key, value in settings.items():
            name, old = f"{section}.{key}", saved.get(section, {}).get(key)
            if name not in FREE_SETTINGS and old != value:
                raise CheckpointError(checkpoint.path, f"was trained with {name}={old} (got {value})", fresh)
