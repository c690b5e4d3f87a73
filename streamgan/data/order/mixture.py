"""Several shard sets as one: a weighted, deterministic mixture of their canonical orders.

Slot n of the training stream (n = step x B + place in the batch) belongs to a set that depends on n, the seed
and the weights alone: every `CYCLE` slots hold each set exactly as often as its weight says, in an order that
a hash shuffles. The slots of a set take its samples in its own canonical order, epoch after epoch, however
many passes that are. So a position is still one integer and any number of ranks sees the same batches.
"""

from collections.abc import Sequence

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.seeding import hash64, permutation

from .canonical import ALL, MAX_LANES, Order, Reshuffle, default_window

CYCLE = 10_000  # slots; a weight is rounded to this part
_SET, _SLOTS = 8, 9  # what a hash is for: first key after the seed


def cycle_counts(weights: Sequence[float]) -> list[int]:
    """Slots of each set in a cycle, by largest remainder; ConfigError where a weight is too small for one."""
    shares = np.asarray(weights, np.float64) / np.sum(weights) * CYCLE
    counts = np.floor(shares).astype(int)
    largest = np.argsort(counts - shares, kind="stable")
    counts[largest[: CYCLE - counts.sum()]] += 1
    if counts.min() == 0:
        number = int(counts.argmin())
        what = f"weight {weights[number]:g} of set {number + 1} is less than 1 in {CYCLE}"
        raise ConfigError("data.shards", what, "raise it or leave the set out")
    return counts.tolist()


class Mixture:
    """The order of several sets together, with the interface of `Order`.

    An epoch has as many samples as all sets together; a set of more than its share of the weight is met more
    than once in it.
    """

    def __init__(
        self,
        shard_sizes: Sequence[Sequence[int]],
        weights: Sequence[float],
        *,
        seed: int,
        batch: int,
        lanes: int | None = None,
        window: int | None = None,
        reshuffle: Reshuffle = "global",
    ):
        self.seed, self.batch = seed, batch
        self.counts = cycle_counts(weights)
        self._cycle: tuple[int, np.ndarray] | None = None
        self._pattern = np.repeat(np.arange(len(weights)), self.counts)
        sizes = [int(np.sum(one)) for one in shard_sizes]
        self.num_samples = sum(sizes)
        self.starts = np.cumsum(sizes) - sizes
        self.steps_per_epoch = self.num_samples // batch
        if self.steps_per_epoch == 0:
            raise ConfigError(
                "data.batch", f"{batch} is more than the {self.num_samples} samples", "use a smaller batch"
            )
        self.orders = []
        for number, (one, count) in enumerate(zip(shard_sizes, self.counts, strict=True)):
            width = lanes or min(MAX_LANES, sizes[number])
            if width > sizes[number]:
                what = f"{width} lanes are more than the {sizes[number]} samples of set {number + 1}"
                raise ConfigError("data.lanes", what, "leave data.lanes out")
            share = (
                -(-batch * count // CYCLE // width) * width
            )  # its part of a batch, in whole rounds of lanes
            self.orders.append(
                Order(
                    one,
                    seed=int(hash64(seed, _SET, number)),
                    batch=width,
                    lanes=width,
                    window=window or default_window(int(np.count_nonzero(one)), max(share, width), width),
                    reshuffle=reshuffle,
                )
            )

    def batch_ids(self, step: int, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray]:
        """(epochs of their sets, ids) of these rows of the global batch at `step`, both int64."""
        slots = np.arange(step * self.batch, (step + 1) * self.batch)[rows]
        epochs, ids = np.empty(len(slots), np.int64), np.empty(len(slots), np.int64)
        for cycle in range(slots[0] // CYCLE, slots[-1] // CYCLE + 1):
            pattern = self._pattern_of(cycle)
            inside = np.flatnonzero(slots // CYCLE == cycle)
            begin, end = int(slots[inside[0]]) % CYCLE, int(slots[inside[-1]]) % CYCLE + 1
            for number, order in enumerate(self.orders):
                mine = inside[pattern[begin:end] == number]
                if len(mine):
                    first = cycle * self.counts[number] + int((pattern[:begin] == number).sum())
                    epochs[mine], ids[mine] = order.samples(first, first + len(mine))
                    ids[mine] += self.starts[number]
        return epochs, ids

    def slots(self, number: int, cycle: int) -> np.ndarray:
        """Places, in the stream, of the samples that set `number` gives to a cycle."""
        pattern = self._pattern[permutation(CYCLE, self.seed, _SLOTS, cycle)]
        return cycle * CYCLE + np.flatnonzero(pattern == number)

    def _pattern_of(self, cycle: int) -> np.ndarray:
        """The set of every slot of a cycle; the last one is kept."""
        if self._cycle is None or self._cycle[0] != cycle:
            self._cycle = cycle, self._pattern[permutation(CYCLE, self.seed, _SLOTS, cycle)]
        return self._cycle[1]
