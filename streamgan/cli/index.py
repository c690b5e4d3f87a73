"""`streamgan index`: WebDataset tars made elsewhere -> a shard set, the tars untouched."""

import click

from .options import Command, FolderOrAddress, Number
from .output import emit


@click.command(cls=Command)
@click.argument("folder", metavar="DIR", type=FolderOrAddress())
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    show_default="beside the tars",
    help="Folder for the indexes, with links to the tars.",
)
@click.option(
    "--color",
    multiple=True,
    show_default="color.jpg, jpg, image.jpg; also jpeg, png, webp",
    help="Ending of the names of colour images, after the key's dot; may be given several times.",
)
@click.option(
    "--gray",
    multiple=True,
    show_default="gray.jpg, if any; also jpeg, png, webp",
    help="The same for gray twins; none: not used, gray is derived from colour.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    show_default="by the names of the tars, else train",
    help="Split of all tars.",
)
@click.option(
    "--max-bad",
    type=Number(0, 1),
    default=0.01,
    show_default=True,
    help="Fraction of bad samples beyond which the command fails.",
)
@click.option("--json", "as_json", is_flag=True, show_default=True, help="One JSON object on stdout.")
def index(folder, out, color, gray, split, max_bad, as_json):
    """Index the WebDataset tars in DIR, made by other programs, so that they are read like a shard set.

    Every tar is read once and none is changed. A damaged, compressed or nested tar is an error that names it.
    What is not used is counted. Run it again after tars were added or removed. DIR may be a bucket,
    s3://BUCKET/PREFIX, gs:// or az://; each tar then passes through a temporary file (TMPDIR).

    \b
    Example:
      streamgan index data/tars --color jpg --out shards/foreign
    """
    from streamgan.core.errors import ConfigError
    from streamgan.core.storage.address import is_address, redacted
    from streamgan.sharding.foreign.build import index as make_index

    color, gray = (tuple(name.lower().lstrip(".") for name in names) for names in (color, gray))
    if is_address(out or ""):
        raise ConfigError(
            "--out", f"is an address (got {redacted(out)})", "name a folder, then copy it there"
        )
    gray = None if gray == ("none",) else gray
    result = make_index(folder, out=out, color=color, gray=gray, split=split, max_bad=max_bad)
    manifest, where = result.manifest, redacted(str(out or folder))
    splits = {
        name: {"samples": one.samples, "shards": len(one.shards)} for name, one in manifest.splits.items()
    }
    summary = {
        "out": where,
        "digest": manifest.digest,
        "splits": splits,
        "quarantine": manifest.quarantine["reasons"],
        "passed_over": result.passed_over,
        "empty_tars": result.empty_tars,
        "repeated_keys": result.repeated_keys,
        "nothing_to_do": result.nothing_to_do,
    }
    lines = [f"{where}: nothing to do, all is as before"] if result.nothing_to_do else []
    lines += [f"{name:5} {one['samples']:9} samples {one['shards']:5} shards" for name, one in splits.items()]
    lines += [f"bad   {count:9} {reason}" for reason, count in manifest.quarantine["reasons"].items()]
    lines += [f"other {count:9} {what} (not used)" for what, count in result.passed_over.items()]
    lines += [f"empty {name}" for name in result.empty_tars]
    if result.repeated_keys:
        lines.append(
            f"note: {result.repeated_keys} keys are in more than one tar; all of their samples are kept"
        )
    emit("\n".join([*lines, f"digest {manifest.digest}"]), summary, as_json=as_json)
