"""`streamgan demo`: the whole journey on real photographs, in minutes, on a CPU."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click

from streamgan.core.errors import CheckFailed

from .options import Command, Count, LocalPath
from .output import emit, table

TRAINING = [  # launch/recipes/finetune.yaml, which an installed wheel does not have; smaller batches
    "data.batch=16", "data.size=64", "data.workers=1",
    "model.generator=timm_unet", "model.width=32", "model.dropout=0.1",
    "model.discriminator=patchgan", "model.d_width=16",
    "loss.gan=hinge", "loss.rec=smooth_l1", "loss.log_mse_weight=0.5", "loss.gan_weight=0.002",
    "loss.warmup_steps=40", "loss.ramp_steps=40",
    "optim.lr_g=3e-5", "optim.lr_encoder=0", "optim.freeze_norm=true", "optim.lr_d=2e-4",
    "optim.betas=[0.9, 0.99]", "optim.weight_decay=0.05", "optim.schedule=cosine", "optim.clip_g=1",
    "optim.ema_half_life_images=500", "run.init_from=ready",
    "run.log_every=20", "run.validate_every=50", "run.validate_images=64",
]  # fmt: skip


@click.command(
    cls=Command,
    on_stop="the same command continues",
    short_help="The whole journey on real photographs, in minutes, on a CPU.",
)
@click.option(
    "--out",
    type=LocalPath(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for everything that the demo makes.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of your own colour photos, three or more.  [default: packaged photos]",
)
@click.option("--steps", type=Count(1, 10**9), default=150, show_default=True, help="Training steps.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def demo(out: Path, images: Path | None, steps: int, as_json: bool) -> None:
    """Photos -> parquet -> shards -> a GAN trained by `accelerate launch` -> scores -> coloured photos.

    The GAN starts with the model that comes with streamgan and learns from the photos of the demo.
    Every step is a command that you can type yourself; it is printed before it runs. Run again, it continues.

    \b
    streamgan demo --images ~/Pictures
    """
    from streamgan.core.run_folder import SAMPLES

    from .demo_photos import write_parquet

    started = time.monotonic()
    parquet, shards, run, colored = (out / name for name in ("parquet", "shards", "run", "colored"))
    held_out = write_parquet(parquet, out / "gray", images=images)
    _run("shard", parquet, "--out", shards, "--splits", "source", "--samples-per-shard", 64)
    launcher = [
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    script = (
        Path(__file__).parents[2] / "launch" / "train.py"
    )  # a checkout has it, an installed wheel does not
    program = [str(script)] if script.is_file() else ["-m", "streamgan.cli.train"]
    settings = [f"data.shards={shards}", f"run.dir={run}", f"run.steps={steps}", *TRAINING]
    _run(
        "launch",
        *launcher,
        *program,
        *settings,
        module="accelerate.commands.accelerate_cli",
        shown="accelerate",
    )
    scores = _run("evaluate", run, "--shards", shards, "--split", "test", "--json", capture=True)
    _run("colorize", *held_out, "--model", run, "--out", colored)

    result = json.loads(scores)
    rows = {"model": result["model"], **result["baselines"]}
    columns = ("psnr", "ssim", "cf", "dcf")
    text = table(
        [f"test photos, N = {result['num_images']}", *columns],
        [[name, *(f"{row[column]:.4g}" for column in columns)] for name, row in rows.items()],
    )
    places = {
        "shards": shards,
        "run": run,
        "sample grids": run / SAMPLES,
        "coloured photos": colored,
        "their gray originals": out / "gray",
    }
    board = f"streamgan board {run}"
    lines = [text, "", *(f"{name}: {path}" for name, path in places.items())]
    lines += [f"losses and grids: {board}", f"{time.monotonic() - started:.0f} s"]
    emit("\n".join(lines), {"scores": result, "tensorboard": board, **{k: str(v) for k, v in places.items()}},
         as_json=as_json)  # fmt: skip


def _run(
    *arguments: object, module: str = "streamgan.cli", shown: str = "streamgan", capture: bool = False
) -> str:
    """Run a command in a process of its own, printed first; its stdout. CheckFailed if it fails."""
    words = [str(argument) for argument in arguments]
    click.echo(f"\n$ {shlex.join([shown, *words])}", err=True)
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        stdout=subprocess.PIPE if capture else sys.stderr,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CheckFailed(
            shlex.join([shown, *words[:1]]), f"exit code {done.returncode}", "see the lines above"
        )
    return done.stdout or ""
