"""`streamgan models`: the zoo in one table."""

import click

from .options import Command
from .output import emit, table


@click.command(cls=Command, short_help="List the models with their cost and origin.")
@click.option(
    "--size",
    type=click.IntRange(32, 2048),
    default=256,
    show_default=True,
    help="Side of the image, in pixels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def models(size: int, as_json: bool) -> None:
    """List the generators and discriminators: parameters, multiply-adds per image, receptive field, paper.

    Widths are as published. "sees" is the side of the input patch that can change one output, norms aside;
    "all" is the whole image. Takes some seconds: everything is measured.

    \b
    streamgan models --json
    """
    from streamgan.core.errors import ConfigError
    from streamgan.core.logs import say
    from streamgan.models import DISCRIMINATORS, GENERATORS
    from streamgan.models.summary import summarise

    rows = []
    for name in GENERATORS:
        try:
            rows.append(summarise("generator", name, size=size))
        except ConfigError as error:  # one that needs an extra
            say(f"{name} is left out: {error.what}; {error.todo}")
    rows += [summarise("discriminator", name, size=size) for name in DISCRIMINATORS]
    head = [f"{size} x {size}", "parameters", "GMACs", "sees", "paper", "link"]
    lines = []
    for kind in ("generator", "discriminator"):
        lines.append([f"{kind}s", *[""] * 5])
        lines += [
            [
                f"  {r.name}",
                f"{r.parameters / 1e6:.2f} M",
                f"{r.gmacs:.1f}",
                str(r.sees or "all"),
                r.paper,
                r.url,
            ]
            for r in rows
            if r.kind == kind
        ]
    emit(table(head, lines), {"models": [row._asdict() for row in rows]}, as_json=as_json)
