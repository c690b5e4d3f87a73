"""results/compare.*: the zoo of launch/recipes/compare.yaml on photos of 64 pixels, from parquet to table.

    python benchmarks/zoo.py PHOTOS64 --work runs/zoo                     # all rows, ten minutes each
    python benchmarks/zoo.py PHOTOS64 --work runs/zoo --rows pretrained --steps 900

With --rows, only those are trained; the others stay as OUT/compare.json has them, if they were scored on the
same photos of the same shard set. The same command again goes on where it was.
"""

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from common import STREAMGAN

from streamgan.compare.table import markdown

RECIPES = Path("launch/recipes")
SAME = ("shards_digest", "split", "size", "num_images")
PAGE = """\
# The zoo under one budget

{photos}; one seed (n = 1). A row's machine is below the table.

    {command}

{pictures}

"""


def prepare(args: argparse.Namespace) -> Path:
    """The comparison's file in `args.work`: the rows that are wanted, under the budget that is wanted."""
    config = yaml.safe_load((RECIPES / "compare.yaml").read_text())
    rows = [row for row in config["rows"] if not args.rows or row["name"] in args.rows]
    if unknown := set(args.rows) - {row["name"] for row in rows}:
        raise SystemExit(f"--rows: compare.yaml has no {', '.join(sorted(unknown))}")
    for row in rows:
        row["recipe"] = os.path.relpath(RECIPES / row["recipe"], args.work)
    budget = {"steps": args.steps} if args.steps else {"minutes": args.minutes}
    config |= {"rows": rows, "budget": budget, "mixed_precision": args.precision}
    path = args.work / "compare.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def joined(new: dict[str, Any], path: Path) -> dict[str, Any]:
    """The rows of an earlier comparison on the same photos, those of `new` in their places."""
    if not path.exists():
        return new
    old = json.loads(path.read_text())
    if other := [name for name in SAME if old[name] != new[name]]:
        raise SystemExit(f"{path}: {other[0]} is another one ({old[other[0]]}, here {new[other[0]]})")
    fresh = {row["name"]: row for row in new["rows"]}
    rows = [fresh.pop(row["name"], row) for row in old["rows"]]
    return {**old, "protocol": new["protocol"], "rows": rows + list(fresh.values())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of parquet files")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rows", type=lambda text: text.split(","), default=[], help="names, with commas")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument(
        "--precision", choices=("no", "bf16"), default="no", help="bf16: CPUs with AVX-512 BF16"
    )
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    shards, runs = args.work / "shards", args.work / "runs"
    subprocess.run([*STREAMGAN, "shard", args.photos, "--out", shards], check=True)
    config = prepare(args)
    subprocess.run([*STREAMGAN, "compare", "--config", config, "--shards", shards, "--out", runs], check=True)
    comparison = {**json.loads((runs / "comparison.json").read_text()), "shards": "shards/tiny64"}
    for row in comparison["rows"]:  # where it was made tells nobody anything
        if row.get("recipe"):
            row["recipe"] = str(RECIPES / Path(row["recipe"]).name)
        if row.get("weights"):
            row["weights"] = str(Path("runs/zoo") / Path(row["weights"]).relative_to(args.work))
    picture = f"compare{''.join(f'_{name}' for name in args.rows)}.png"
    if args.rows:
        comparison = joined(comparison, args.out / "compare.json")
    options = [f"--rows {','.join(args.rows)}"] if args.rows else []
    options += [f"--steps {args.steps}" if args.steps else f"--minutes {args.minutes:g}"]
    shown = dict.fromkeys(["compare.png", picture]) if args.rows else [picture]
    page = PAGE.format(
        photos="{num_images:,} photos of the test split, {size} x {size}".format(**comparison),
        command=f"python benchmarks/zoo.py PHOTOS64 --work runs/zoo {' '.join(options)}",
        pictures="\n\n".join(f"![rows: photos; columns: gray, models, truth]({name})" for name in shown),
    )
    (args.out / "compare.json").write_text(json.dumps(comparison, indent=1) + "\n")
    (args.out / "compare.md").write_text(f"{page}#{markdown(comparison)}")  # its title one level down
    shutil.copy(runs / "grid.png", args.out / picture)


if __name__ == "__main__":
    main()
