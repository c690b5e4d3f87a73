"""Canonical order: which samples form global batch k, as a pure function of numbers.

The shards of an epoch are permuted by a hash and laid end to end, and the line is rotated by a hashed amount.
A *lane* is one of the L equal stretches that it is cut into; they are read side by side, and global batch k
takes the k-th B / L samples of each. A *window* is a run of W or so consecutive shards of a lane, whose
samples are permuted by a hash: only those of one window per lane must be within reach at a time, and lanes
times windows make a batch nearly as mixed as a full shuffle would.

Nothing here knows ranks or workers: rank r of R takes slice r of the batch, so every R that divides B trains
on the same batches, and a position is one integer.

Memory is O(window): an epoch's order is never materialised, only the windows that a batch touches (and
those of the batch before, kept for the next).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.seeding import hash64, permutation, uniform

Reshuffle = Literal["global", "lane"]
MAX_LANES = 24  # divisible by 1, 2, 3, 4, 6, 8, 12 and 24 ranks: a lane then never feeds two ranks
MIN_WINDOW = 4
MIXING = 0.955  # what `default_window` aims at: distinct shards in a batch, as a share of a full shuffle's
ALL = slice(None)
_SHARDS, _ROTATION, _WINDOW, _LANE = 1, 2, 3, 6  # what a hash is for: first key after the seed


def default_lanes(batch: int) -> int:
    """The largest divisor of the global batch up to 24."""
    return max(lanes for lanes in range(1, MAX_LANES + 1) if batch % lanes == 0)


def default_window(num_shards: int, batch: int, lanes: int) -> int:
    """The fewest shards per window, at least 4, with which a batch is as mixed as by a full shuffle, nearly.

    k draws out of n shards meet n (1 - (1 - 1/n)^k) different ones on average: k = B out of all shards in a
    full shuffle, k = B / L out of a window in each of L lanes.
    """
    wanted = MIXING * distinct_shards(num_shards, batch) / lanes
    most = max(MIN_WINDOW, -(-num_shards // lanes))
    windows = range(MIN_WINDOW, most)
    return next((size for size in windows if distinct_shards(size, batch // lanes) >= wanted), most)


def distinct_shards(shards: int, draws: int) -> float:
    """How many of `shards` so many draws meet, on average."""
    return shards * (1 - (1 - 1 / shards) ** draws)


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

    `lanes` and `window` default to `default_lanes` and `default_window`. `reshuffle` "global" deals the
    shards out anew in every epoch; "lane" deals them out once, so that a lane (and the machine that it feeds)
    meets the same shards in every epoch, in another order.

    What an object keeps (one epoch's lanes, the windows in reach) is a cache: every answer is a function of
    the arguments.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int] | np.ndarray,
        *,
        seed: int,
        batch: int,
        lanes: int | None = None,
        window: int | None = None,
        reshuffle: Reshuffle = "global",
    ):
        lanes = lanes or default_lanes(batch)
        if batch % lanes:
            raise ConfigError(
                "data.lanes", f"{lanes} lanes do not divide a batch of {batch}", "use a divisor"
            )
        self.shard_sizes = np.asarray(shard_sizes, np.int64)
        num_shards = int(np.count_nonzero(self.shard_sizes))
        self.seed, self.batch, self.lanes, self.reshuffle = seed, batch, lanes, reshuffle
        self.window = window or default_window(max(1, num_shards), batch, lanes)
        self.num_samples = int(self.shard_sizes.sum())
        # Full global batches per epoch; the samples that are left over are others in every epoch.
        self.steps_per_epoch = self.num_samples // lanes // (batch // lanes)
        if self.steps_per_epoch == 0:
            raise ConfigError(
                "data.batch", f"{batch} is more than the {self.num_samples} samples", "use a smaller batch"
            )
        self._epoch = -1
        self._lanes: list[_Lane] = []
        self._windows: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def batch_ids(self, step: int, rows: slice = ALL) -> tuple[int, np.ndarray]:
        """(epoch, ids of these rows of the global batch at `step`, int64). `step` counts through the epochs.

        Only the lanes that the rows come from are looked at.
        """
        epoch, k = divmod(step, self.steps_per_epoch)
        share = self.batch // self.lanes
        start, stop, _ = rows.indices(self.batch)
        parts = []
        for lane in range(start // share, -(-stop // share)):
            first, last = max(start - lane * share, 0), min(stop - lane * share, share)
            parts.append(self._of_lane(epoch, lane, k * share + first, k * share + last))
        return epoch, np.concatenate(parts)

    def samples(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, ids) of samples [start, stop) of the stream of batches laid end to end, both int64."""
        epochs, found = [], []
        for step in range(start // self.batch, -(-stop // self.batch)):
            begin = step * self.batch
            rows = slice(max(start - begin, 0), min(stop - begin, self.batch))
            epoch, ids = self.batch_ids(step, rows)
            epochs.append(np.full(len(ids), epoch, np.int64))
            found.append(ids)
        return np.concatenate(epochs), np.concatenate(found)

    def uses(self, epoch: int) -> np.ndarray:
        """What each lane reads from each shard, and when, int64 (4, pieces) by first step.

        Rows: shard, lane, first and last step of the window that the piece is in. Steps count through the
        epochs.
        """
        share, ends = self.batch // self.lanes, np.cumsum(self.shard_sizes)
        rows = []
        for number, lane in enumerate(self._cut(epoch)):
            shards = np.searchsorted(ends, lane.first_ids, side="right")
            window = np.searchsorted(lane.bounds, lane.starts, side="right") - 1
            first, last = lane.bounds[window] // share, (lane.bounds[window + 1] - 1) // share
            rows.append(np.stack((shards, np.full_like(shards, number), first, last)))
        uses = np.concatenate(rows, axis=1)
        uses = uses[:, uses[2] < self.steps_per_epoch]
        uses[3] = np.minimum(uses[3], self.steps_per_epoch - 1)
        uses[2:] += epoch * self.steps_per_epoch
        return uses[:, np.argsort(uses[2], kind="stable")]

    def _of_lane(self, epoch: int, number: int, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) of a lane, gathered from the windows they fall into."""
        bounds = self._lane(epoch, number).bounds
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        pieces = []
        while start < stop:
            begin, end = int(bounds[first]), int(bounds[first + 1])
            pieces.append(self._window(epoch, number, first)[start - begin : stop - begin])
            start, first = end, first + 1
        return np.concatenate(pieces)

    def _window(self, epoch: int, number: int, index: int) -> np.ndarray:
        """Ids of one window in their permuted order; the last two of each lane are kept."""
        key = (epoch, number, index)
        if key not in self._windows:
            lane = self._lane(epoch, number)
            ids = lane.ids(int(lane.bounds[index]), int(lane.bounds[index + 1]))
            self._windows[key] = ids[np.argsort(hash64(self.seed, _WINDOW, epoch, ids), kind="stable")]
            while len(self._windows) > 2 * self.lanes:
                self._windows.popitem(last=False)
        return self._windows[key]

    def _lane(self, epoch: int, number: int) -> "_Lane":
        if self._epoch != epoch:
            self._lanes, self._epoch = self._cut(epoch), epoch
        return self._lanes[number]

    def _cut(self, epoch: int) -> "list[_Lane]":
        """The lanes of an epoch."""
        deal = epoch if self.reshuffle == "global" else 0
        first_ids, lengths = self._line(deal)
        starts = np.cumsum(lengths) - lengths
        lanes = []
        for number in range(self.lanes):
            begin, end = (self.num_samples * edge // self.lanes for edge in (number, number + 1))
            low, high = np.searchsorted(starts, begin, side="right") - 1, np.searchsorted(starts, end)
            first, last = np.maximum(starts[low:high], begin), np.minimum((starts + lengths)[low:high], end)
            ids, sizes = first_ids[low:high] + first - starts[low:high], last - first
            if self.reshuffle == "lane":
                mixed = permutation(len(ids), self.seed, _LANE, epoch, number)
                ids, sizes = ids[mixed], sizes[mixed]
            lanes.append(_Lane.of(ids, sizes, self.window))
        return lanes

    def _line(self, deal: int) -> tuple[np.ndarray, np.ndarray]:
        """The permuted, rotated line of shards: first id and length of each; one is cut by the rotation."""
        shards = permutation(len(self.shard_sizes), self.seed, _SHARDS, deal)
        shards = shards[self.shard_sizes[shards] > 0]
        lengths = self.shard_sizes[shards]
        first_ids = (np.cumsum(self.shard_sizes) - self.shard_sizes)[shards]
        rotation = int(uniform(self.seed, _ROTATION, deal) * self.num_samples)
        ends = np.cumsum(lengths)
        cut = int(np.searchsorted(ends, rotation, side="right"))
        inside = rotation - int(ends[cut] - lengths[cut])  # samples of shard `cut` that go to the end
        first_ids = np.concatenate(
            ([first_ids[cut] + inside], first_ids[cut + 1 :], first_ids[:cut], first_ids[cut : cut + 1])
        )
        lengths = np.concatenate(([lengths[cut] - inside], lengths[cut + 1 :], lengths[:cut], [inside]))
        return (first_ids, lengths) if inside else (first_ids[:-1], lengths[:-1])


@dataclass(frozen=True)
class _Lane:
    """Pieces of shards end to end: piece i has the samples from `first_ids[i]` on and begins at `starts[i]`.

    Window w is the stretch [bounds[w], bounds[w + 1]).
    """

    first_ids: np.ndarray
    starts: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, first_ids: np.ndarray, lengths: np.ndarray, window: int) -> "_Lane":
        starts = np.concatenate(([0], np.cumsum(lengths)))
        pieces = len(lengths)
        windows = max(1, pieces // window)  # none smaller than asked for: the rest is shared out
        return cls(first_ids, starts[:-1], starts[np.arange(windows + 1) * pieces // windows])

    def ids(self, start: int, stop: int) -> np.ndarray:
        """Ids at positions [start, stop)."""
        positions = np.arange(start, stop)
        piece = np.searchsorted(self.starts, positions, side="right") - 1
        return self.first_ids[piece] + positions - self.starts[piece]
