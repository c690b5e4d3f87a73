"""`streamgan runs`: what has become of the runs below a folder."""

import time

import click

from .options import Command
from .output import emit, table


@click.command(cls=Command, short_help="List runs with their state and best figures.")
@click.argument("folder", metavar="[DIR]", default="runs", type=click.Path())
@click.option("--json", "as_json", is_flag=True, show_default=True, help="One JSON object on stdout.")
def runs(folder, as_json):
    """List the training runs in DIR (default: runs) and below: state, steps, best validation figure, age.

    running: a process trains there now, the step is the last logged; done: all steps; stopped: the command of
    the run continues it; empty: no checkpoint yet; damaged: its files cannot be read.

    \b
    Example:
      streamgan runs runs
    """
    from dataclasses import asdict
    from pathlib import Path

    from streamgan.core.errors import CheckpointError
    from streamgan.core.run_folder import find_runs
    from streamgan.train.runs import read_run

    if not Path(folder).is_dir():
        raise CheckpointError(folder, "no such folder", "give the folder that holds your runs")
    found = [read_run(path) for path in find_runs(Path(folder))]
    rows = [
        [
            str(one.path),
            one.state,
            f"{one.step}/{one.total}" if one.total else f"{one.step} ({one.epochs} epochs)",
            "-" if one.best is None else f"{one.metric} {one.best:.4g}",
            _age(time.time() - one.updated),
        ]
        for one in found
    ]
    text = table(["run", "state", "steps", "best", "updated"], rows) if rows else f"{folder}: no runs"
    emit(text, {"runs": [{**asdict(one), "path": str(one.path)} for one in found]}, as_json=as_json)


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"
