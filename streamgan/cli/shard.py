"""`streamgan shard`: parquet or images -> WebDataset shards."""

import io
from contextlib import redirect_stdout

import click

from streamgan.core.machine import usable_cores

from .options import Command, Count, Number, given
from .shard_report import report, report_part

_LARGEST = 2**63 - 1  # what other readers of a manifest can hold
_PIXEL_LIMIT = (
    178_956_970  # PIL opens nothing larger; equals sharding.check.PIXEL_LIMIT, which is slow to import
)


@click.command(cls=Command, on_stop="the same command continues")
@click.argument("sources", metavar="SOURCE...", nargs=-1)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False),
    help="Folder of the shard set, or s3://BUCKET/PREFIX, or gs:// likewise.",
)
@click.option(
    "--workers",
    type=Count(0, 4096),
    default=None,
    show_default="number of CPUs",
    help="Worker processes; 0: work in this process. The result does not depend on it.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the processes run: on this machine, or on a Ray cluster that runs already.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    default=None,
    show_default="the cluster that this machine is a node of",
    help="Head of the Ray cluster.",
)
@click.option(
    "--samples-per-shard",
    type=Count(),
    default=1000,
    show_default=True,
    help="Rows per unit of work; each unit writes one shard per split.",
)
@click.option(
    "--shard-size",
    metavar="SIZE",
    default=None,
    show_default="by --samples-per-shard",
    help="Choose the rows so that shards of the largest split have about this size (256MB, 1GiB).",
)
@click.option(
    "--seed",
    type=click.IntRange(-_LARGEST - 1, _LARGEST),
    default=0,
    show_default=True,
    help="Seed of the order of row groups.",
)
@click.option(
    "--splits",
    default="train=70,val=20,test=10",
    show_default=True,
    help="Weights of the splits, chosen by a hash of the image; or `source`: by name of file or folder.",
)
@click.option(
    "--gray",
    type=click.Choice(["keep", "derive"]),
    default="keep",
    show_default=True,
    help="Keep the gray twins, or drop them so that gray is derived from colour.",
)
@click.option("--keep-text", is_flag=True, show_default=True, help="Keep the caption in KEY.json.")
@click.option(
    "--columns",
    metavar="image=NAME,gray=NAME,text=NAME",
    show_default="image; conditioning_image or grayscale_image, if any; text or caption",
    help="Columns of colour images, gray twins and captions; give those with other names.",
)
@click.option(
    "--max-samples",
    type=Count(),
    default=None,
    show_default="all",
    help="Take only this many rows, the same ones for the same seed.",
)
@click.option(
    "--max-bad",
    type=Number(0, 1),
    default=0.01,
    show_default=True,
    help="Fraction of bad rows beyond which the run fails.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1, _PIXEL_LIMIT),
    default=50_000_000,
    show_default=True,
    help="Larger images are bad rows; read from the header, before any decoding.",
)
@click.option(
    "--check",
    type=click.Choice(["decode", "header", "none"]),
    default="header",
    show_default=True,
    help="How far each image is read: all of it, all but the pixels, or the first bytes.",
)
@click.option(
    "--part",
    metavar="I/N",
    default=None,
    show_default="all of it",
    help="Do part I of N and publish nothing. Parts may run on any machines and at the same time.",
)
@click.option(
    "--finish",
    "only_finish",
    is_flag=True,
    show_default=True,
    help="Publish the finished parts, or say what is missing; needs no SOURCE.",
)
@click.option(
    "--size",
    type=Count(1, _PIXEL_LIMIT),
    show_default="as they are",
    help="Make images smaller: the short side at most this many pixels. Never larger.",
)
@click.option(
    "--encode",
    type=click.Choice(["jpeg", "png"]),
    show_default="jpeg for smaller ones, png for others",
    help="Format of images that cannot be copied as they are.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    show_default="95",
    help="JPEG quality, where images are encoded.",
)
@click.option("--json", "as_json", is_flag=True, show_default=True, help="One JSON object on stdout.")
def shard(
    sources,
    out,
    workers,
    engine,
    address,
    shard_size,
    max_bad,
    part,
    only_finish,
    columns,
    as_json,
    **options,
):
    """Turn parquet files or folders of images into a set of WebDataset shards.

    SOURCE is a parquet file, a folder of them, a folder of images, or a glob, here or on s3://, gs:// or
    https://, or a data set of the Hub, ORG/NAME or hf://datasets/ORG/NAME@REVISION/PATH. The same command
    again continues where it stopped, or says that there is nothing to do; the bytes are the same however
    often it was stopped.

    \b
    Example:
      streamgan shard data/photos --out shards/photos --splits train=70,val=20,test=10
      streamgan shard data/photos --out s3://bucket/photos
      streamgan shard data/photos --out shards/photos --part 1/8    # one job of eight, then
      streamgan shard --out shards/photos --finish
    """
    _refuse_nonsense(sources, only_finish)
    _refuse_both(shard_size)
    _refuse_engine(engine, address, workers)
    from streamgan.sharding.folder.parts import parse_part
    from streamgan.sharding.run import ShardOptions, finish, shard_part
    from streamgan.sharding.run import shard as make_set
    from streamgan.sharding.unit.sizes import parse_size

    if only_finish:
        return report(out, finish(out, max_bad=max_bad), as_json)
    shard_bytes = parse_size(shard_size) if shard_size is not None else None
    if options["check"] == "none" and given("max_pixels"):
        raise click.UsageError("--max-pixels needs the size of every image; leave out --check none")
    how = {
        "options": ShardOptions(**_named_columns(columns), **options),
        "shard_bytes": shard_bytes,
        "num_workers": workers if workers is not None or engine == "ray" else usable_cores(),
        "engine": engine,
        "address": address or "auto",
        "max_bad": max_bad,
    }
    with redirect_stdout(io.StringIO()):  # Ray tells of lost nodes there, where the result alone belongs
        if part:
            result = shard_part(sources, out, part=parse_part(part), **how)
        else:
            result = make_set(sources, out, **how)
    return report_part(out, result, as_json) if part else report(out, result, as_json)


