"""What a setting may be: text, paths and numbers with their ranges; and how a mistake is put into words.

Values come from YAML as text (`yaml_text.py`), so the type of a setting alone decides what `0100`, `no` or
`2024` means.
"""

import difflib
import os
import re
import reprlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)

_T = TypeVar("_T")
MAX_COUNT = 10**12
MAX_SECONDS = 10**6  # 11 days; what the system waits for is counted in 32 bits of milliseconds


class Section(BaseModel):
    """Settings that belong together; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _here(text: str) -> str:
    if re.match(r"[a-z0-9]+:/", text):
        raise ValueError("must be a folder of this machine, not an address")
    if os.path.expanduser(text).startswith("~"):
        raise ValueError("must not name an unknown user's home (write ./~ for a folder of that name)")
    return text


MAY_CHANGE = "may change when a run continues"  # it changes no batch and no network
MayChange = Annotated[_T, MAY_CHANGE]

Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_printable)]
PathText = Annotated[Text, AfterValidator(os.path.expanduser)]
"""A path or an address; ~ is the home folder."""
LocalPath = Annotated[PathText, AfterValidator(_here)]


def _no_cache(text: str) -> str:
    return text.lower() if text.lower() == "none" else text


CachePath = Annotated[Text, AfterValidator(_no_cache), AfterValidator(_here)]
"""Its ~ stays until it is used: the default is the same for everybody."""

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Positive = Annotated[float, Field(gt=0)]
PositiveOrZero = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


def _truth(value: Any) -> Any:
    """YAML's words for true and false, where text has another meaning too."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("must name at least one shard set")
    return value


PathOrTruth = Annotated[bool | PathText, BeforeValidator(_truth)]


class ShardSet(Section):
    path: PathText
    """A shard set: a folder, or an address."""
    weight: Positive | None = None
    """Its share of the training samples, relative to the other sets'; None for all: as many as it holds."""


ShardSets = Annotated[
    Annotated[PathText, Tag("one")] | Annotated[tuple[ShardSet, ...], AfterValidator(_some), Tag("sets")],
    Discriminator(lambda value: "sets" if isinstance(value, list | tuple) else "one"),
]

BRANCHES = ("one", "sets", "bool", "str")  # of settings that may be of several types
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def explain(error: ValidationError, model: type[BaseModel], known: list[str]) -> str:
    """Every mistake that pydantic found in one line, each with its range; unknown names with the nearest."""
    schema = model.model_json_schema()
    told = [_explain(item, schema, known) for item in error.errors()]
    return ", ".join(dict.fromkeys(told))


def nearest(name: str, known: list[str]) -> str:
    """A guess in brackets at what an unknown name was meant to be, or nothing."""
    section, dot, key = name.strip().partition(".")
    if name.strip() in known and dot:
        return f" (write {section}: {{{key}: VALUE}} in YAML, and no spaces around a name elsewhere)"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _explain(item: Any, schema: dict[str, Any], known: list[str]) -> str:
    # pydantic adds the branch of a union to the place: `data.shards.sets.0.path`
    location = [part for part in item["loc"] if part not in BRANCHES and "[" not in str(part)]
    where = ".".join(map(str, location))
    kind, got = item["type"], f" (got {_shown(item['input'])})"
    if kind == "extra_forbidden":
        return f"unknown setting {where}{nearest(where, known)}"
    if kind == "missing":
        return f"{where} is missing" + (got if isinstance(item["loc"][-1], int) else "")
    if kind == "value_error":
        message = item["msg"].removeprefix("Value error, ")
        return f"{where}: {message}{got}" if where and message.startswith("must") else message
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{where}: must be settings, KEY: VALUE{got}"
    if kind == "finite_number":
        return f"{where}: must be a finite number{_range(location, schema)}{got}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{where}: out of range{_range(location, schema)}{got}"
    if kind in ("too_long", "too_short"):
        word, limit = ("most", "max_length") if kind == "too_long" else ("least", "min_length")
        return f"{where}: must be a list of at {word} {item['ctx'][limit]} values{got}"
    start = kind.partition("_")[0]
    if start in _KINDS and kind.endswith(("_type", "_parsing", "_parsing_size", "_from_float")):
        return f"{where}: must be {_KINDS[start]}{_range(location, schema)}{got}"
    message = item["msg"].replace("Input should", "must").replace("String should", "must")
    return f"{where}: {message[:1].lower()}{message[1:]}{got}"


def _range(location: list[Any], schema: dict[str, Any]) -> str:
    """The limits of a setting as `, at least 1, at most 100`."""
    limits: dict[str, Any] = {}
    for node in _nodes(location, schema, schema):
        limits |= {key: node[key] for key in _LIMITS if key in node}
    told = [f"{word} {_plain(limits[key])}" for key, word in _LIMITS.items() if key in limits]
    return "".join(f", {text}" for text in told)


def _plain(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _nodes(location: list[Any], node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a JSON schema that say what may stand at `location`."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    for branch in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from _nodes(location, branch, schema)
    if not location:
        yield node
        return
    first, rest = location[0], location[1:]
    if isinstance(first, int):
        inside = node.get("prefixItems", [node["items"]] if isinstance(node.get("items"), dict) else [])
        for item in inside[first : first + 1] or inside[:1]:
            yield from _nodes(rest, item, schema)
    elif first in node.get("properties", {}):
        yield from _nodes(rest, node["properties"][first], schema)


def _shown(value: Any) -> str:
    """What was given, short; a number as it was written, without the quotes of text."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 60
    if isinstance(value, str) and len(value) < shown.maxstring:
        with suppress(ValueError):
            float(value)
            return value
    return shown.repr(value)
