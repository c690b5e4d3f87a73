"""The folder of a run: what lies in it, which checkpoints are there and whole, and which of them is meant.

```
RUN/config.yaml                  the resolved settings
RUN/metrics.jsonl                an object per logged step
RUN/samples/step-00012000.png    sample grids
RUN/profile/                     traces, if asked for
RUN/.lock                        held by the process that trains
RUN/checkpoints/step-00012000/   {generator,ema,discriminator}.safetensors, trainer.pt, meta.json
```

`meta.json` is the commit mark of a checkpoint: step, configuration, digest of the data, validation figures,
size and sha256 of every file, and a digest over all of this (checkpoints of before have none). A folder of
that name that is anything else is damaged. Those in the making or on their way out have other names.
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from streamgan.core.storage.files import canonical_sha256, sha256_file

from .errors import CheckpointError
from .logs import say

CONFIG, METRICS, SAMPLES, PROFILE, LOCK = "config.yaml", "metrics.jsonl", "samples", "profile", ".lock"
FORMAT, VERSION, META = "streamgan-checkpoint", 1, "meta.json"
EMA = "ema.safetensors"  # what colours
LOWER_IS_BETTER = {"loss", "ab_error", "dcf"}
DAMAGED_SUFFIX = ".damaged"
_NAME = re.compile(r"step-\d{8,}")


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that is not as it was written."""


class _File(BaseModel):
    sha256: str


class _Progress(BaseModel):
    best: float | None
    stale: NonNegativeInt


class _Run(BaseModel):
    best_metric: str


class _Config(BaseModel):
    run: _Run


class _Meta(BaseModel):
    """What is read of a meta.json; it says more."""

    model_config = ConfigDict(strict=True)
    step: NonNegativeInt
    finished: bool
    shards_digest: str
    validation: dict[str, float]
    progress: _Progress
    config: _Config
    files: dict[str, _File]


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its folder and what its meta.json says."""

    path: Path
    step: int
    meta: dict[str, Any]

    def score(self, metric: str) -> float | None:
        """A figure of its validation as the higher the better; None if there is no such finite number."""
        return score_of(self.meta["validation"], metric)


def score_of(validation: dict[str, float], metric: str) -> float | None:
    """The metric of a validation, negated if lower is better; None where it is missing or not finite."""
    value = validation.get(f"val/{metric}")
    if value is None or not math.isfinite(value):
        return None
    return -value if metric in LOWER_IS_BETTER else value


def best_first(checkpoints: Sequence[Checkpoint], metric: str | None = None) -> list[Checkpoint]:
    """Sorted by a figure (None: the one that the newest run was to be judged by), then by step.

    Those without that figure come last.
    """
    if not checkpoints:
        return []
    judged_by: str = metric or checkpoints[-1].meta["config"]["run"]["best_metric"]

    def key(one: Checkpoint) -> tuple[float, int]:
        score = one.score(judged_by)
        return (-math.inf if score is None else score, one.step)

    return sorted(checkpoints, key=key, reverse=True)


def checkpoint_folder(run: Path) -> Path:
    return run / "checkpoints"


def checkpoint_path(run: Path, step: int) -> Path:
    return checkpoint_folder(run) / step_name(step)


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def find_runs(folder: Path) -> Iterator[Path]:
    """Run folders at `folder` and below, by name."""
    if (folder / CONFIG).is_file():
        yield folder
    elif folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield from find_runs(path)


def pass_over(path: Path, error: DamagedCheckpoint, *, newest: bool) -> None:
    """Name a damaged checkpoint and leave it."""
    say(f"{error.where}: {error.what}; passed over")


def set_aside(path: Path, error: DamagedCheckpoint, *, newest: bool) -> None:
    """Name a damaged checkpoint and move it out of the way; for the process that trains."""
    aside = path.with_name(path.name + DAMAGED_SUFFIX)
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    then = ", continuing from the checkpoint before" if newest else ""
    say(f"{error.where}: {error.what}; moved to {aside.name}{then}")


def list_checkpoints(run: Path, *, when_damaged: Callable[..., None] = pass_over) -> list[Checkpoint]:
    """The committed checkpoints of a run, oldest first, by their meta.json; the files are not read.

    `when_damaged` is told each that is damaged, newest first; DamagedCheckpoint if there are no others.
    """
    folder = checkpoint_folder(run)
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    checkpoints, damaged = [], []
    for path in sorted(found, key=_step):
        try:
            checkpoints.append(read_checkpoint(path))
        except DamagedCheckpoint as error:
            if path.is_dir():  # not one that was removed since the folder was listed
                damaged.append((path, error))
    if damaged and not checkpoints:
        raise without_another(*damaged[-1])
    for path, error in reversed(damaged):
        when_damaged(path, error, newest=_step(path) > checkpoints[-1].step)
    return checkpoints


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def without_another(path: Path, error: DamagedCheckpoint) -> DamagedCheckpoint:
    """The error of a checkpoint that no other can take the place of."""
    return DamagedCheckpoint(
        error.where, error.what, f"restore it, or delete {path} to start from the beginning"
    )


def choose_checkpoint(run: Path, which: str, files: Sequence[str]) -> Checkpoint:
    """The checkpoint of a run that `which` names: "best" by the run's own metric, "last", or a step number.

    One in which `files` are whole: the damaged are named, and the next best or the one before is taken.
    Where nothing was validated the newest is the best. CheckpointError if there is none.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        todo = "give a run folder, a checkpoint or a .safetensors file"
        raise CheckpointError(run, "no checkpoint here", todo)
    wanted = {"best": best_first(checkpoints), "last": checkpoints[::-1]}.get(which)
    if wanted is None:
        wanted = [one for one in checkpoints if str(one.step) == which.lstrip("0")]
    if not wanted:
        have = ", ".join(str(one.step) for one in checkpoints)
        raise CheckpointError(run, f"no checkpoint {which!r}", f"choose best, last or a step of {have}")
    for checkpoint in wanted:
        try:
            check_files(checkpoint, files)
            return checkpoint
        except DamagedCheckpoint as error:
            if checkpoint is wanted[-1]:
                raise
            pass_over(checkpoint.path, error, newest=False)
    raise AssertionError("unreachable")


