"""What a training run will ask of each of its machines, from the plan alone: no shard is read."""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.storage.download import CHUNK_BYTES

from .format import index_size
from .order.canonical import Order, distinct_shards, rank_slice
from .plan import Shuffle
from .prefetch.demand import OrderNeeds, Use
from .shards.index_parts import in_parts

EPOCHS = 3  # what a cache is worth shows from the second on
IDX_BYTES = 170  # of a sample with a twin in an `.idx`, about


@dataclass(frozen=True)
class Forecast:
    """What one machine of a run needs; bytes and requests are those of whole shards through its cache.

    `working_set_bytes`: what its cache must hold. `first_bytes`: the shards that the first batch is drawn
    from. `first_index_bytes`: of the index, what its part of the first batch needs, `epoch_index_bytes` what
    the first epoch does. `epoch_bytes`: downloads in each of the first epochs, `epoch_requests` the requests
    for those of the first. `all_bytes`: every shard that it reads in an epoch. `copies`: how many machines
    download a shard in an epoch, on average. `fitting_window`: the largest data.window with which the cache
    holds what it must, 0 if none. `distinct`: shards that a global batch is drawn from, `distinct_full` of a
    full shuffle. `left_over`: samples that an epoch does not reach, others in each.
    """

    steps_per_epoch: int
    left_over: int
    lanes: int
    window: int
    distinct: float
    distinct_full: float
    working_set_bytes: int
    fitting_window: int
    first_bytes: int
    first_index_bytes: int
    epoch_index_bytes: int
    all_bytes: int
    epoch_bytes: tuple[int, ...]
    epoch_requests: int
    copies: float


