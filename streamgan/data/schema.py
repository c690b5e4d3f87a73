"""The types of what stands in a manifest and an `.idx` file: a damaged one is a line, not a traceback."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
_Word = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Open(BaseModel):
    """Fields that are not listed may stand beside those that are."""


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Shard(_Exact):
    name: Annotated[str, Field(pattern=r"^[^/]*[^/.][^/]*$")]  # a file in the folder of the set
    samples: _Count
    bytes: _Count
    sha256: _Sha256
    idx_sha256: _Sha256


class _Split(_Exact):
    samples: _Count
    bytes: _Count
    index_sha256: _Sha256
    shards: list[_Shard]


class _File(_Open):
    name: str
    bytes: _Count = 0
    rows: _Count = 0


class _Source(_Open):
    kind: str = ""
    files: list[_File] = []


class _Quarantine(_Open):
    rows: _Count
    reasons: dict[str, _Count]
    changed: dict[str, _Count] = {}
    sha256: _Sha256


class _Ways(_Open):
    of: Annotated[int, Field(strict=True, gt=0)] = 1
    ends: dict[str, _Count] = {}


class _Options(_Open):
    """Of the others no reader of a set needs any."""

    splits: _Ways = _Ways()


class Body(_Open):
    """The types of a manifest."""

    source: _Source
    options: _Options
    splits: dict[Literal["train", "val", "test"], _Split]
    quarantine: _Quarantine


class Idx(_Open):
    samples: list[tuple[str, _Count, _Count, dict[str, tuple[_Count, _Word, _Word]]]]


def wrong_type(model: type[BaseModel], raw: Any) -> str | None:
    """The first thing in `raw` that is not of its type, as `splits.train.samples is null`."""
    try:
        model.model_validate(raw)
        return None
    except ValidationError as error:
        one = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in one["loc"]) or "it"
    if one["type"] in ("missing", "extra_forbidden"):
        return f"{where} is {'missing' if one['type'] == 'missing' else 'unknown'}"
    return f"{where} is {short(one['input'])}"


def short(value: Any) -> str:
    """A value as JSON in the middle of a line."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
