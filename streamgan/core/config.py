"""How a configuration is read: a YAML file, then KEY=VALUE overrides, into the page of settings.py.

Unknown keys and values out of range are errors; all of them are reported at once.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .errors import ConfigError
from .setting_types import MAY_CHANGE, explain, nearest
from .settings import TrainConfig
from .yaml_text import parse_value, read_yaml


def load_config(path: str | Path | None, overrides: tuple[str, ...] | list[str] = ()) -> TrainConfig:
    """A YAML file (None: defaults) with `section.key=value` overrides on top; ConfigError if it is wrong."""
    tree: dict[str, Any] = {}
    if path is not None:
        tree = read_yaml(path, example="a recipe from launch/recipes") or {}
        if not isinstance(tree, dict):
            raise ConfigError(path, f"holds a {type(tree).__name__}, not sections", "compare launch/recipes")
        tree = {section: {} if inside is None else inside for section, inside in tree.items()}
    for override in overrides:
        section, name, text = split_override(override)
        target = tree.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(path or section, f"{section!r} is not a section", "compare launch/recipes")
        try:
            target[name] = parse_value(text)
        except ValueError as error:
            raise ConfigError(override, "the value is not YAML", "quote it") from error
        if section == "run" and name in ("steps", "epochs"):  # the later word on the length counts
            target.pop("epochs" if name == "steps" else "steps", None)
    tree.setdefault("run", {})
    return validate(tree, where=str(path or "configuration"))


def split_override(override: str) -> tuple[str, str, str]:
    """Section, key and value of `section.key=value`; ConfigError if it is something else."""
    key, separator, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not (separator and section and dot and name):
        guess = nearest(key, [full for full in setting_names() if dot or full.endswith(f".{key}")])
        raise ConfigError(override, f"is not SECTION.KEY=VALUE{guess}", "write for example optim.lr_g=1e-4")
    return section, name, text


def refuse_twice(overrides: tuple[str, ...] | list[str]) -> None:
    """ConfigError if one list of overrides has a setting twice, or a run's length in steps and epochs."""
    seen: dict[str, str] = {}
    for override in overrides:
        section, name, _ = split_override(override)
        key = f"{section}.{name}"
        meaning = "run.steps" if key == "run.epochs" else key
        if meaning in seen:
            raise ConfigError(override, f"says again what {seen[meaning]} said", "give one of them")
        seen[meaning] = override


def validate(tree: dict[str, Any], where: str) -> TrainConfig:
    """`tree` as a TrainConfig; one ConfigError lists every mistake, unknown keys with the nearest name."""
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        known = [*setting_names(), *TrainConfig.model_fields]
        raise ConfigError(where, explain(error, TrainConfig, known), "correct these settings") from error


def setting_names() -> dict[str, Any]:
    """Every setting as `section.key` -> its pydantic field."""
    return {
        f"{section}.{key}": field
        for section, outer in TrainConfig.model_fields.items()
        for key, field in outer.annotation.model_fields.items()  # type: ignore[union-attr]
    }


def may_change(name: str) -> bool:
    """Whether the setting `section.key` may differ between the start of a run and its continuation."""
    return MAY_CHANGE in setting_names()[name].metadata


def dump_yaml(config: TrainConfig) -> str:
    """The configuration as YAML, every setting written out; `load_config` of it gives an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
