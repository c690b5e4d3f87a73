"""`streamgan board`: TensorBoard on runs."""

import time
from pathlib import Path

import click

from streamgan.core.errors import CheckpointError, ConfigError

from .options import Command
from .output import emit


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

    \b
    streamgan board runs/a runs/b
    """
    from tensorboard import program

    folders = runs or (Path("runs"),)
    for folder in folders:
        if next(folder.rglob("events.out.tfevents.*"), None) is None:
            raise CheckpointError(
                folder, "no run with TensorBoard files here", "give a run folder, or one of runs"
            )
    if len(folders) == 1:
        where = ["--logdir", str(folders[0])]
    else:
        names = [folder.name or str(folder) for folder in folders]
        if len(set(names)) < len(names):
            names = [str(folder) for folder in folders]
        pairs = [f"{name}:{folder}" for name, folder in zip(names, folders, strict=True)]
        if any(mark in pair.replace(":", "", 1) for pair in pairs for mark in ",:"):
            raise ConfigError("RUNS", "a path has a comma or a colon", "give the folder that holds the runs")
        where = ["--logdir_spec", ",".join(pairs)]
    server = program.TensorBoard()
    server.configure(argv=["tensorboard", *where, "--host", host, "--port", str(port)])
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
