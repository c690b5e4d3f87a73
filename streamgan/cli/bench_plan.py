"""`streamgan bench plan`: what a training run on many machines would need, before one is rented."""

from typing import TYPE_CHECKING, Any

import click

from streamgan.core.logs import size_text

from .options import Command, Count, Number, cache_gb_option, cache_option
from .output import amount, emit, table

if TYPE_CHECKING:
    from streamgan.data.forecast import Forecast

_FEW_SHARDS = 64  # in which images are measured


@click.command(cls=Command, short_help="What a run on many machines would need.")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--split", default="train", show_default=True, help="Split to train on.")
@click.option("--ranks", type=Count(1, 1_000_000), default=1, show_default=True, help="GPUs of all machines.")
@click.option(
    "--machines", type=Count(1, 1_000_000), default=1, show_default=True, help="Machines, all alike."
)
@click.option("--step-ms", type=Number(0, 1e9, min_open=True), required=True, help="Milliseconds per step.")
@click.option(
    "--batch", type=Count(1, 1_000_000), default=16, show_default=True, help="data.batch: the global batch."
)
@click.option("--lanes", type=Count(), help="data.lanes.  [as training would choose]")
@click.option("--window", type=Count(), help="data.window.  [as training would choose]")
@click.option(
    "--reshuffle",
    type=click.Choice(["global", "lane"]),
    default="global",
    show_default=True,
    help="data.reshuffle.",
)
@click.option(
    "--gbit",
    type=Number(0, 1e6, min_open=True),
    default=10.0,
    show_default=True,
    help="Network of a machine, Gbit/s.",
)
@cache_option
@cache_gb_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def plan(
    folder: str, split: str, ranks: int, machines: int, step_ms: float, batch: int, lanes: int | None,
    window: int | None, reshuffle: Any, gbit: float, cache: str, cache_gb: float, as_json: bool,
) -> None:  # fmt: skip
    """Say what training on DIR would ask of machines, network and cache, from its order alone.

    Per epoch: its length, what each machine downloads and in how many requests, for whole shards through
    data.cache and for single images by range (data.cache=none); what the cache must hold; how soon the first
    batch can be there; how well batches are mixed. For DIR in a folder it is what the same set would ask if
    it lay at an address.

    \b
    Example:
      streamgan bench plan s3://photos/shards --ranks 64 --machines 8 --batch 1024 --step-ms 120
    """
    import numpy as np

    from streamgan.data.forecast import advice, forecast
    from streamgan.data.plan import Shuffle
    from streamgan.data.shards.reader import ShardReader

    reader = ShardReader(folder, split, cache=cache, cache_gb=cache_gb)
    shuffle = Shuffle(batch, lanes=lanes, window=window, reshuffle=reshuffle)
    shard_bytes = [shard.bytes for shard in reader.entry.shards]
    found = forecast(
        reader.shard_sizes, shard_bytes, shuffle, ranks=ranks, machines=machines, cache_bytes=cache_gb * 1e9
    )
    some = np.unique(np.linspace(0, len(shard_bytes) - 1, _FEW_SHARDS).astype(int))
    edges = zip(reader.starts[some].tolist(), reader.starts[some + 1].tolist(), strict=True)
    ids = np.concatenate([np.arange(begin, end) for begin, end in edges])
    image_bytes = float(reader.rows(ids)["color_size"].mean())
    reader.close()
    epoch_s = found.steps_per_epoch * step_ms / 1000
    images = found.steps_per_epoch * batch // machines  # of a machine and an epoch
    ranged_bytes = round(images * image_bytes)
    value = {
        "samples": len(reader),
        "shards": len(shard_bytes),
        "bytes": sum(shard_bytes),
        "ranks": ranks,
        "machines": machines,
        "batch": batch,
        "epoch_s": epoch_s,
        "images_per_s_per_rank": batch / ranks / step_ms * 1000,
        **vars(found),
        "ranged_epoch_bytes": ranged_bytes,
        "ranged_epoch_requests": images,
        "needed_gbit": [_gbit(size, epoch_s) for size in found.epoch_bytes],
        "ranged_needed_gbit": _gbit(ranged_bytes, epoch_s),
    }
    advices = list(advice(found, batch=batch, machines=machines, cache_bytes=cache_gb * 1e9))
    if (most := max(value["needed_gbit"])) > gbit:
        advices.insert(
            0, f"the network is too slow: {most:.3g} of {gbit:g} Gbit/s; training would wait for it"
        )
    emit(_text(value, found, gbit, image_bytes, advices), {**value, "advice": advices}, as_json=as_json)


def _text(
    value: dict[str, Any], found: "Forecast", gbit: float, image_bytes: float, advices: list[str]
) -> str:
    first, last = found.epoch_bytes[0], found.epoch_bytes[-1]
    one_batch = value["batch"] // value["machines"] * image_bytes
    head = ["per machine", "whole shards", "by range"]
    rows = [
        ["first batch waits for", size_text(found.first_bytes), size_text(one_batch)],
        ["  at least, s", _seconds(found.first_bytes, gbit), _seconds(one_batch, gbit)],
        ["  and of the index", *[size_text(found.first_index_bytes)] * 2],
        ["cache must hold", size_text(found.working_set_bytes), "-"],
        ["download, first epoch", size_text(first), size_text(value["ranged_epoch_bytes"])],
        ["download, later epochs", size_text(last), size_text(value["ranged_epoch_bytes"])],
        ["index, first epoch", *[size_text(found.epoch_index_bytes)] * 2],
        ["network, Gbit/s", f"{value['needed_gbit'][0]:.3g}", f"{value['ranged_needed_gbit']:.3g}"],
        ["requests per epoch", f"{found.epoch_requests:,}", f"{value['ranged_epoch_requests']:,}"],
    ]
    lines = [
        f"{amount(value['samples'], 'sample')} in {amount(value['shards'], 'shard')}, "
        f"{size_text(value['bytes'])}; {amount(value['ranks'], 'rank')} on "
        f"{amount(value['machines'], 'machine')}, batches of {value['batch']:,}",
        f"epoch: {amount(found.steps_per_epoch, 'step')}, {_time(value['epoch_s'])}; "
        f"{amount(found.left_over, 'sample')} left over, others in each",
        f"each rank trains on {value['images_per_s_per_rank']:,.0f} images/s "
        "(`bench loader` says how many workers that takes)",
        f"order: {amount(found.lanes, 'lane')}, windows of {amount(found.window, 'shard')}; a batch is "
        f"drawn from {amount(found.distinct, 'shard')}, {found.distinct / found.distinct_full:.0%} of a full "
        "shuffle",
        "",
        table(head, rows),
    ]
    return "\n".join([*lines, *([""] if advices else []), *advices])


def _gbit(num_bytes: float, seconds: float) -> float:
    return num_bytes * 8 / 1e9 / seconds


def _seconds(num_bytes: float, gbit: float) -> str:
    return f"{num_bytes * 8 / 1e9 / gbit:.3g}"


def _time(seconds: float) -> str:
    for factor, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.1f} {unit}"
    return f"{seconds:.1f} seconds"
