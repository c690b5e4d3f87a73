"""`streamgan board`: TensorBoard on runs."""

import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import click

from streamgan.core.errors import CheckpointError, ConfigError

from .options import Command
from .output import emit

GRIDS = 100  # of a run; they stay in memory
EVENTS = "events.out.tfevents.*"


@click.command(cls=Command, short_help="TensorBoard on runs.")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: the whole network."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=6006, show_default=True, help="Port to listen on."
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object.")
def board(runs: tuple[Path, ...], host: str, port: int, as_json: bool) -> None:
    """Show losses, scores and sample grids of RUNS (run folders, or folders of runs; default: runs).

    Of each run a hundred grids can be chosen, spread over its length.

    \b
    streamgan board runs/a
    streamgan board runs/a runs/b
    """
    from tensorboard import program

    folders = runs or (Path("runs"),)
    for folder in folders:
        if next(folder.rglob(EVENTS), None) is None:
            raise CheckpointError(
                folder, "no run with TensorBoard files here", "give a run folder, or one of runs"
            )
    warnings.simplefilter("ignore")  # TensorBoard's own, which PYTHONWARNINGS=error would make fatal
    server = program.TensorBoard()
    with tempfile.TemporaryDirectory(prefix="streamgan-board-") as links:
        logs = str(_linked(folders, Path(links)))
        kept = f"images={GRIDS}"  # TensorBoard's own choice is ten of them
        server.configure(
            argv=[
                "tensorboard", "--logdir", logs, "--samples_per_plugin", kept,
                "--host", host, "--port", str(port),
            ]
        )  # fmt: skip
        try:
            address = server.launch()
        except program.TensorBoardServerException as error:
            what = " ".join(str(error).split())
            raise ConfigError("--port", what, "choose another --port or --host") from error
        names = [str(folder) for folder in folders]
        text = f"{address} shows {', '.join(names)}; Ctrl-C ends it"
        emit(text, {"address": address, "runs": names}, as_json=as_json)
        while True:  # the server is a thread that ends with this process
            time.sleep(3600)


def _linked(folders: Sequence[Path], here: Path) -> Path:
    """What TensorBoard is to show: a folder of runs as it is, else `here`, with links named like the runs."""
    places = [_events(folder.resolve()) or folder.resolve() for folder in folders]
    runs = {place.parent if place.name == "tensorboard" else place: place for place in places}
    if len(folders) == 1 and _events(folders[0]) is None:
        return folders[0]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        top = os.path.commonpath([run.parent for run in runs])
        names = [os.path.relpath(run, top).replace(os.sep, "-") for run in runs]
    for name, place in zip(names, runs.values(), strict=True):
        (here / name).symlink_to(place)
    return here


def _events(folder: Path) -> Path | None:
    """Where TensorBoard's files of a run lie; None for a folder of runs."""
    return next((place for place in (folder / "tensorboard", folder) if any(place.glob(EVENTS))), None)
