"""A model as others take it: a folder of safetensors, what made it, how good it is, a card and a licence.

`model.safetensors` (the running average, which is what colours), and for fine-tuning `generator.safetensors`
and `discriminator.safetensors` where they are known; `config.json`, `metrics.json`, `README.md`, `LICENSE`.
The weights are copied byte for byte; with another `Form` they are written anew, alone. `config.json` has the
sha256 of each and of the metrics. The card and the licence are the publisher's to edit.
"""

import hashlib
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import save

import streamgan
from streamgan.core.digests import check_file
from streamgan.core.errors import CheckpointError, ConfigError, file_error
from streamgan.core.finite import finite
from streamgan.core.run_folder import EMA, META, sealed
from streamgan.core.storage.files import json_bytes, sha256_file
from streamgan.core.storage.hub import BUNDLED
from streamgan.core.storage.local import sync_directory, temporary_path

from .card import model_card
from .weights import Weights

FORMAT, VERSION = "streamgan-bundle", 1
_COMPANIONS = ("generator.safetensors", "discriminator.safetensors")


class Form(NamedTuple):
    """How exported weights differ from those of the run: float16, and how `colorize` uses them by default."""

    half: bool = False
    size: int | None = None
    saturation: float | None = None

    def chosen(self) -> dict[str, float]:
        """What it says about the model beside what the run said."""
        both = {"size": self.size, "saturation": self.saturation}
        return {key: value for key, value in both.items() if value is not None}


AS_IT_IS = Form()


def bundle_files(
    weights: Weights, *, title: str, form: Form = AS_IT_IS, data_note: str | None = None
) -> dict[str, bytes | Path]:
    """Name -> content, or the file to copy: the bundle of loaded weights, with what lies beside them.

    `data_note` is what the card says of the terms of the photos; None: what the bundle said so far.
    """
    files: dict[str, bytes | Path] = {BUNDLED: formed(weights.path, form)}
    folder = weights.path.parent
    if form == AS_IT_IS and weights.path.name in (BUNDLED, EMA):
        files |= {name: folder / name for name in _COMPANIONS if (folder / name).is_file()}
    if metrics := finite(_metrics(folder)):
        files["metrics.json"] = json_bytes(metrics)
    config = {**_about(weights), "files": _digests(files)}
    config["model"] |= form.chosen()
    config["data_note"] = config["data_note"] if data_note is None else data_note
    files["config.json"] = json_bytes(sealed(config))
    num_parameters = sum(parameter.numel() for parameter in weights.generator.parameters())
    files["README.md"] = model_card(title, config, metrics, num_parameters=num_parameters).encode()
    files["LICENSE"] = _licence().encode()
    return files


def _digests(files: dict[str, bytes | Path]) -> dict[str, Any]:
    """Size and sha256 of each file; those that are copied are as the folder that they come from says."""
    digests = {}
    for name, content in files.items():
        if isinstance(content, Path):
            check_file(content)
            digests[name] = {"size": content.stat().st_size, "sha256": sha256_file(content)}
        else:
            digests[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return digests


def formed(path: Path, form: Form) -> bytes | Path:
    """A weights file in this form: the bytes to write, or the file itself. float16 is loaded as float32."""
    check_file(path)
    if form == AS_IT_IS:
        return path
    with safe_open(path, "pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    model = json.loads(about["model"]) | form.chosen()
    if form.half:
        tensors = {name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}
    if lost := [name for name, one in tensors.items() if not one.isfinite().all()]:
        what = f"{lost[0]} does not fit into float16"
        raise ConfigError("--half", what, "export without it")
    return save(tensors, about | {"model": json.dumps(model)})


def save_file(path: Path, content: bytes | Path) -> None:
    """Write a file, or copy one, and flush it to the disk."""
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_bundle(weights: Weights, out: Path, form: Form = AS_IT_IS, *, data_note: str | None = None) -> None:
    """Write the bundle as a folder that is there whole or not at all; ConfigError if there is one already."""
    refuse_existing(out)
    files = bundle_files(weights, title=out.name, form=form, data_note=data_note)
    temporary = temporary_path(out, token="bundle")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, content in files.items():
            save_file(temporary / name, content)
        os.replace(temporary, out)
        sync_directory(out.parent)
    except OSError as error:
        raise file_error(error, out, what="cannot be written", then="try again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    if out.exists():
        raise ConfigError(out, "is there already", "choose another --out, or remove it")


def _about(weights: Weights) -> dict[str, Any]:
    with safe_open(weights.path, "pt") as file:
        about: dict[str, str] = file.metadata()
    config = json.loads(about["config"]) if "config" in about else None
    before = _bundle_config(weights.path)
    photos = about.get("num_photos", before.get("photos"))
    return {
        "format": FORMAT,
        "version": VERSION,
        "streamgan": streamgan.__version__,
        "step": weights.step,
        "model": json.loads(about["model"]),
        "shards_digest": about.get("shards_digest"),
        "photos": None if photos is None else int(photos),
        "data_note": before.get("data_note"),
        "training": config,
    }


def _bundle_config(path: Path) -> dict[str, Any]:
    """The config.json of the bundle that weights belong to; nothing for other weights."""
    config = path.with_name("config.json")
    if path.name != BUNDLED or not config.is_file():
        return {}
    check_file(path)
    return json.loads(config.read_bytes())


def _metrics(folder: Path) -> dict[str, float]:
    """The validation figures of the checkpoint or bundle in `folder`, if it is one."""
    for name, read in (("metrics.json", dict), (META, lambda meta: meta.get("validation") or {})):
        if (folder / name).is_file():
            check_file(folder / name)
            try:
                return read(json.loads((folder / name).read_bytes()))
            except (ValueError, TypeError, AttributeError) as error:
                raise CheckpointError(folder / name, f"damaged ({error!r})", "delete it") from error
    return {}


def _licence() -> str:
    """The text of streamgan's licence, from the source tree or the installed package."""
    source = Path(streamgan.__file__).parents[1] / "LICENSE"
    if source.is_file():
        return source.read_text()
    text = metadata.distribution("streamgan").read_text("licenses/LICENSE")
    assert text, "the wheel comes with its licence"
    return text
