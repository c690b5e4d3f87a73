"""Canonical order: which samples form global batch k, as a pure function of numbers.

The shards of an epoch are permuted by a hash and laid end to end; the line is rotated by a hashed amount
and cut into L equal lanes; inside a lane, every W consecutive shards form a window whose samples are
permuted by a hash. Global batch k takes the k-th B / L samples of every lane. Nothing here knows ranks or
workers: rank r of R takes slice r of the batch, so every R that divides B trains on the same batches, and a
position is one integer.

Memory is O(window): an epoch's order is never materialised, only the windows that a batch touches (and
those of the batch before, kept for the next).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.seeding import hash64, permutation, uniform

MAX_LANES = 24  # divisible by 1, 2, 3, 4, 6, 8, 12 and 24 ranks: a lane then never feeds two ranks
_SHARDS, _ROTATION, _WINDOW = 1, 2, 3  # what a hash is for: first key after the seed


def default_lanes(batch: int) -> int:
    """The largest divisor of the global batch up to 24."""
    return max(lanes for lanes in range(1, MAX_LANES + 1) if batch % lanes == 0)


def rank_slice(batch: int, rank: int, world: int) -> slice:
    """The part of a global batch that `rank` of `world` trains on; ConfigError lists the valid worlds."""
    if batch % world:
        valid = ", ".join(str(size) for size in range(1, batch + 1) if batch % size == 0)
        raise ConfigError(
            "data.batch", f"{batch} cannot be shared by {world} ranks", f"use {valid} ranks or another batch"
        )
    local = batch // world
    return slice(rank * local, (rank + 1) * local)


class Order:
    """The order of one split. `shard_sizes`: samples in each shard; ids count samples through the shards.

    What it keeps (one epoch's line, the windows in reach) is a cache: every answer is a function of the
    arguments.
    """

    def __init__(self, shard_sizes: Sequence[int], *, seed: int, batch: int, lanes: int, window: int):
        if batch % lanes:
            raise ConfigError(
                "data.lanes", f"{lanes} lanes do not divide a batch of {batch}", "use a divisor"
            )
        self.shard_sizes = np.asarray(shard_sizes, np.int64)
        self.seed, self.batch, self.lanes, self.window = seed, batch, lanes, window
        self.num_samples = int(self.shard_sizes.sum())
        self.lane_length = self.num_samples // lanes
        # Full global batches an epoch; the tail that is left over is another one every epoch.
        self.steps_per_epoch = self.lane_length // (batch // lanes)
        if self.steps_per_epoch == 0:
            raise ConfigError(
                "data.batch", f"{batch} is more than the {self.num_samples} samples", "use a smaller batch"
            )
        self._line: _Line | None = None
        self._windows: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def batch_ids(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, ids of the global batch at `step` (int64, length B)). `step` counts through the epochs."""
        epoch, k = divmod(step, self.steps_per_epoch)
        per_lane = self.batch // self.lanes
        parts = [self._lane(epoch, lane, k * per_lane, (k + 1) * per_lane) for lane in range(self.lanes)]
        return epoch, np.concatenate(parts)

    def _lane(self, epoch: int, lane: int, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) of a lane, gathered from the windows they fall into."""
        bounds = self._epoch(epoch).window_bounds[lane]
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        pieces = []
        while start < stop:
            end = min(stop, int(bounds[first + 1]))
            offset = int(bounds[first])
            pieces.append(self._window(epoch, lane, first)[start - offset : end - offset])
            start, first = end, first + 1
        return np.concatenate(pieces)

    def _window(self, epoch: int, lane: int, index: int) -> np.ndarray:
        """Ids of one window in their permuted order; the last two a lane are kept."""
        key = (epoch, lane, index)
        if key not in self._windows:
            line = self._epoch(epoch)
            start, stop = line.window_bounds[lane][index : index + 2] + lane * self.lane_length
            ids = line.ids(int(start), int(stop))
            self._windows[key] = ids[np.argsort(hash64(self.seed, _WINDOW, epoch, ids), kind="stable")]
            while len(self._windows) > 2 * self.lanes:
                self._windows.popitem(last=False)
        return self._windows[key]

    def _epoch(self, epoch: int) -> "_Line":
        if self._line is None or self._line.epoch != epoch:
            self._line = _Line.of(self, epoch)
        return self._line


@dataclass(frozen=True)
class _Line:
    """An epoch's permuted, rotated line of shards. `starts[i]` is where the i-th shard on the line begins."""

    epoch: int
    rotation: int
    starts: np.ndarray
    first_ids: np.ndarray
    window_bounds: list[np.ndarray]

    @classmethod
    def of(cls, order: Order, epoch: int) -> "_Line":
        sizes = order.shard_sizes
        shards = permutation(len(sizes), order.seed, _SHARDS, epoch)
        first_ids = (np.cumsum(sizes) - sizes)[shards]
        starts = np.concatenate(([0], np.cumsum(sizes[shards])))
        total = order.num_samples
        rotation = int(uniform(order.seed, _ROTATION, epoch) * total)
        # Shard borders as a lane sees them: positions on the rotated line, sorted.
        borders = np.unique(np.concatenate(((starts - rotation) % total, [0])))
        length = order.lane_length
        bounds = []
        for lane in range(order.lanes):
            begin = lane * length
            low, high = np.searchsorted(borders, (begin, begin + length))
            inner = borders[low:high] - begin
            inner = inner if len(inner) and inner[0] == 0 else np.concatenate(([0], inner))
            bounds.append(np.append(inner[:: order.window], length))
        return cls(epoch, rotation, starts, first_ids, bounds)

    def ids(self, start: int, stop: int) -> np.ndarray:
        """Ids at positions [start, stop) of the rotated line."""
        positions = (np.arange(start, stop) + self.rotation) % self.starts[-1]
        shard = np.searchsorted(self.starts, positions, side="right") - 1
        return self.first_ids[shard] + positions - self.starts[shard]
