"""What the options of all commands have in common, and options that several commands have."""

import math
import os
import re
from typing import Any

import click
from click.core import ParameterSource

from streamgan.core.storage.address import is_address

from .stopping import stop_on_signals

MAX_COUNT = 10**12
MAX_PIXELS = 170_000_000  # that of inference.photo, which is not to be imported for the help


class Command(click.Command):
    """A command that refuses an option given twice, where the second would replace the first in silence.

    An empty word is refused too: of a shell variable that is not set, a path would be the folder we are in.

    Signals end it with `on_stop`, which says how the work goes on; None leaves them to the command.
    """

    def __init__(self, *args: Any, on_stop: str | None = "the same command starts again", **attributes: Any):
        super().__init__(*args, **attributes)
        self._on_stop = on_stop

    def invoke(self, ctx: click.Context) -> Any:
        if self._on_stop is not None:
            stop_on_signals(ctx, self._on_stop)
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        values, _, given = self.make_parser(ctx).parse_args(list(args))
        for one in {id(one): one for one in given}.values():
            value = values[one.name or ""]
            if "" in (value if isinstance(value, list | tuple) else [value]) and one.default != "":
                name = one.opts[0] if isinstance(one, click.Option) else one.make_metavar(ctx)
                raise click.UsageError(f"{name} is empty", ctx)
        for option in {id(one): one for one in given if isinstance(one, click.Option)}.values():
            if not (option.multiple or option.is_flag) and sum(one is option for one in given) > 1:
                raise click.UsageError(f"{option.opts[0]} is given twice", ctx)
        return super().parse_args(ctx, args)


def given(name: str) -> bool:
    """Whether the command line has this option or argument."""
    context = click.get_current_context()
    said = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    return said and context.params[name] != ()


class Count(click.IntRange):
    """A whole number from `min` to `max`; what is larger than any data set is a mistake."""

    def __init__(self, min: int = 1, max: int = MAX_COUNT):
        super().__init__(min, max)


class Number(click.FloatRange):
    """A finite number in a range; click lets nan pass every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class LocalPath(click.Path):
    """A path on this machine; an address would become a folder called `s3:`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_address(str(value)):
            self.fail(f"{value} is an address; give a folder of this machine.", param, ctx)
        return super().convert(value, param, ctx)


class FolderOrAddress(click.Path):
    """A folder of this machine that is there, or an address."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if is_address(str(value)) else super().convert(value, param, ctx)


def with_home(word: str) -> str:
    """An argument with ~ as the home folder, also after `--option=` and NAME=, where shells leave it."""
    parts = re.fullmatch(r"([^=~]*=)?(~[^/]*/.*)", word, re.DOTALL)
    return (parts[1] or "") + os.path.expanduser(parts[2]) if parts else word


cache_option = click.option(
    "--cache",
    default="~/.cache/streamgan/shards",
    show_default=True,
    help="Folder for shards at an address, or none.",
)
cache_gb_option = click.option(
    "--cache-gb",
    type=Number(min=0, max=1e9, min_open=True),
    default=50.0,
    show_default=True,
    help="GB that the cache holds at most.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
max_pixels_option = click.option(
    "--max-pixels",
    type=Count(),
    default=MAX_PIXELS,
    show_default=True,
    help="Most pixels of a photo: what has more may be an attack.",
)


def ready_model() -> str:
    """The model for a command that was given none, which is said."""
    from streamgan.core.logs import say
    from streamgan.core.storage.hub import READY

    say(
        "colouring with the packaged model, a small one trained on 64-pixel photos; "
        "train one on photos like yours (streamgan train --help) and give it with --model"
    )
    return READY
