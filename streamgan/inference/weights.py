"""A generator from what training leaves behind. Weights are safetensors; nothing is ever unpickled."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from streamgan.core.color import HEADS, Head
from streamgan.core.errors import CheckpointError, ConfigError
from streamgan.core.hub import BUNDLED, download_model, is_hub_model
from streamgan.models import GENERATORS, choose


@dataclass(frozen=True)
class Weights:
    """A generator in eval mode on the CPU, its head, the size it was trained at, and its origin."""

    generator: nn.Module
    head: Head
    head_name: str
    size: int
    path: Path
    step: int


def find_weights(model: Path | str, which: str = "best") -> Path:
    """The weights file that `model` means: a .safetensors file, a checkpoint, bundle or run, or ORG/NAME.

    In a run, `which` is "best" (by the run's own metric; the newest where nothing was validated), "last", or
    a step number. ORG/NAME is a bundle on the Hugging Face Hub, if there is no such folder here.
    """
    path = Path(model)
    if path.is_file():
        return path
    if is_hub_model(str(model)):
        path = download_model(str(model))
    for name in ("ema.safetensors", BUNDLED):
        if (path / name).is_file():
            return path / name
    steps = {}
    for meta_path in sorted((path / "checkpoints").glob("step-????????/meta.json")):
        step, score = _read_meta(meta_path)
        steps[step] = (score, meta_path.parent)
    if not steps:
        raise CheckpointError(
            path, "no checkpoint here", "give a run folder, a checkpoint or a .safetensors file"
        )
    if which == "best":
        return max(steps.items(), key=lambda item: (item[1][0], item[0]))[1][1] / "ema.safetensors"
    step = max(steps) if which == "last" else int(which) if which.isdigit() else None
    if step not in steps:
        have = ", ".join(map(str, sorted(steps)))
        raise CheckpointError(path, f"no checkpoint {which!r}", f"choose best, last or a step of {have}")
    return steps[step][1] / "ema.safetensors"


def _read_meta(path: Path) -> tuple[int, float]:
    """(step, score or -inf) of a checkpoint."""
    try:
        meta = json.loads(path.read_bytes())
        return int(meta["step"]), float("-inf" if meta["score"] is None else meta["score"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"damaged ({error!r})", "delete this checkpoint folder") from error


def load_weights(path: Path) -> Weights:
    """Build the generator that a weights file describes; CheckpointError if the file is not ours."""
    todo = "give weights written by streamgan"
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
        generator = choose(GENERATORS, spec["generator"], str(path))(**spec["options"])
        head, size = HEADS[spec["head"]], int(spec["size"])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        reason = error.what if isinstance(error, ConfigError) else repr(error)
        raise CheckpointError(path, f"describes no generator of this release: {reason}", todo) from error
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(path, f"does not fit {spec['generator']} ({reason})", todo) from error
    generator.eval().requires_grad_(False)
    return Weights(generator, head, spec["head"], size, path, int(about.get("step", 0)))
