"""`streamgan train`, the same code as `accelerate launch launch/train.py`."""

import json
from typing import Any

import click

from .options import Command
from .output import emit, run_command


@click.command(cls=Command, on_stop=None, short_help="Train a colorization GAN, or continue a run.")
@click.option(
    "--config", "-c", type=click.Path(), help="YAML recipe; launch/recipes has one for every model."
)
@click.option("--init-from", type=click.Path(), help="Start a new run with this run's networks.")
@click.option("--allow-changed", is_flag=True, help="Continue although settings or shards differ.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and stop.")
@click.option("--settings", is_flag=True, help="List every setting with default and meaning, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
def train(
    config: str | None, init_from: str | None, allow_changed: bool, dry_run: bool, settings: bool,
    as_json: bool, overrides: tuple[str, ...],
) -> None:  # fmt: skip
    """Train a colorization GAN; the same command again continues where the run was.

    On several processes use the launcher:

    \b
    accelerate launch --config_file launch/accelerate/multi_gpu.yaml launch/train.py \\
        --config launch/recipes/default.yaml data.shards=shards/photos run.dir=runs/photos optim.lr_g=1e-4
    """
    from streamgan.core.config import dump_yaml, load_config, refuse_twice
    from streamgan.core.inert import without_effect
    from streamgan.core.logs import say

    if settings:
        text, rows = describe_settings()
        emit(text, {"settings": rows}, as_json=as_json)
        return
    if init_from:
        overrides = (*overrides, f"run.init_from={json.dumps(init_from)}")
    refuse_twice(overrides)
    resolved = load_config(config, overrides)
    from streamgan.train.build import check_models

    check_models(resolved)
    if inert := without_effect(resolved):
        say(f"without effect: {', '.join(inert)}")
    if dry_run:
        emit(dump_yaml(resolved).rstrip(), {"config": resolved.model_dump(mode="json")}, as_json=as_json)
        return
    from streamgan.train.loop import train as run_training

    result = run_training(resolved, allow_changed=allow_changed)
    emit(f"{result['run']}: step {result['steps']}", result, as_json=as_json)


def describe_settings() -> tuple[str, list[dict[str, Any]]]:
    """Every setting with its default and meaning, as text and as records."""
    from streamgan.core.config import setting_names

    rows = [
        {
            "name": name,
            "default": None if field.is_required() else field.default,
            "meaning": field.description,
        }
        for name, field in setting_names().items()
    ]
    return "\n".join(f"{row['name']} = {row['default']}\n    {row['meaning']}" for row in rows), rows


def main() -> None:
    """Entry point of launch/train.py, run by every process of the launcher."""
    run_command(train)


if __name__ == "__main__":
    main()
