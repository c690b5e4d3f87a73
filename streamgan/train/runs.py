"""What has become of runs: read from their folders, which hold all that is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from streamgan.core.errors import CheckpointError
from streamgan.core.run_folder import CONFIG, LOCK, METRICS, best_first, list_checkpoints
from streamgan.core.storage.locks import try_lock

from .history import parse_line

State = Literal["running", "done", "stopped", "empty", "damaged"]


@dataclass(frozen=True)
class RunInfo:
    """A run folder. `best` is the value of `metric` in its best checkpoint, `updated` seconds since 1970.

    `step` is that of the newest checkpoint, of a running run the last one that it logged.
    """

    path: Path
    state: State
    step: int
    total: int | None
    epochs: int | None
    metric: str
    best: float | None
    updated: float


def read_run(path: Path) -> RunInfo:
    """The state of one run: running (a process holds its lock), done, stopped before its end, ..."""
    try:
        run = yaml.safe_load((path / CONFIG).read_text())["run"]
        metric, total, epochs = run["best_metric"], run["steps"], run["epochs"]
        checkpoints = list_checkpoints(path)
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError, CheckpointError):
        return RunInfo(path, "damaged", 0, None, None, "", None, _updated(path))
    step = checkpoints[-1].step if checkpoints else 0
    scored = [one for one in best_first(checkpoints, metric)[:1] if one.score(metric) is not None]
    best = scored[0].meta["validation"][f"val/{metric}"] if scored else None
    if _is_locked(path):
        state: State = "running"
        step = max(step, _last_line(path).get("step", 0))
    elif not checkpoints:
        state = "empty"
    else:
        state = "done" if checkpoints[-1].meta["finished"] else "stopped"
    return RunInfo(path, state, step, total, epochs, metric, best, _updated(path))


def _is_locked(path: Path) -> bool:
    try:
        with open(path / LOCK) as file:
            return not try_lock(file, shared=True)
    except OSError:
        return False


def _last_line(path: Path) -> dict[str, Any]:
    """The last line of metrics.jsonl that can be read; empty where there is none."""
    try:
        with open(path / METRICS, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 20_000))
            rows = map(parse_line, file.read().splitlines())
            return [{}, *(row for row in rows if row is not None)][-1]
    except OSError:
        return {}


def _updated(path: Path) -> float:
    """When the run last logged something."""
    line = _last_line(path)
    return float(line["time"]) if "time" in line else path.stat().st_mtime
