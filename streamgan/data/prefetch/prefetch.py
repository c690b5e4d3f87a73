"""What a job downloads, keeps and asks the kernel for, by what its batches need of each set."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.logs import say
from streamgan.data.order.canonical import Order, rank_slice
from streamgan.data.order.mixture import Mixture, Reader
from streamgan.data.shards.remote import CachedFiles, RangedFiles, gigabytes

from .demand import ListNeeds, MixtureNeeds, Needs, OrderNeeds
from .downloads import Ahead
from .readahead import Hints


class Supply:
    """The files that a job reads, with what it needs of each; `need_bytes` of the cache on this machine.

    ConfigError if the cache may not hold as much. `local` sets need no supply, only hints.
    """

    def __init__(
        self,
        parts: Sequence[tuple[CachedFiles, Needs]],
        need_bytes: int,
        *,
        training: bool,
        local: Sequence[Hints] = (),
    ):
        self.parts, self._training, self._local = parts, training, local
        if not parts:
            return
        self.cache = parts[0][0].cache
        self.need_bytes = need_bytes + sum(files.index_bytes for files, _ in parts)
        cap_bytes = self.cache.cap_bytes
        if cap_bytes < self.need_bytes:
            enough = math.ceil(self.need_bytes / 1e6) / 1e3
            what = f"{gigabytes(cap_bytes)} hold less than the shards in reach ({gigabytes(self.need_bytes)})"
            remedy = ", lower data.window, or make smaller shards" if training else ""
            raise ConfigError("data.cache_gb", what, f"set data.cache_gb={enough:g} or more{remedy}")

    @contextmanager
    def managed(self) -> Iterator[None]:
        """While this lasts loader processes wait for shards; to be entered before they are forked."""
        for files, _ in self.parts:
            files.manage(True)
        try:
            yield
        finally:
            for files, _ in self.parts:
                files.manage(False)

    @contextmanager
    def flowing(self) -> Iterator["Flow"]:
        """While this lasts the shards of the coming steps are downloaded."""
        if self._training and self.parts:
            used, cap, need = map(gigabytes, (self.cache.usage(), self.cache.cap_bytes, self.need_bytes))
            say(f"cache: {self.cache.folder}, {used} of {cap} cap, working set {need}")
        with ExitStack() as stack:
            aheads = [_ahead(files, needs) for files, needs in self.parts]
            flow = Flow([stack.enter_context(one) for one in (*aheads, *self._local)])
            try:
                yield flow
            finally:
                flow.fail_waiters()  # a loader process that waits for a shard would not end


class Flow:
    """The downloads of a loader while it is iterated."""

    def __init__(self, aheads: Sequence[Ahead | Hints]):
        self._aheads = aheads

    def advance(self, delivered: int) -> None:
        """So many batches have been delivered."""
        for ahead in self._aheads:
            ahead.advance(delivered)

    def fail_waiters(self) -> None:
        """Whoever waits for a shard gets an error."""
        for ahead in self._aheads:
            ahead.fail_waiters()

    def failure(self) -> Exception | None:
        """Why shards do not arrive."""
        return next((ahead.error for ahead in self._aheads if ahead.error), None)


def _ahead(files: CachedFiles, needs: Needs) -> Ahead:
    return Ahead(
        files,
        needs.uses(),
        start=needs.start,
        budget_bytes=needs.budget_bytes,
        horizon=needs.horizon,
        next_use=needs.next_use,
    )


def training_supply(
    reader: Reader,
    order: Order | Mixture,
    *,
    rank: int,
    world: int,
    node_ranks: int | None,
    start: int,
    stop: int | None,
) -> Supply | None:
    """What rank `rank` of `world` reads, and has to download; `node_ranks` share the cache."""
    parts: list[tuple[CachedFiles, Needs]] = []
    local: list[Hints] = []
    here = node_ranks or world
    need_bytes = 0
    for number, files in enumerate(reader.all_files):
        if isinstance(files, RangedFiles):
            continue
        num_bytes = [shard.bytes for shard in files.entry.shards]
        if isinstance(order, Mixture):
            needs = MixtureNeeds(order, number, num_bytes, start=start, stop=stop)
        else:
            mine = rank_slice(order.batch, rank, world)
            needs = OrderNeeds(order, num_bytes, mine, start=start, stop=stop)
        if not isinstance(files, CachedFiles):
            local.append(Hints(files, needs, node_ranks=here))
            continue
        if isinstance(needs, MixtureNeeds):
            need_bytes += needs.budget_bytes
        else:
            first = rank // here * here
            last = min(first + here, world) - 1
            rows = [rank_slice(order.batch, one, world) for one in (first, last)]
            need_bytes += needs.working_set(slice(rows[0].start, rows[1].stop))
        parts.append((files, needs))
    return Supply(parts, need_bytes, training=True, local=local) if parts or local else None


def list_supply(reader: Reader, requests: np.ndarray) -> Supply | None:
    """What requests for `requests[i]` (ids; -1: padding) have to download; None if nothing."""
    parts: list[tuple[CachedFiles, Needs]] = []
    need_bytes, first = 0, 0
    for files in reader.all_files:
        last = first + files.entry.samples
        if isinstance(files, CachedFiles):
            ends = first + np.cumsum([shard.samples for shard in files.entry.shards])
            mine = [row[(row >= first) & (row < last)] for row in requests]
            shards = [np.searchsorted(ends, row, side="right") for row in mine]
            needs = ListNeeds(shards, [blob.bytes for blob in files.blobs])
            need_bytes += needs.budget_bytes
            parts.append((files, needs))
        first = last
    return Supply(parts, need_bytes, training=False) if parts else None
