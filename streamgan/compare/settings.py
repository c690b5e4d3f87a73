"""What a comparison is: a YAML file that names the recipes, the budget and the photos; and how it is read.

Every recipe is loaded and its networks are built (without memory) before anything is trained, so a mistake in
the last row costs no time.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, ValidationError, model_validator

from streamgan.core.config import load_config, refuse_twice, split_override
from streamgan.core.errors import ConfigError
from streamgan.core.setting_types import Count, LocalPath, PathText, Section, Text, explain
from streamgan.core.settings import TrainConfig
from streamgan.core.storage.local import TEMPORARY_SUFFIX
from streamgan.core.yaml_text import read_yaml
from streamgan.data.shards.joint import open_reader
from streamgan.train.build import build_reading, check_models

RESERVED = {"gray", "median_ab", "truth"}  # names of what stands beside the rows
WRITTEN = {"comparison.json", "comparison.md", "grid.png"}  # beside their folders
DECIDED = ("data.shards", "run.dir", "run.patience", "run.checkpoint_every", "run.keep", "run.keep_every")
SHARED = ("size", "on_bad", "max_bad", "stall_s", "cache", "cache_gb")  # of `data`: rows are scored with them


def _row_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError("must hold only a-z, 0-9, _, . and -, and begin with a letter or digit")
    return name


_Name = Annotated[str, Field(max_length=40), AfterValidator(_row_name)]
_Minutes = Annotated[float, Field(gt=0, le=10**7)]


class Budget(Section):
    """What every row may spend: so many optimizer steps, or minutes of training steps."""

    steps: Count | None = None
    minutes: _Minutes | None = None

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("budget: give exactly one of steps and minutes")
        return self

    def __str__(self) -> str:
        return f"{self.steps:,} steps" if self.steps else f"{self.minutes:g} min of training steps"


class RowSettings(Section):
    """A row: its name, its recipe (a path beside the comparison's file) and KEY=VALUE on top."""

    name: _Name
    recipe: PathText
    settings: tuple[Text, ...] = ()


class CompareConfig(Section):
    """A whole comparison; launch/recipes/compare.yaml says what each of it means."""

    shards: PathText
    out: LocalPath
    budget: Budget
    rows: tuple[RowSettings, ...] = Field(min_length=1)
    settings: tuple[Text, ...] = ()
    split: Text = "test"
    max_images: Count | None = None
    grid_images: int = Field(default=8, ge=1, le=32)
    batch: int = Field(default=32, ge=1, le=1_000_000)
    workers: int = Field(default=1, ge=0, le=1024)
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None

    @model_validator(mode="after")
    def _names(self) -> "CompareConfig":
        names = [row.name for row in self.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows: two have the name {twice[0]}")
        if taken := sorted(RESERVED & set(names)):
            raise ValueError(f"rows: {taken[0]} is not a model's name")
        if taken := sorted(name for name in names if name.removesuffix(TEMPORARY_SUFFIX) in WRITTEN):
            raise ValueError(f"rows: {taken[0]} is a file of the comparison itself, rename that row")
        return self


class Row(NamedTuple):
    """A row whose recipe is resolved, with the comparison's shards and the row's own run folder."""

    name: str
    recipe: Path
    config: TrainConfig


class Comparison(NamedTuple):
    """A comparison that can be carried out: settings, resolved rows, digest of the shard set."""

    config: CompareConfig
    rows: list[Row]
    digest: str


def load_comparison(path: str | Path, **changes: Any) -> Comparison:
    """The comparison in a YAML file, with `changes` that are not None.

    ConfigError or DataError if anything of it cannot be carried out.
    """
    path = Path(os.path.expanduser(path))
    tree = _read(path) | {key: value for key, value in changes.items() if value is not None}
    try:
        config = CompareConfig.model_validate(tree)
    except ValidationError as error:
        known = list(CompareConfig.model_fields)
        raise ConfigError(
            path, explain(error, CompareConfig, known), "compare launch/recipes/compare.yaml"
        ) from error
    _check_overrides("settings", config.settings)
    rows = [_resolve(config, row, path.parent) for row in config.rows]
    for name in SHARED:
        values = {row.name: getattr(row.config.data, name) for row in rows}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{row} {value}" for row, value in values.items())
            todo = f"give data.{name}=VALUE in the comparison's settings, and in no row's"
            raise ConfigError(path, f"the rows differ in data.{name} ({told})", todo)
    digest, source = "", build_reading(rows[0].config).source
    for split in ("train", config.split):
        reader = open_reader(source, split)
        digest = reader.digest
        reader.close()
    return Comparison(config, rows, digest)


def _check_overrides(where: str, overrides: Sequence[str]) -> None:
    """ConfigError for a setting that is there twice, or that the comparison decides."""
    try:
        refuse_twice(list(overrides))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.where}", error.what, error.todo) from error
    for override in overrides:
        name = ".".join(split_override(override)[:2])
        if name in DECIDED:
            raise ConfigError(f"{where}: {override}", "is decided by the comparison", "leave it out")


def _resolve(config: CompareConfig, row: RowSettings, folder: Path) -> Row:
    recipe, where = folder / row.recipe, f"row {row.name}"
    _check_overrides(where, row.settings)
    fixed = [f"run.dir={json.dumps(str(Path(config.out) / row.name))}", "run.patience=0"]
    fixed += [f"data.shards={json.dumps(config.shards)}"]
    try:
        resolved = load_config(recipe, [*config.settings, *row.settings, *fixed])
        check_models(resolved)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.where}", error.what, error.todo) from error
    return Row(row.name, recipe, resolved)


def _read(path: Path) -> dict[str, Any]:
    tree = read_yaml(path, example="launch/recipes/compare.yaml")
    if not isinstance(tree, dict):
        raise ConfigError(path, f"holds a {type(tree).__name__}, not settings", "compare launch/recipes")
    return tree


def with_settings(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """A copy of the configuration with some `section.key` set to other values."""
    tree = config.model_dump()
    for name, value in changes.items():
        section, key = name.split(".")
        tree[section][key] = value
    return TrainConfig.model_validate(tree)


def differences(old: dict[str, Any], new: dict[str, Any], ignored: Sequence[str]) -> list[str]:
    """`section.key=old (got new)` of every setting in which two configurations, as JSON, differ."""
    return [
        f"{section}.{key}={old.get(section, {}).get(key)} (got {value})"
        for section, settings in new.items()
        for key, value in settings.items()
        if f"{section}.{key}" not in ignored and old.get(section, {}).get(key) != value
    ]
