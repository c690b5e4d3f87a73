"""`streamgan compare`: the zoo, one budget, one table."""

import click

from streamgan.core.errors import CheckFailed

from .options import Command, LocalPath
from .output import emit, table


@click.command(
    cls=Command,
    on_stop="the same command continues",
    short_help="Train recipes under one budget and put them in one table.",
)
@click.option(
    "--config",
    "-c",
    required=True,
    type=click.Path(),
    help="YAML file that names the recipes; launch/recipes/compare.yaml is one.",
)
@click.option("--shards", help="Folder or address of the shard set.  [default: as in the file]")
@click.option(
    "--out",
    type=LocalPath(file_okay=False),
    help="Folder for runs, table and grid.  [default: as in the file]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def compare(config: str, shards: str | None, out: str | None, as_json: bool) -> None:
    """Train every recipe of a list under the same budget, score all of them and the trivial baselines on the
    same photos, and write OUT/comparison.md, comparison.json and grid.png.

    The same command again goes on where it was; what is trained and scored stays. A row that fails is named,
    the others go on, and the exit code is 1. Rows train one after the other in this process, on one device.

    \b
    streamgan compare --config launch/recipes/compare.yaml --shards shards/tiny64 --out runs/compare
    streamgan board runs/compare
    """
    from streamgan.compare.run import compare as run_comparison
    from streamgan.compare.settings import load_comparison
    from streamgan.compare.table import score_columns

    comparison = load_comparison(config, shards=shards, out=out)
    result = run_comparison(comparison)
    folder = comparison.config.out
    shown = score_columns(result["rows"])
    text = table(
        [f"{result['split']}, N = {result['num_images'] or 0}", "steps", *shown],
        [
            [row["name"], str(row.get("steps") or "-"), *(_cell(row["scores"].get(name)) for name in shown)]
            for row in result["rows"]
        ],
    )
    text += f"\n{folder}: comparison.md, comparison.json, grid.png; streamgan board {folder}"
    failed = [row["name"] for row in result["rows"] if row.get("error")]
    if failed:
        if not as_json:
            emit(text, {}, as_json=False)
        what = f"{len(failed)} of {len(comparison.rows)} rows failed ({', '.join(failed)})"
        todo = "comparison.md says why; the same command tries them again"
        raise CheckFailed(folder, what, todo, result)
    emit(text, {"out": folder, **result}, as_json=as_json)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