def _named_columns(columns: str | None) -> dict[str, str]:
    """`image=photo,gray=bw` as fields of ShardOptions."""
    named: dict[str, str] = {}
    for part in columns.split(",") if columns else []:
        role, equals, name = (word.strip() for word in part.partition("="))
        if role not in ("image", "gray", "text") or not equals or not name or f"{role}_column" in named:
            message = f"{part!r} is not image=NAME, gray=NAME or text=NAME, each once"
            raise click.BadParameter(message, param_hint="--columns")
        named[f"{role}_column"] = name
    return named


def _refuse_nonsense(sources: tuple[str, ...], only_finish: bool) -> None:
    """UsageError for arguments that contradict each other."""
    if not sources and not only_finish:
        raise click.UsageError("SOURCE... is missing; name the parquet files, or publish parts with --finish")
    if only_finish:
        context, meant = click.get_current_context(), ("out", "max_bad", "only_finish", "as_json")
        for option in context.command.params:
            if given(option.name or "") and option.name not in meant:
                name = "SOURCE" if option.name == "sources" else option.opts[0]
                raise click.UsageError(f"--finish publishes what is there and takes no {name}")


def _refuse_both(shard_size: str | None) -> None:
    if shard_size and given("samples_per_shard"):
        raise click.UsageError("give --samples-per-shard or --shard-size, not both")


def _refuse_engine(engine: str, address: str | None, workers: int | None) -> None:
    if engine != "ray" and address:
        raise click.UsageError("--address is that of a cluster; give --engine ray too, or leave it out")
    if engine == "ray" and workers == 0:
        raise click.UsageError("--engine ray does not work in this process; give --workers 1 or more")
