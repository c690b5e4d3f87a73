"""Does training wait for its data, and what would help: measured beforehand, or out of the times of a run."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamgan.core.machine import usable_cores
from streamgan.data.shards.joint import open_reader
from streamgan.data.workers.counters import LoaderStats
from streamgan.data.workers.decode import decode, sampled_crops

from .loader import training_loader
from .plan import Shuffle
from .reading import Reading

CEILING_SAMPLES = 256
INPUT_BOUND, KEEPS_UP = 0.10, 0.05  # share of the time spent waiting; between them, what was said last holds
AT_LEAST_S = 20.0  # of training before anything is said


def sample_ms(stats: LoaderStats) -> tuple[float, float]:
    """Milliseconds of reading and of decoding per sample."""
    samples = max(1, stats.samples)
    return 1000 * stats.read_s / samples, 1000 * stats.decode_s / samples


def workers_needed(stats: LoaderStats, *, images_per_s: float) -> int:
    """Loader processes that deliver `images_per_s`, each on a core of its own."""
    return max(1, math.ceil(sum(sample_ms(stats)) / 1000 * images_per_s))


class BottleneckAdvice:
    """Watches a training rank; `add` says a line when there is something new to say."""

    def __init__(self, *, workers: int, device: str):
        self._workers, self._device = workers, device
        self._seconds, self._waited_s, self._stats = 0.0, 0.0, LoaderStats()
        self._bound: str | None = None

    def add(self, *, seconds: float, waited_s: float, images: int, stats: LoaderStats) -> str | None:
        """After an interval of `seconds`, `waited_s` of them without data, with `images` trained on."""
        if self._seconds >= AT_LEAST_S:  # the last stretch is judged: a run may change
            self._seconds, self._waited_s = 0.0, 0.0
        self._seconds, self._waited_s = self._seconds + seconds, self._waited_s + waited_s
        share = self._waited_s / self._seconds if self._seconds else 0.0
        if self._seconds < AT_LEAST_S or KEEPS_UP < share < INPUT_BOUND or not stats.samples:
            return None
        bound = "input" if share >= INPUT_BOUND else self._device
        if bound == self._bound:
            return None
        self._bound = bound
        read_ms, decode_ms = sample_ms(stats)
        cost = f"reading {read_ms:.2f} + decoding {decode_ms:.2f} ms per sample"
        if bound != "input":
            return f"{bound}-bound: the loader keeps up, {share:.0%} of the time waits for data ({cost})"
        wanted = workers_needed(stats, images_per_s=images / max(seconds - waited_s, 1e-9))
        where = "decode" if decode_ms >= read_ms else "storage"
        advice = self._advice(wanted, where)
        return f"input-bound ({where}): {share:.0%} of the time waits for data ({cost}); {advice}"

    def _advice(self, wanted: int, where: str) -> str:
        cores = usable_cores()
        if wanted <= self._workers:
            return "the workers are short of cores: give this rank more, or lower data.size"
        if where == "decode" and wanted > cores:
            return f"data.workers={wanted} would keep up, this machine has {cores} cores"
        return f"data.workers={wanted} would keep up (now {self._workers})"


@dataclass(frozen=True)
class Rate:
    """A loader of `workers` processes delivered `images_per_s` after its first batches."""

    workers: int
    images_per_s: float
    read_ms: float
    decode_ms: float


def decode_ceiling(reading: Reading, split: str, *, seconds: float) -> float:
    """Images per second and core that the decoder makes of bytes in memory: no loader process is faster."""
    reader = open_reader(reading.source, split)
    count = min(CEILING_SAMPLES, len(reader))
    encoded = [reader.read(i * len(reader) // count).color for i in range(count)]
    reader.close()
    crops = sampled_crops(0, np.zeros(count, np.int64), np.arange(count))
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for data, crop in zip(encoded, crops, strict=True):
            decode(data, "RGB", size=reading.size, crop=crop)
        done += count
    return done / (time.perf_counter() - began)


def loader_rate(reading: Reading, split: str, *, batch: int, seconds: float) -> Rate:
    """What a training loop that does nothing else gets, without the first batches of every process."""
    loader = training_loader(reading, split, Shuffle(batch))
    batches = iter(loader)
    for _ in range(max(1, 5 * reading.workers)):  # each has started, and filled its share of the queue
        next(batches)
    before, images, began = loader.stats, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        images += len(next(batches).ids_B)
    took, stats = time.perf_counter() - began, loader.stats - before
    batches.close()
    per_sample = 1000 / max(1, stats.samples)
    return Rate(reading.workers, images / took, stats.read_s * per_sample, stats.decode_s * per_sample)


def workers_for(rates: Sequence[Rate], images_per_s: float) -> int | None:
    """The fewest processes that were measured to deliver this much; None if none did."""
    return min((rate.workers for rate in rates if rate.images_per_s >= images_per_s), default=None)


def workers_estimated(rates: Sequence[Rate], images_per_s: float) -> int:
    """Processes, each on a core of its own, that would deliver this much at the best rate that one had."""
    return math.ceil(images_per_s / max(rate.images_per_s / max(1, rate.workers) for rate in rates))
