"""How a model is chosen by name, and how it says no to an option that it does not have."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from streamgan.core.errors import ConfigError

_Entry = TypeVar("_Entry")


def choose(table: Mapping[str, _Entry], name: str, setting: str) -> _Entry:
    """The entry called `name`; if there is none, a ConfigError at `setting` with the nearest name."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1, cutoff=0.4)
    advice = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        setting, f"no entry of this name (got {name!r})", f"{advice}choose from {', '.join(sorted(table))}"
    )


def refuse(model: str, **options: object) -> None:
    """ConfigError if any of `options` was set (is neither None nor False): the model does not have it."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise ConfigError(
                f"model.{option}",
                f"{model} does not have this option (got {value!r})",
                "leave it out, or choose another model",
            )


def is_published(model: str, variant: str | None, *others: str) -> bool:
    """Whether `variant` is "published"; ConfigError if it is neither that nor one of `others` nor None."""
    known = ("published", *others)
    if variant is not None and variant not in known:
        what = f"{model} has no variant of this name (got {variant!r})"
        raise ConfigError("model.variant", what, f"choose {' or '.join(known)}, or leave it out")
    return variant == "published"


def only_lab(model: str, out_channels: int, bounded: bool) -> None:
    """ConfigError unless the head is one of chroma: what `model` gives is measured in Lab ab."""
    if bounded or out_channels != 2:
        raise ConfigError("model.head", f"{model} predicts Lab ab", "choose model.head=lab")


def between(least: int, most: int, value: int, option: str) -> int:
    """`value` if it is in the range, else ConfigError."""
    if value > most:
        raise ConfigError(f"model.{option}", f"too large (got {value})", f"give at most {most}")
    return at_least(least, value, option)


def at_least(least: int, value: int, option: str) -> int:
    """`value` if it is large enough, else ConfigError."""
    if value < least:
        raise ConfigError(f"model.{option}", f"too small (got {value})", f"give at least {least}")
    return value
