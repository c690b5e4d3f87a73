"""What a job downloads, keeps and asks the kernel for, by what its batches need of each set."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.logs import say, size_text
from streamgan.data.order.mixture import Mixture
from streamgan.data.plan import EvaluationPlan, TrainingPlan
from streamgan.data.reading import Ranks
from streamgan.data.shards.cached import CachedFiles
from streamgan.data.shards.joint import Reader
from streamgan.data.shards.ranged import RangedFiles

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
            what = f"{size_text(cap_bytes)} hold less than the shards in reach ({size_text(self.need_bytes)})"
            remedy = ", lower data.window, or make smaller shards" if training else ""
            raise ConfigError("data.cache_gb", what, f"set data.cache_gb={enough:g} or more{remedy}")

    @contextmanager
    def managed(self) -> Iterator[None]:
        """While this lasts loader processes wait for shards; to be entered before they are started."""
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
            used, cap, need = map(size_text, (self.cache.usage(), self.cache.cap_bytes, self.need_bytes))
            say(f"cache: {self.cache.folder}, {used} of {cap} cap, working set {need}")
        with ExitStack() as stack:
            aheads = [Ahead(files, needs) for files, needs in self.parts]
            yield Flow([stack.enter_context(one) for one in (*aheads, *self._local)])


class Flow:
    """The downloads of a loader while it is iterated."""

    def __init__(self, aheads: Sequence[Ahead | Hints]):
        self._aheads = aheads

    def advance(self, delivered: int) -> None:
        """So many batches have been delivered."""
        for ahead in self._aheads:
            ahead.advance(delivered)

    def failure(self) -> Exception | None:
        """Why shards do not arrive."""
        return next((ahead.error for ahead in self._aheads if ahead.error), None)


def training_supply(reader: Reader, plan: TrainingPlan, ranks: Ranks) -> Supply | None:
    """What a rank reads ahead of its steps, from disk or into the cache of its machine; None if nothing."""
    order, here = plan.order, ranks.node_ranks or ranks.world
    parts: list[tuple[CachedFiles, Needs]] = []
    local: list[Hints] = []
    need_bytes = 0
    first = ranks.rank // here * here
    last = min(first + here, ranks.world)
    machine = slice(first * plan.local_batch, last * plan.local_batch)
    for number, files in enumerate(reader.all_files):
        if isinstance(files, RangedFiles):
            continue
        num_bytes = [shard.bytes for shard in files.entry.shards]
        if isinstance(order, Mixture):
            needs = MixtureNeeds(order, number, num_bytes, start=plan.start, stop=plan.stop)
        else:
            span = {"start": plan.start, "stop": plan.stop}
            needs = OrderNeeds(order, num_bytes, plan.local, machine=machine, **span)
        if not isinstance(files, CachedFiles):
            local.append(Hints(files, needs, node_ranks=here))
            continue
        if isinstance(needs, MixtureNeeds):
            need_bytes += needs.budget_bytes
        else:
            need_bytes += needs.working_set(machine)
        parts.append((files, needs))
    return Supply(parts, need_bytes, training=True, local=local) if parts or local else None


def evaluation_supply(reader: Reader, plan: EvaluationPlan) -> Supply | None:
    """What a rank has to download for an evaluation; None if nothing."""
    parts: list[tuple[CachedFiles, Needs]] = []
    need_bytes, first = 0, 0
    for files in reader.all_files:
        last = first + files.entry.samples
        if isinstance(files, CachedFiles):
            ends = first + np.cumsum([shard.samples for shard in files.entry.shards])
            mine = [row[(row >= first) & (row < last)] for row in plan.ids_SB]
            shards = [np.searchsorted(ends, row, side="right") for row in mine]
            needs = ListNeeds(shards, [shard.bytes for shard in files.shards])
            need_bytes += needs.budget_bytes
            parts.append((files, needs))
        first = last
    return Supply(parts, need_bytes, training=False) if parts else None
