"""What a comparison is: a YAML file that names the recipes, the budget and the photos; and how it is read.

Every recipe is loaded and its networks are built (without memory) before anything is trained, so a mistake in
the last row costs no time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from streamgan.core.config import TrainConfig, load_config, read_yaml
from streamgan.core.errors import ConfigError
from streamgan.data.mixture import open_reader
from streamgan.train.build import check_models

RESERVED = {"gray", "median_ab", "truth"}  # names of what stands beside the rows
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=40)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Budget(_Part):
    """What every row may spend: so many optimizer steps, or minutes of training steps."""

    steps: PositiveInt | None = None
    minutes: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("budget: give exactly one of steps and minutes")
        return self

    def __str__(self) -> str:
        return f"{self.steps:,} steps" if self.steps else f"{self.minutes:g} min of training steps"


class RowSettings(_Part):
    """A row: its name, its recipe (a path beside the comparison's file) and KEY=VALUE on top."""

    name: _Name
    recipe: str
    settings: tuple[str, ...] = ()


class CompareConfig(_Part):
    """A whole comparison; launch/recipes/compare.yaml says what each of it means."""

    shards: str
    out: str
    budget: Budget
    rows: tuple[RowSettings, ...] = Field(min_length=1)
    settings: tuple[str, ...] = ()
    split: str = "test"
    max_images: PositiveInt | None = None
    grid_images: int = Field(default=8, ge=1, le=32)
    batch: PositiveInt = 32
    workers: NonNegativeInt = 1
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None

    @model_validator(mode="after")
    def _names(self) -> "CompareConfig":
        names = [row.name for row in self.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows: two are called {twice[0]}")
        if taken := sorted(RESERVED & set(names)):
            raise ValueError(f"rows: {taken[0]} is not a model's name")
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
    path = Path(path)
    tree = _read(path) | {key: value for key, value in changes.items() if value is not None}
    try:
        config = CompareConfig.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(item) for item in error.errors()]
        raise ConfigError(path, ", ".join(problems), "compare launch/recipes/compare.yaml") from error
    digest = ""
    for split in ("train", config.split):
        reader = open_reader(config.shards, split)
        digest = reader.digest
        reader.close()
    rows = [_resolve(config, row, path.parent) for row in config.rows]
    sizes = {row.name: row.config.data.size for row in rows}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigError(
            path, f"the rows differ in data.size ({told})", "add data.size=N to the comparison's settings"
        )
    return Comparison(config, rows, digest)


def _resolve(config: CompareConfig, row: RowSettings, folder: Path) -> Row:
    recipe = folder / row.recipe
    fixed = [f"data.shards={config.shards}", f"run.dir={Path(config.out) / row.name}", "run.patience=0"]
    try:
        resolved = load_config(recipe, [*config.settings, *row.settings, *fixed])
        check_models(resolved)
    except ConfigError as error:
        raise ConfigError(f"row {row.name}: {error.where}", error.what, error.todo) from error
    return Row(row.name, recipe, resolved)


def _read(path: Path) -> dict[str, Any]:
    tree = read_yaml(path, example="launch/recipes/compare.yaml")
    if not isinstance(tree, dict):
        raise ConfigError(path, f"holds a {type(tree).__name__}, not settings", "compare launch/recipes")
    return tree


def _explain(item: Any) -> str:
    where = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"unknown setting {where}"
    if item["type"] == "value_error":
        return item["msg"].removeprefix("Value error, ")
    message = item["msg"][:1].lower() + item["msg"][1:]
    return f"{where}: {message}" + ("" if item["type"] == "missing" else f" (got {item['input']!r})")


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
