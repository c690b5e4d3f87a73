"""`streamgan colorize`: photos in, coloured photos out."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamgan.core.logs import progress

from .color_report import ColorReport
from .options import Command, Count, Number, device_option, max_pixels_option, ready_model

if TYPE_CHECKING:
    from streamgan.inference.containers import Codec

_STRENGTHS = {"subtle": 0.7, "natural": 1.0, "vivid": 1.4}


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
@click.option("--keep-times", is_flag=True, help="Give each result the time of change that its file has.")
@click.option("--recolor", is_flag=True, help="Colour also photos that are in colour already.")
@click.option(
    "--salvage", is_flag=True, help="Colour what is there of a JPEG or PNG of which a part is missing."
)
@click.option(
    "--dry-run", is_flag=True, help="List what would become what, as far as headers tell; write nothing."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for a line of JSON per file, added as the work goes.",
)
@click.option(
    "--format",
    "wanted",
    type=click.Choice(["jpeg", "png", "tiff", "webp", "avif"]),
    help="Format of all photos.  [that of each, where it holds colour]",
)
@click.option(
    "--quality", type=click.IntRange(1, 100), help="Of JPEG, lossy WebP, AVIF and HEIC.  [default: 95]"
)
@click.option(
    "--codec",
    type=click.Choice(["h264", "hevc", "av1", "vp9"]),
    help="Of films.  [h264, for more than 8 bits hevc; in WebM vp9 and av1]",
)
@click.option(
    "--crf",
    type=click.IntRange(0, 63),
    help="Constant rate factor of films: lower is better and larger.  [h264 16, hevc 17, av1 and vp9 20]",
)
@click.option("--suffix", default="", help="What the names of results have before their ending.")
@max_pixels_option
@click.option(
    "--strength",
    type=click.Choice(list(_STRENGTHS)),
    help=f"Saturation in words: {', '.join(f'{word} {factor}' for word, factor in _STRENGTHS.items())}.",
)
@click.option(
    "--saturation", type=Number(min=0, max=10), help="Factor on the chroma; 0 is gray.  [default: 1]"
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
    help="Photos of one shape, or frames, per forward pass.",
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def colorize(
    inputs: tuple[str, ...], model: str | None, out: Path, recursive: bool, skip_existing: bool,
    keep_times: bool, recolor: bool, salvage: bool, dry_run: bool, report: Path | None, wanted: str | None,
    quality: int | None, codec: "Codec | None", crf: int | None, suffix: str, max_pixels: int,
    strength: str | None, saturation: float | None, checkpoint: str, size: int | None, batch: int,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Colour INPUT... (files, folders, quoted patterns) at their own resolution and luminance.

    Folders keep their tree. Photos stay what they are (JPEG, PNG, TIFF, WebP, AVIF, JPEG 2000, BMP, TGA, PCX;
    HEIC with the extra `heic`), with transparency, metadata and colour profile, upright; GIF becomes PNG, PGM
    and PBM become PPM; 16-bit gray becomes 16-bit colour in PNG, TIFF and PPM. Photos that are in colour
    already are copied as they are; sepia and other tints are no colour. A file that cannot be read whole is
    reported, the others are done, and the exit code is 1. stdout has the names of the results.

    Films (.mp4, .m4v, .mov, .mkv, .webm, .ts, .m2ts, .mts stay what they are, .avi, .mpg, .mpeg, .wmv, .flv,
    .ogv become .mkv; extra `video`) keep frames, times, luma, sound, subtitles and chapters; one that was
    killed goes on near where it was; a damaged one is coloured as far as it goes.

    \b
    streamgan colorize old/*.jpg --out colored
    streamgan colorize old/*.jpg --model runs/default --out colored
    streamgan colorize archive --recursive --dry-run --out colored
    streamgan colorize archive --recursive --skip-existing --report colored.jsonl --out colored
    """
    if strength is not None and saturation is not None:
        raise click.UsageError("--strength and --saturation say the same; give one of them")
    if dry_run and report is not None:
        raise click.UsageError("--dry-run writes nothing, and no --report either; leave out one of them")
    if quality is not None and wanted in ("png", "tiff"):
        raise click.UsageError(f"--quality has no effect with --format {wanted}, which is lossless")
    if os.sep in suffix:
        raise click.UsageError(f"--suffix is a part of a name, without {os.sep}")
    import warnings

    from streamgan.inference.colorizer import Colorizer
    from streamgan.inference.containers import FilmOptions, check_options
    from streamgan.inference.inputs import Inputs, Naming
    from streamgan.inference.one_file import Handling
    from streamgan.inference.photo import Limits, allow_pixels
    from streamgan.inference.pipeline import color_files, plan_files
    from streamgan.inference.saving import QUALITY

    warnings.filterwarnings("ignore", module="PIL")  # of what becomes a line of its own here
    allow_pixels(max_pixels)
    naming, film = Naming(wanted and wanted.upper(), suffix, codec), FilmOptions(codec, crf)
    check_options(film)
    handling = Handling(
        skip_existing=skip_existing, recolor=recolor, quality=quality or QUALITY,
        limits=Limits(max_pixels, salvage), film=film,
    )  # fmt: skip
    total = Inputs(inputs, out, recursive=recursive, naming=naming).count()

    def found(told: ColorReport) -> Inputs:
        given = {"unreadable": told.unreadable, "passed": told.passed_over}
        return Inputs(inputs, out, recursive=recursive, naming=naming, **given)

    if dry_run:
        told = ColorReport()
        for outcome in plan_files(found(told), handling):
            told.outcome(outcome)
            if outcome.kind == "planned" and not as_json:
                source, path = map(click.format_filename, outcome.target)
                click.echo(f"{source} -> {path}")
        told.finish(out, as_json=as_json)
        return
    colorizer = Colorizer.load(
        model or ready_model(), which=checkpoint, device=device, size=size, batch=batch,
        saturation=_STRENGTHS.get(strength or "", 1.0 if saturation is None else saturation),
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    with ColorReport(report) as told, progress(total=total, unit="photo", label="colorize") as bar:
        for outcome in color_files(colorizer, found(told), handling):
            told.outcome(outcome)
            made = outcome.kind in ("colored", "partial", "left_alone")
            if made and keep_times:
                times = outcome.target.source.stat()
                os.utime(outcome.target.path, ns=(times.st_atime_ns, times.st_mtime_ns))
            if made and not as_json:
                with bar.external_write_mode():
                    click.echo(click.format_filename(outcome.target.path))
            bar.update()
        told.finish(out, as_json=as_json)
