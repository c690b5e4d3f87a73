"""`streamgan`: the group of all commands, and what becomes of errors.

Exit codes: 0 done, 1 a check failed, 2 usage or configuration, 3 data, 4 checkpoint, 130 Ctrl-C, and 128
plus its number for another signal.
"""

import click

from streamgan import __version__

from .bench import bench
from .colorize import colorize
from .compare import compare
from .demo import demo
from .evaluate import evaluate
from .export import export
from .index import index
from .inspect import inspect
from .models import models
from .output import run_command
from .runs import runs
from .serve import serve
from .shard import shard
from .tensorboard import board
from .train import train
from .verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="streamgan")
def streamgan() -> None:
    """Train image colorization GANs on large photo sets, streamed from WebDataset shards.

    \b
    streamgan shard data/*.parquet --out shards/photos
    accelerate launch launch/train.py --config launch/recipes/default.yaml data.shards=shards/photos
    streamgan evaluate runs/default --shards shards/photos
    streamgan colorize old.jpg --model runs/default --out colored
    """


COMMANDS = (
    shard, index, verify, inspect, train, runs, board, evaluate, compare, colorize, export, serve,
    models, bench, demo,
)  # fmt: skip
for _command in COMMANDS:
    streamgan.add_command(_command)


def main() -> None:
    """Entry point of the `streamgan` script."""
    run_command(streamgan)