def forecast(
    shard_sizes: Sequence[int] | np.ndarray,
    shard_bytes: Sequence[int] | np.ndarray,
    shuffle: Shuffle,
    *,
    ranks: int,
    machines: int,
    cache_bytes: float,
    epochs: int = EPOCHS,
) -> Forecast:
    """For the first of `machines` alike, with `ranks` in all; ConfigError if they do not divide the batch."""
    if ranks % machines:
        are = "rank is" if ranks == 1 else "ranks are"
        what = f"{ranks} {are} not shared evenly by {machines} machines"
        raise ConfigError("--machines", what, "give every machine as many ranks, --ranks of all together")
    rank_slice(shuffle.batch, 0, ranks)
    options = {name: getattr(shuffle, name) for name in ("seed", "batch", "lanes", "window", "reshuffle")}
    order = Order(shard_sizes, **options)
    sizes = np.asarray(shard_bytes, np.int64)
    rows = shuffle.batch // machines
    needs = OrderNeeds(order, sizes, slice(0, rows), start=0, stop=None)
    per_epoch = [list(needs.of_epoch(epoch)) for epoch in range(epochs + 1)]
    first = {use.shard for use in per_epoch[0] if use.first == 0}
    met = np.unique([use.shard for use in per_epoch[0]])
    whole = sizes[met]
    drawn_from = np.unique(_shards_of(order, order.batch_ids(0, slice(0, rows))[1]))
    lanes_met = sum(len(needs.lanes_of(slice(n * rows, (n + 1) * rows))) for n in range(machines))
    return Forecast(
        steps_per_epoch=order.steps_per_epoch,
        left_over=order.num_samples - order.steps_per_epoch * shuffle.batch,
        lanes=order.lanes,
        window=order.window,
        distinct=_distinct(order),
        distinct_full=distinct_shards(int(np.count_nonzero(order.shard_sizes)), shuffle.batch),
        working_set_bytes=needs.budget_bytes,
        fitting_window=_fitting(needs, slice(0, rows), cache_bytes),
        first_bytes=int(sizes[list(first)].sum()),
        first_index_bytes=_index_bytes(order, drawn_from),
        epoch_index_bytes=_index_bytes(order, met),
        all_bytes=int(whole.sum()),
        epoch_bytes=tuple(islice(downloads(per_epoch, sizes, cache_bytes), epochs)),
        epoch_requests=int((-(-whole // CHUNK_BYTES)).sum()),
        copies=lanes_met / order.lanes,
    )


def advice(found: Forecast, *, batch: int, machines: int, cache_bytes: float) -> Iterator[str]:
    """What would make the run cheaper, in words."""
    if found.copies > 1.01:
        fitting = (lanes for lanes in range(machines, batch + 1, machines) if batch % lanes == 0)
        if lanes := next(fitting, None):
            yield (
                f"{found.copies:.3g} machines download each shard; with data.lanes={lanes} one does, "
                "for a different order"
            )
        else:
            better = f"a batch that {machines} divides would mend it"
            yield f"{found.copies:.3g} machines download each shard; {better}"
    if cache_bytes < found.working_set_bytes:
        enough = math.ceil(found.working_set_bytes / 1e8) / 10
        yield f"the cache is too small: data.cache_gb={enough:g} or more is needed"
        if fits := found.fitting_window:
            drawn = found.lanes * distinct_shards(fits, batch // found.lanes)
            yield (
                f"or data.window={fits}: a batch is then drawn from {drawn:,.0f} shards instead of "
                f"{found.distinct:,.0f}"
            )
    elif found.epoch_bytes[-1] > 0:
        enough = math.ceil(found.all_bytes * 1.05 / 1e8) / 10
        yield f"with data.reshuffle=lane and data.cache_gb={enough:g} only the first epoch downloads"


def downloads(
    per_epoch: Sequence[Sequence[Use]], shard_bytes: np.ndarray, cache_bytes: float
) -> Iterator[int]:
    """Bytes that each epoch downloads, through a cache that evicts what is needed furthest ahead.

    As `downloads.Ahead` does it, but for what its threads do earlier or later: a shard is there from the
    first step of its window to the last, and stays until its space is wanted.
    """
    following = _following(per_epoch)
    here: set[int] = set()
    leases: Counter[int] = Counter()
    held: list[tuple[int, int, float]] = []  # last step, shard, its next use: leased
    free: list[tuple[float, int]] = []  # minus the next use, shard: may be evicted
    next_use: dict[int, float] = {}
    used = 0
    for uses in per_epoch:
        fetched = 0
        for use in uses:
            while held and held[0][0] < use.first:
                _, shard, then = heapq.heappop(held)
                leases[shard] -= 1
                if not leases[shard]:
                    next_use[shard] = then
                    heapq.heappush(free, (-then, shard))
            if use.shard not in here:
                fetched += int(shard_bytes[use.shard])
                used += int(shard_bytes[use.shard])
                here.add(use.shard)
            leases[use.shard] += 1
            heapq.heappush(held, (use.last, use.shard, next(following)))
            while used > cache_bytes and free:
                then, shard = heapq.heappop(free)
                if shard in here and not leases[shard] and next_use[shard] == -then:
                    here.remove(shard)
                    used -= int(shard_bytes[shard])
        yield fetched


def _following(per_epoch: Sequence[Sequence[Use]]) -> Iterator[float]:
    """For each use in turn, the first step of the next one of the same shard."""
    later: dict[int, list[int]] = defaultdict(list)
    for use in reversed([use for uses in per_epoch for use in uses]):
        later[use.shard].append(use.first)
    for use in (use for uses in per_epoch for use in uses):
        coming = later[use.shard]
        coming.pop()
        yield coming[-1] if coming else math.inf


def _fitting(needs: OrderNeeds, rows: slice, cache_bytes: float) -> int:
    window = min(needs.order.window, 2 * len(needs.order.shard_sizes) + 2)  # no lane has more pieces
    while window and needs.working_set(rows, window) > cache_bytes:
        window -= 1
    return window


def _distinct(order: Order, *, steps: int = 20) -> float:
    """Shards that a batch is drawn from, on average over steps all over the first epoch."""
    chosen = np.unique(np.linspace(0, order.steps_per_epoch - 1, steps).astype(int)).tolist()
    met = [len(np.unique(_shards_of(order, order.batch_ids(step)[1]))) for step in chosen]
    return float(np.mean(met))


def _shards_of(order: Order, ids: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(order.shard_sizes), ids, side="right")


def _index_bytes(order: Order, shards: np.ndarray) -> int:
    """What knowing the index of these shards takes: that of all if it comes whole."""
    if not in_parts(order.num_samples):
        return index_size(order.num_samples)
    return int(order.shard_sizes[shards].sum()) * IDX_BYTES
