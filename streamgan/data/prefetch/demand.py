"""What batches need of which shard, and when, from the plan alone. Steps count as a loader's requests do.

The *working set* of a job is what it must have within reach: of every lane that it reads, the shards of the
window that is read and of the next one, which is fetched meanwhile. The cache must have room for it.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from streamgan.data.order.canonical import Order
from streamgan.data.order.mixture import CYCLE, Mixture

_WINDOWS = 2  # of every lane: the one that is read and the one that is fetched
_CYCLES = 8  # of a mixture, kept
_EVAL_SHARDS = 4  # fetched ahead where a split is read from front to back


class Use(NamedTuple):
    """A shard that steps `first` to `last` read from."""

    first: int
    last: int
    shard: int


class OrderNeeds:
    """What the rows `local` of the global batches need, from step `start` to `stop` (None: for ever).

    `machine`: the rows of all ranks that share the cache (None: these alone).
    """

    def __init__(
        self,
        order: Order,
        shard_bytes: Sequence[int] | np.ndarray,
        local: slice,
        *,
        start: int,
        stop: int | None,
        machine: slice | None = None,
    ):
        self.order, self.start, self.stop = order, start, stop
        self._bytes, self._lock = np.asarray(shard_bytes), threading.Lock()
        self._of_largest = np.cumsum(np.sort(self._bytes)[::-1])  # bytes of the largest, the two largest, ...
        self._epochs: dict[int, np.ndarray] = {}
        self._lanes, self._cached_lanes = self.lanes_of(local), self.lanes_of(machine or local)
        self.horizon = order.steps_per_epoch
        self.budget_bytes = self.working_set(local)

    def uses(self) -> Iterator[Use]:
        epoch, stop = self.start // self.horizon, self.stop if self.stop is not None else math.inf
        while epoch * self.horizon < stop:
            yield from self.of_epoch(epoch)
            epoch += 1

    def of_epoch(self, epoch: int) -> Iterator[Use]:
        """The uses of one epoch."""
        shard, lane, first, last = self._uses(epoch)
        mine = _among(lane, self._lanes) & (last >= self.start)
        mine &= first < (self.stop if self.stop is not None else math.inf)
        yield from map(Use, first[mine].tolist(), last[mine].tolist(), shard[mine].tolist())

    def next_use(self, position: int) -> np.ndarray:
        """The next step from `position` on at which the machine needs a shard, in this epoch or the next."""
        found = np.full(len(self._bytes), math.inf)
        for epoch in (position // self.horizon, position // self.horizon + 1):
            shard, lane, first, last = self._uses(epoch)
            coming = _among(lane, self._cached_lanes) & (last >= position)
            np.minimum.at(found, shard[coming], np.maximum(first[coming], position))
        return found

    def working_set(self, rows: slice, window: int | None = None) -> int:
        """Bytes that two windows of every lane of these rows of a batch take at most, in any epoch.

        `window`: as if it were that of the order.
        """
        mean, window = (
            np.count_nonzero(self.order.shard_sizes) / self.order.lanes,
            window or self.order.window,
        )
        # pieces of shards in a lane: about `mean`, more or fewer where shards are not alike
        most = max(-(-pieces // max(1, pieces // window)) for pieces in _around(mean))
        count = min(len(self._bytes), len(self.lanes_of(rows)) * _WINDOWS * most)
        return int(self._of_largest[count - 1])

    def lanes_of(self, rows: slice) -> range:
        """The lanes that these rows of a batch come from."""
        share = self.order.batch // self.order.lanes
        return range(rows.start // share, -(-rows.stop // share))

    def _uses(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._epochs:
                for old in [one for one in self._epochs if one < epoch - 1]:
                    del self._epochs[old]
                self._epochs[epoch] = self.order.uses(epoch)
            return self._epochs[epoch]


def _among(lane: np.ndarray, lanes: range) -> np.ndarray:
    return (lane >= lanes.start) & (lane < lanes.stop)


class ListNeeds:
    """What requests one after the other need: `shards[i]` are the shards of request i."""

    def __init__(self, shards: Sequence[np.ndarray], shard_bytes: Sequence[int]):
        self.start, self.horizon = 0, max(1, len(shards))
        self._size = len(shard_bytes)
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for step, numbers in enumerate(shards):
            for number in np.unique(numbers).tolist():
                first.setdefault(number, step)
                last[number] = step
        self._uses = sorted(Use(first[number], last[number], number) for number in first)
        count = max((len(np.unique(numbers)) for numbers in shards), default=0) + _EVAL_SHARDS
        self.budget_bytes = sum(sorted((shard_bytes[number] for number in first), reverse=True)[:count])

    def uses(self) -> Iterator[Use]:
        return iter(self._uses)

    def next_use(self, position: int) -> np.ndarray:
        found = np.full(self._size, math.inf)
        for use in self._uses:
            if use.last >= position:
                found[use.shard] = max(use.first, position)
        return found


def _around(mean: float) -> range:
    return range(max(1, int(mean / 2)), int(2 * mean) + 3)


class MixtureNeeds:
    """What the batches of a mixture need of its set `number`, whatever the rank.

    The set's own order counts in samples of the set; the slots of the mixture say which step they are.
    """

    def __init__(
        self, mixture: Mixture, number: int, shard_bytes: Sequence[int], *, start: int, stop: int | None
    ):
        self.start, self.horizon, self._stop = start, mixture.steps_per_epoch, stop
        self._mixture, self._number, self._order = mixture, number, mixture.orders[number]
        self._width = self._order.batch  # samples in a step of the set's own order
        self._slots: OrderedDict[int, np.ndarray] = OrderedDict()
        self._inner = OrderNeeds(
            self._order, shard_bytes, slice(0, self._width), start=self._first_inner(), stop=None
        )
        self.budget_bytes = self._inner.working_set(slice(0, self._width))

    def uses(self) -> Iterator[Use]:
        for first, last, shard in self._inner.uses():
            begin = self._step(first * self._width)
            if self._stop is not None and begin >= self._stop:
                return
            yield Use(begin, self._step((last + 1) * self._width - 1), shard)

    def next_use(self, position: int) -> np.ndarray:
        """As of `OrderNeeds`, and about right: to the cycle."""
        ratio = self._mixture.batch * self._mixture.counts[self._number] / CYCLE / self._width
        return self._inner.next_use(int(position * ratio)) / ratio

    def _first_inner(self) -> int:
        """The step of the set's own order that the first slot at or after `start` falls in."""
        slot = self.start * self._mixture.batch
        cycle = slot // CYCLE
        before = int(np.searchsorted(self._cycle(cycle), slot))
        return (cycle * self._mixture.counts[self._number] + before) // self._width

    def _step(self, sample: int) -> int:
        cycle, place = divmod(sample, self._mixture.counts[self._number])
        return int(self._cycle(cycle)[place]) // self._mixture.batch

    def _cycle(self, cycle: int) -> np.ndarray:
        if cycle not in self._slots:
            self._slots[cycle] = self._mixture.slots(self._number, cycle)
            while len(self._slots) > _CYCLES:
                self._slots.popitem(last=False)
        return self._slots[cycle]


Needs = OrderNeeds | MixtureNeeds | ListNeeds
