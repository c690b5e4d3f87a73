"""A generator from what training leaves behind. Weights are safetensors; nothing is ever unpickled."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from streamgan.core.color import HEADS, Head
from streamgan.core.digests import check_file, require_list
from streamgan.core.errors import CheckpointError, ConfigError
from streamgan.core.run_folder import EMA, choose_checkpoint
from streamgan.core.storage.hub import BUNDLED, model_path
from streamgan.models import build_generator


@dataclass(frozen=True)
class Weights:
    """A generator in eval mode on the CPU, its head, the size it works at, and its origin.

    `saturation` is the factor on its chroma with which its photos look best; 1 unless an export said so.
    """

    generator: nn.Module
    head: Head
    head_name: str
    size: int
    path: Path
    step: int
    saturation: float = 1.0


def find_weights(model: Path | str, which: str = "best") -> Path:
    """The weights file that `model` means: a file, a checkpoint, bundle or run folder, `ready` or ORG/NAME.

    In a run, `which` is "best" (by the run's own metric; the newest where nothing was validated), "last", or
    a step number. Damaged checkpoints are named and passed over. `ready` is the bundle that comes with
    streamgan, ORG/NAME one on the Hugging Face Hub, each if there is no such folder here.
    """
    path = model_path(str(model))
    if path.is_file():
        return _alone(path, which)
    for name in (EMA, BUNDLED):
        if (path / name).is_file():
            require_list(path)
            return _alone(path / name, which)
    return choose_checkpoint(path, which, [EMA]).path / EMA


def _alone(path: Path, which: str) -> Path:
    """A file that is the best, the last and the only one; ConfigError if a step of a run was asked for."""
    if which not in ("best", "last"):
        what = f"one model, without steps to choose from (got {which!r})"
        raise ConfigError(path, what, "leave out --checkpoint, or give the run folder")
    return path


def load_weights(path: Path) -> Weights:
    """Build the generator that a weights file describes.

    CheckpointError if the file is not ours, or not as the checkpoint or bundle around it says.
    """
    todo = "give weights written by streamgan"
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            about: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", todo) from error
    if "model" not in about:
        raise CheckpointError(path, "does not say which model it is", todo)
    try:
        spec: dict[str, Any] = json.loads(about["model"])
        generator = build_generator(spec["generator"], where=str(path), **spec["options"])
        head, size, saturation = HEADS[spec["head"]], int(spec["size"]), float(spec.get("saturation", 1))
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        reason = error.what if isinstance(error, ConfigError) else repr(error)
        raise CheckpointError(
            path, f"does not describe a generator of this release: {reason}", todo
        ) from error
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(path, f"does not fit {spec['generator']} ({reason})", todo) from error
    generator.eval().requires_grad_(False)
    return Weights(generator, head, spec["head"], size, path, int(about.get("step", 0)), saturation)
