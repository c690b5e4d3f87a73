"""`streamgan colorize`: photos in, coloured photos out."""

from pathlib import Path

import click

from streamgan.core.errors import CheckFailed

from .options import Command, Count, Number, device_option, ready_model
from .output import emit

_NAMED_FAILURES = 1000  # in the JSON report


@click.command(
    cls=Command,
    on_stop="the same command with --skip-existing continues",
    short_help="Colour photos at their own resolution and luminance.",
)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--model",
    type=click.Path(),
    help="Run, checkpoint or bundle folder, weights file, or ORG/NAME.  [default: the one that comes along]",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the coloured photos.",
)
@click.option("--recursive", is_flag=True, help="Include all subfolders.")
@click.option("--skip-existing", is_flag=True, help="Skip what --out already has.")
@click.option(
    "--saturation",
    type=Number(min=0, max=10),
    default=1.0,
    show_default=True,
    help="Factor on the chroma; 0 is gray.",
)
@click.option(
    "--checkpoint", default="best", show_default=True, help="best, last, or a step number (of a run)."
)
@click.option("--size", type=click.IntRange(16, 4096), help="Short side of the chroma.  [as trained]")
@click.option(
    "--batch",
    type=Count(),
    default=8,
    show_default=True,
    help="Photos of one shape per forward pass.",
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def colorize(
    inputs: tuple[str, ...], model: str | None, out: Path, recursive: bool, skip_existing: bool,
    saturation: float, checkpoint: str, size: int | None, batch: int, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Colour INPUT... (files, folders, quoted patterns) at their own resolution and luminance.

    Folders keep their tree. JPEG, PNG, TIFF and WebP stay what they are, with transparency, metadata and
    colour profile, upright; 16-bit gray becomes 16-bit colour in PNG and TIFF. Films (.mp4, .mov, .mkv; extra
    `video`) keep frames, times, sound, subtitles and chapters; a damaged one is coloured as far as it goes. A
    file that cannot be read whole is reported, the others are done, and the exit code is 1. stdout has the
    names of the results.

    \b
    streamgan colorize old/*.jpg --out colored
    streamgan colorize old/*.jpg --model runs/default --out colored
    streamgan colorize archive --recursive --skip-existing --model runs/default --out colored
    """
    import warnings
    from collections import Counter

    from streamgan.core.logs import progress, say
    from streamgan.core.storage.walk import counted
    from streamgan.inference.colorizer import Colorizer
    from streamgan.inference.inputs import Inputs
    from streamgan.inference.pipeline import color_files

    warnings.filterwarnings("ignore", module="PIL")  # of what becomes a line of its own here
    failed: dict[str, str] = {}
    counts = {"colored": 0, "skipped": 0, "failed": 0}

    def fail(path: Path, reason: str, what: str = "not coloured") -> None:
        counts["failed"] += 1
        if len(failed) < _NAMED_FAILURES:
            failed[click.format_filename(path)] = reason
        say(f"{click.format_filename(path)}: {what} ({reason})")

    passed = Counter[str]()

    def passed_over(reason: str) -> None:
        passed[reason] += 1

    total = Inputs(inputs, out, recursive=recursive).count()
    todo = Inputs(inputs, out, recursive=recursive, unreadable=fail, passed=passed_over)
    colorizer = Colorizer.load(
        model or ready_model(), which=checkpoint, device=device, size=size, saturation=saturation, batch=batch
    )
    out.mkdir(parents=True, exist_ok=True)
    with progress(total=total, unit="photo", label="colorize") as bar:
        for outcome in color_files(colorizer, todo, skip_existing=skip_existing):
            if outcome.kind == "failed":
                fail(outcome.target.source, outcome.text)
            elif outcome.kind == "partial":
                fail(outcome.target.source, outcome.text, "coloured in part")
            else:
                counts[outcome.kind] += 1
                if outcome.text:
                    say(f"{click.format_filename(outcome.target.source)}: {outcome.text}")
            if outcome.kind in ("colored", "partial") and not as_json:
                with bar.external_write_mode():
                    click.echo(click.format_filename(outcome.target.path))
            bar.update()
    result = {"out": str(out), **{f"num_{kind}": number for kind, number in counts.items()}}
    result["passed_over"] = dict(passed)
    if passed:
        say(f"passed over: {counted(passed, most=None)}")
    if failed:
        done = sum(counts.values())
        what = f"{counts['failed']} of {done} photos failed (first: {next(iter(failed))})"
        raise CheckFailed(out, what, "see the lines above", {**result, "failed": failed})
    if counts["skipped"]:
        say(f"{counts['colored']} coloured, {counts['skipped']} were there already")
    if as_json:
        emit("", result, as_json=True)
