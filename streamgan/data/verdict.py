"""Does training wait for its data, and what would help: one line out of the times that a loader measures."""

import math
import os

from .board import LoaderStats

INPUT_BOUND, KEEPS_UP = 0.10, 0.05  # share of the time spent waiting; between them, what was said last holds
AT_LEAST_S = 20.0  # of training before anything is said


def sample_ms(stats: LoaderStats) -> tuple[float, float]:
    """Milliseconds of reading and of decoding a sample."""
    samples = max(1, stats.samples)
    return 1000 * stats.read_s / samples, 1000 * stats.decode_s / samples


def workers_needed(stats: LoaderStats, *, images_per_s: float) -> int:
    """Loader processes that deliver `images_per_s`, each on a core of its own."""
    return max(1, math.ceil(sum(sample_ms(stats)) / 1000 * images_per_s))


class Verdict:
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
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if wanted <= self._workers:
            return "the workers are short of cores: give this rank more, or lower data.size"
        if where == "decode" and wanted > cores:
            return f"data.workers={wanted} would keep up, this machine has {cores} cores"
        return f"data.workers={wanted} would keep up (now {self._workers})"
