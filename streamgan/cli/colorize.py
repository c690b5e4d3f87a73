"""`streamgan colorize`: photos in, coloured photos out."""

from pathlib import Path

import click

from streamgan.core.errors import CheckFailed, ConfigError

from .output import emit

SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}


@click.command(short_help="Colour photos at their own resolution and luminance.")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model", required=True, type=click.Path(), help="Run folder, checkpoint folder or weights file."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the coloured photos.")
@click.option(
    "--checkpoint", default="best", show_default=True, help="best, last, or a step number (of a run)."
)
@click.option("--size", type=click.IntRange(min=16), help="Short side of the chroma.  [as trained]")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def colorize(
    photos: tuple[Path, ...], model: str, out: Path, checkpoint: str, size: int | None, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Colour PHOTOS (files, or folders of them) at their own resolution and luminance.

    A file that cannot be read is reported, the others are done, and the exit code is 1.

    \b
    streamgan colorize old/*.jpg --model runs/default --out colored
    """
    from PIL import Image

    from streamgan.core.files import atomic_write
    from streamgan.core.logs import progress, say
    from streamgan.inference.colorizer import Colorizer

    todo = _targets(photos, out)
    colorizer = Colorizer.load(model, which=checkpoint, device=device, size=size)
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    bar = progress(total=len(todo), unit="photo", label="colorize")
    for source, target in todo.items():
        try:
            with Image.open(source) as photo:
                colored = colorizer(photo)
            if SUFFIXES[target.suffix.lower()] == "JPEG":
                colored = colored.convert("RGB")
            with atomic_write(target) as file:
                colored.save(file, SUFFIXES[target.suffix.lower()], quality=95)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            failed[str(source)] = " ".join(str(error).split())
            say(f"{source}: not coloured ({failed[str(source)]})")
        bar.update()
    bar.close()
    if failed:
        first = next(iter(failed))
        raise CheckFailed(
            out, f"{len(failed)} of {len(todo)} photos failed (first: {first})", "see the lines above"
        )
    emit(
        "\n".join(str(target) for target in todo.values()),
        {"colored": {str(source): str(target) for source, target in todo.items()}},
        as_json=as_json,
    )


def _targets(photos: tuple[Path, ...], out: Path) -> dict[Path, Path]:
    """Source -> target of every photo; ConfigError if there is none, or if two would share a name."""
    sources: list[Path] = []
    for photo in photos:
        if photo.is_dir():
            sources += sorted(path for path in photo.iterdir() if path.suffix.lower() in SUFFIXES)
        elif photo.exists():
            sources.append(photo)
        else:
            raise ConfigError(photo, "no such file", "give a photo or a folder of photos")
    if not sources:
        raise ConfigError(
            ", ".join(map(str, photos)), "no photos here", f"give files of {', '.join(SUFFIXES)}"
        )
    targets: dict[Path, Path] = {}
    for source in sources:
        name = source.name if source.suffix.lower() in SUFFIXES else f"{source.name}.png"
        target = out / name
        if target in targets.values():
            raise ConfigError(source, f"a second photo called {name}", "colour them into separate folders")
        if target.resolve() == source.resolve():
            raise ConfigError(source, "would be overwritten", "choose another --out")
        targets[source] = target
    return targets