def read_checkpoint(path: Path) -> Checkpoint:
    """What the commit mark says; DamagedCheckpoint, or CheckpointError if another release wrote it."""
    where, todo = path / META, f"delete {path} to continue from the one before"
    try:
        meta = json.loads(where.read_bytes())
        digest = meta.pop("digest", None)
        if digest is not None and digest != canonical_sha256(meta):
            raise DamagedCheckpoint(where, "damaged (its digest is another)", todo)
        kind, version = meta.get("format"), meta.get("version")
        if kind == FORMAT and version != VERSION and digest is not None:
            what = f"is {kind} {version} (this release reads {VERSION})"
            raise CheckpointError(where, what, "use the streamgan release that wrote it")
        if (kind, version) != (FORMAT, VERSION):
            raise DamagedCheckpoint(where, f"damaged (says {kind} {version})", todo)
        step = _Meta.model_validate(meta).step
    except FileNotFoundError as error:
        raise DamagedCheckpoint(where, "damaged (no such file)", todo) from error
    except OSError as error:
        raise _unreadable(where, error, todo) from error
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DamagedCheckpoint(where, f"damaged ({reason})", todo) from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(where, f"damaged ({error!r})", todo) from error
    if path.name != step_name(step):
        raise DamagedCheckpoint(where, f"damaged (says step {step})", todo)
    return Checkpoint(path, step, meta)


def sealed(meta: dict[str, Any]) -> dict[str, Any]:
    """What a meta.json says, with the digest over it."""
    return {**meta, "digest": canonical_sha256(meta)}


def check_files(checkpoint: Checkpoint, names: Sequence[str] = ()) -> None:
    """DamagedCheckpoint if one of its files (none named: all) is missing or not as it was written."""
    todo = f"delete {checkpoint.path} to continue from the one before"
    for name in names or checkpoint.meta["files"]:
        path, expected = checkpoint.path / name, checkpoint.meta["files"].get(name)
        try:
            whole = expected is not None and path.is_file() and sha256_file(path) == expected["sha256"]
        except OSError as error:
            raise _unreadable(path, error, todo) from error
        if not whole:
            raise DamagedCheckpoint(path, "missing or damaged (sha256)", todo)


def _unreadable(path: Path, error: OSError, todo: str) -> CheckpointError:
    what = f"cannot be read ({error.strerror})"
    if error.errno == errno.EIO:
        return DamagedCheckpoint(path, what, todo)
    return CheckpointError(path, what, "see to it that this user may read it")
