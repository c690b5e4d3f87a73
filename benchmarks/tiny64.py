"""results/tiny64.md, first tables: the recipes of the packaged model, some seeds, scored on the test split.

    python benchmarks/tiny64.py PHOTOS64 [PHOTOS64...] --work runs/tiny64 --seeds 0,1

Shards, then for each seed launch/recipes/tiny64_pretrained.yaml and, from its weights, tiny64_whole.yaml; the
same command again goes on where it was. The tables go into OUT between the lines BEGIN and END.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import STREAMGAN, machine, markdown

from streamgan.core.storage.files import atomic_write

RECIPES = (("frozen", "tiny64_pretrained"), ("whole", "tiny64_whole"))
BEGIN, END = "<!-- tiny64.py: begin -->\n", "<!-- tiny64.py: end -->\n"
TRAIN = ("accelerate", "launch", "--config_file", "launch/accelerate/cpu.yaml", "launch/train.py")


def train(args: argparse.Namespace, seed: int) -> list[Path]:
    """All phases; their run folders."""
    start: list[str] = []
    runs = []
    for phase, recipe in RECIPES:
        run = args.work / f"{phase}{seed}"
        settings = [f"data.shards={args.work / 'shards'}", f"run.dir={run}", f"run.seed={seed}", *start]
        settings += [f"run.threads={args.threads}", "data.workers=0", *args.settings]
        config = f"launch/recipes/{recipe}.yaml"
        subprocess.run([*TRAIN, "--config", config, *settings], check=True)
        start = [f"run.init_from={run}"]
        runs.append(run)
    return runs


def evaluate(args: argparse.Namespace, run: Path) -> dict[str, Any]:
    command = [*STREAMGAN, "evaluate", run, "--shards", args.work / "shards", "--split", "test", "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def curve(run: Path) -> list[tuple[int, float]]:
    """(step, dB above gray on val) of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], line["val/psnr"] - line["val/gray_psnr"]) for line in lines if "val/gray_psnr" in line
    ]


def cells(scores: dict[str, Any], psnr_gray: float) -> list[str]:
    """PSNR and its gain, SSIM, PSNR at half of the truth's colour and its gain ("-": out of reach), CF."""
    psnr, at_half = scores["psnr"], scores.get("psnr_at_cf50")
    half = ["-", "-"] if at_half is None else [f"{at_half:.2f}", f"{at_half - psnr_gray:.2f}"]
    return [f"{psnr:.2f}", f"{psnr - psnr_gray:.2f}", f"{scores['ssim']:.4f}", *half, f"{scores['cf']:.1f}"]


def tables(runs: dict[int, list[Path]], results: dict[int, dict[str, Any]]) -> str:
    any_result = next(iter(results.values()))
    gray, truth = any_result["model"]["psnr_gray"], any_result["model"]["cf_truth"]
    rows = {f"seed {seed}": result["model"] for seed, result in results.items()} | any_result["baselines"]
    head = [f"test split, {any_result['num_images']:,} photos", "PSNR", "gain", "SSIM"]
    body = [[name, *cells(scores, gray)] for name, scores in rows.items()]
    parts = [markdown([*head, "`psnr_at_cf50`", "gain", f"CF (truth {truth:.1f})"], body)]
    for phase, name in enumerate(name for name, _ in RECIPES):
        curves = {seed: dict(curve(folders[phase])) for seed, folders in runs.items()}
        steps = sorted(set.intersection(*map(set, curves.values())))
        lines = [[f"seed {seed}", *(f"{gain[step]:.2f}" for step in steps)] for seed, gain in curves.items()]
        parts.append(markdown([f"gain on val, dB: {name} encoder, step", *map(str, steps)], lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="+", help="folders of parquet files")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tiny64.md"))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", nargs="*", default=[], help="more KEY=VALUE for both phases")
    args = parser.parse_args()
    files = sorted(file for folder in args.photos for file in folder.rglob("*.parquet"))
    shards = [*STREAMGAN, "shard", *files, "--out", args.work / "shards", "--splits", "train=94,val=1,test=5"]
    subprocess.run(shards, check=True)
    runs = {seed: train(args, seed) for seed in args.seeds}
    results = {seed: evaluate(args, folders[-1]) for seed, folders in runs.items()}
    command = shlex.join(["python", *sys.argv])
    text = f"    {command}\n\nMachine: {machine()}.\n\n{tables(runs, results)}\n"
    page = args.out.read_text() if args.out.exists() else BEGIN + END
    before, _, rest = page.partition(BEGIN)
    with atomic_write(args.out) as file:
        file.write(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}".encode())


if __name__ == "__main__":
    main()
