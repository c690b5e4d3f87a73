"""How fast a shard set can be read here: the decoder alone, and the loader with more and more processes."""

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .decode import decode, sampled_crops
from .loader import build_loader
from .mixture import Shards, open_reader
from .samples import Batch

CEILING_SAMPLES = 256


@dataclass(frozen=True)
class Rate:
    """A loader of `workers` processes delivered `images_per_s` after its first batches."""

    workers: int
    images_per_s: float
    read_ms: float
    decode_ms: float


def decode_ceiling(shards: Shards, split: str, *, size: int, seconds: float, **where: Any) -> float:
    """Images a second and core that the decoder makes of bytes in memory: no loader process is faster.

    `where`: cache and cache_gb, as of `build_loader`.
    """
    reader = open_reader(shards, split, **where)
    count = min(CEILING_SAMPLES, len(reader))
    encoded = [reader.read(i * len(reader) // count).color for i in range(count)]
    reader.close()
    crops = sampled_crops(0, np.zeros(count, np.int64), np.arange(count))
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for data, crop in zip(encoded, crops, strict=True):
            decode(data, "RGB", size=size, crop=crop)
        done += count
    return done / (time.perf_counter() - began)


def loader_rate(
    shards: Shards, split: str, *, size: int, batch: int, workers: int, seconds: float, **where: Any
) -> Rate:
    """What a training loop that does nothing else gets, without the first batches of every process."""
    loader = build_loader(shards, split, batch, size, workers, gray=None, **where)
    batches = cast(Generator[Batch, None, None], iter(loader))
    for _ in range(max(1, 5 * workers)):  # each has started, and filled its share of the queue
        next(batches)
    before, images, began = loader.stats, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        images += len(next(batches).ids_B)
    took, stats = time.perf_counter() - began, loader.stats - before
    batches.close()
    per_sample = 1000 / max(1, stats.samples)
    return Rate(workers, images / took, stats.read_s * per_sample, stats.decode_s * per_sample)


def workers_for(rates: Sequence[Rate], images_per_s: float) -> int | None:
    """The fewest processes that were measured to deliver this much; None if none did."""
    return min((rate.workers for rate in rates if rate.images_per_s >= images_per_s), default=None)


def workers_estimated(rates: Sequence[Rate], images_per_s: float) -> int:
    """Processes, each on a core of its own, that would deliver this much at the best rate that one had."""
    return math.ceil(images_per_s / max(rate.images_per_s / max(1, rate.workers) for rate in rates))
