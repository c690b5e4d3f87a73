"""`streamgan bench`: what this machine can do, on the user's own data."""

import click

from .bench_plan import plan
from .options import Command, Count, Number, cache_gb_option, cache_option
from .output import emit, table


@click.group(short_help="Measure this machine on your own data.")
def bench() -> None:
    """Measure what this machine can do, on your own data."""


@bench.command(cls=Command, short_help="Images per second by number of loader processes.")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--split", default="train", show_default=True, help="Split to read.")
@click.option("--batch", type=Count(1, 1_000_000), default=64, show_default=True, help="Images per batch.")
@click.option(
    "--size", type=click.IntRange(16, 4096), default=256, show_default=True, help="Crop size in pixels."
)
@click.option(
    "--workers", default="0,1,2", show_default=True, help="Numbers of processes, separated by commas."
)
@click.option(
    "--step-ms", type=Number(0, 1e9, min_open=True), help="Milliseconds that your GPU takes per step."
)
@click.option(
    "--seconds",
    type=Number(0.1, 86_400),
    default=5.0,
    show_default=True,
    help="Length of each measurement.",
)
@cache_option
@cache_gb_option
@click.option("--json", "as_json", is_flag=True, show_default=True, help="One JSON object on stdout.")
def loader(folder, split, batch, size, workers, step_ms, seconds, cache, cache_gb, as_json):
    """Measure how many images per second the shard set in DIR delivers, by number of loader processes.

    The ceiling is the decoder alone on one core, with the bytes in memory. With --step-ms, says how many
    processes a GPU needs that takes that long for a step (perf/step_ms of a run that does not wait).

    \b
    Example:
      streamgan bench loader shards/photos --workers 0,1,2,4,8 --batch 64 --step-ms 90
    """
    from dataclasses import asdict, replace

    from streamgan.core.errors import ConfigError
    from streamgan.core.logs import say
    from streamgan.data.bottleneck import decode_ceiling, loader_rate, workers_estimated, workers_for
    from streamgan.data.reading import Reading, Source

    try:
        counts = sorted({int(word) for word in workers.split(",")})
        if not 0 <= counts[0] <= counts[-1] <= 1024:
            raise ValueError
    except ValueError:
        raise ConfigError(
            "--workers", f"not numbers of processes, 0 to 1024 (got {workers[:60]})", "write 0,1,2,4"
        ) from None
    reading = Reading(Source(folder, cache, cache_gb), size)
    ceiling = decode_ceiling(reading, split, seconds=seconds)
    rates = []
    for count in counts:
        say(f"{count} workers, {seconds:g} s")
        rates.append(loader_rate(replace(reading, workers=count), split, batch=batch, seconds=seconds))
    value = {
        "ceiling_images_per_s": ceiling,
        "batch": batch,
        "size": size,
        "rates": [asdict(r) for r in rates],
    }
    rows = [
        [
            str(r.workers),
            f"{r.images_per_s:.0f}",
            f"{r.images_per_s / ceiling / max(1, r.workers):.0%}",
            f"{r.read_ms:.3f}",
            f"{r.decode_ms:.3f}",
        ]
        for r in rates
    ]
    text = table(["workers", "images/s", "of ceiling", "read ms", "decode ms"], rows)
    text += f"\n\ndecoder alone: {ceiling:.0f} images/s per core ({1000 / ceiling:.2f} ms per image)"
    if step_ms:
        needed = 1000 * batch / step_ms
        enough = workers_for(rates, needed)
        estimated = workers_estimated(rates, needed)
        value |= {"needed_images_per_s": needed, "workers": enough, "estimated_workers": estimated}
        answer = f"{enough} worker{'s' * (enough != 1)}"
        if enough is None:
            answer = f"more than was measured, about {estimated} workers with a core each"
        text += f"\na step of {step_ms:g} ms takes {needed:.0f} images/s: {answer}"
    emit(text, value, as_json=as_json)


bench.add_command(plan)
