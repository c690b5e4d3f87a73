"""Weights that others have trained: from a local file, or downloaded through torchvision's weights API.

Nothing is unpickled but tensors. A file is a state dict with the names of torchvision, as .safetensors or as
torch.save writes it.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from .errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1], as torchvision's weights expect it
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_pretrained(
    module: nn.Module, name: str, source: bool | str, *, setting: str, prefix: str = ""
) -> None:
    """Put the weights of torchvision's model `name` into `module`, in place.

    `source`: True downloads them, a string is a local file, False leaves the module as it is. `prefix` stands
    before the module's names in that model. On the meta device no bytes are read. ConfigError at `setting`
    if the weights are not to be had or do not fit.
    """
    if source is False:
        return
    if isinstance(source, str) and not Path(source).is_file():
        raise ConfigError(
            setting, f"no such file (got {source})", "give a state dict of torchvision, or true"
        )
    wanted = module.state_dict()
    if any(tensor.is_meta for tensor in wanted.values()):
        return
    given = _download(name, setting) if source is True else _read(str(source), setting)
    chosen = {}
    for key, tensor in wanted.items():
        found = given.get(prefix + key)
        if found is None and key.endswith("num_batches_tracked"):
            found = tensor  # absent from files of before 2018
        if found is None or found.shape != tensor.shape:
            shape = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            raise ConfigError(
                setting,
                f"the weights do not fit: {prefix}{key} {shape}, not {tuple(tensor.shape)}",
                f"give weights of torchvision's {name} and leave the width as published",
            )
        chosen[key] = found
    module.load_state_dict(chosen)


def _download(name: str, setting: str) -> Mapping[str, Tensor]:
    weights = get_model_weights(name)["DEFAULT"]
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network (URLError is an OSError), disk full, wrong hash
        file = weights.url.rsplit("/", 1)[-1]
        reason = " ".join(str(error).split())
        raise ConfigError(
            setting,
            f"{weights.url} cannot be downloaded ({reason})",
            f"put the file at {Path(torch.hub.get_dir()) / 'checkpoints' / file}, or name its path here",
        ) from error


def _read(path: str, setting: str) -> Mapping[str, Tensor]:
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        given = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(setting, f"{path} cannot be read ({reason})", "give a state dict") from error
    except Exception as error:  # pickle.UnpicklingError is raised for anything but tensors
        raise ConfigError(setting, f"{path} is no state dict ({type(error).__name__})", "give one") from error
    if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()):
        raise ConfigError(setting, f"{path} holds something else than tensors by name", "give a state dict")
    return given
