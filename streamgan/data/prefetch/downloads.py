"""Downloading what the plan needs next, in threads of the training process.

The order of a run is known in advance, so the shards of the coming steps are fetched while the present ones
are trained on, as many as the working set of the job holds, the most urgent first. They are leased until
their last batch has been delivered. A run does not wait for the shards that it begins with, if they are
large: until one of them has arrived, its images are read by range. Space is made by evicting the shard that
is needed furthest ahead (Belady 1966). If other jobs hold all of it, shards that are not urgent are given
back, and the urgent ones are read by range until there is space again: nobody ever waits for somebody else's
lease.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from streamgan.core.errors import DataError
from streamgan.core.storage.retry import Stopped
from streamgan.data.shards.cached import CachedFiles
from streamgan.data.shards.node_cache import Deleted

from .demand import Needs, Use

WAITED_BYTES = 64 << 20  # of shards that a run begins with: no more than this is waited for
NUM_DOWNLOADS = 8  # at once, in one process
FULL_PATIENCE_S = 1.0  # without space for what is urgent, before it is read by range
RETRY_S = 5.0  # until a download that failed, and that nobody waits for, is tried again
SILENCE_S = 300.0  # without a byte of what is needed now; a download of our own has given up by then
_LOOK_S = 0.5  # between two looks at whether all is well
_SOON_S = 0.1


class Ahead:
    """Keeps the shards of the coming steps in the cache, as a context."""

    def __init__(self, files: CachedFiles, needs: Needs):
        self._files, self._needs, self._uses = files, needs, needs.uses()
        self.error: Exception | None = None  # why what is needed now does not arrive
        self._position = needs.start  # the oldest step that has not been delivered
        self._lock, self._stop, self._changed = threading.Lock(), threading.Event(), threading.Event()
        self._near: deque[Use] = deque()
        self._following = next(self._uses, None)
        self._wanted: dict[int, int] = {}  # first step by shard, the most urgent first
        self._held: set[int] = set()
        self._early: set[int] = set()  # read by range until they arrive
        self._busy: set[int] = set()
        self._not_before: dict[int, float] = {}
        self._failed: dict[int, Exception] = {}
        self._full_since: float | None = None
        self._full_first = math.inf  # urgency of what there is no space for
        self._looked = time.monotonic()
        self._numbers = {one.sha256: shard for shard, one in enumerate(files.shards)}
        self._numbers |= {one.idx_sha256: shard for shard, one in enumerate(files.shards)}
        self._lease = files.cache.lease()
        self._threads = [
            threading.Thread(target=task, name="shards ahead", daemon=True)
            for task in [self._watch, *[self._run] * NUM_DOWNLOADS]
        ]

    def __enter__(self) -> "Ahead":
        with self._lock:
            self._refresh()
            self._begin_by_range()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._changed.set()
        for thread in self._threads:
            thread.join()
        self._lease.close()

    def _begin_by_range(self) -> None:
        """Let the shards of the first step be read by range until they are here, unless that is soon."""
        files = self._files
        first = {shard for shard, its in self._wanted.items() if its <= self._position}
        missing = {shard for shard in first if not files.is_here(shard)}
        if sum(files.shards[shard].bytes for shard in missing) > WAITED_BYTES:
            self._early = missing
            for shard in missing:
                files.by_range[shard] = 1

    def advance(self, delivered: int) -> None:
        """So many steps have been delivered."""
        with self._lock:
            self._position = self._needs.start + delivered
        self._changed.set()

    def _watch(self) -> None:
        """See to it that nobody waits for ever for what the next step needs."""
        still_s, last = 0.0, None
        while not self._stop.wait(_LOOK_S):
            with self._lock:
                urgent = [shard for shard, first in self._wanted.items() if first <= self._position]
                missing = [shard for shard in urgent if shard not in self._held]
                failed = next((self._failed[shard] for shard in missing if shard in self._failed), None)
            seen = self._files.cache.progress(map(self._files.blob, missing)), missing
            still_s, last = (still_s + _LOOK_S if missing and seen == last else 0.0), seen
            if failed is None and still_s >= SILENCE_S:
                what = f"no byte has arrived for {SILENCE_S:g} s"
                todo = "see which other process downloads it, then run the same command again"
                failed = DataError(self._files.name(missing[0]), what, todo)
            if failed:
                self.error = failed
                self._files.fail_waiters()
                return

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                shard = self._pick()
            except Deleted:
                continue
            except DataError as error:  # the cache cannot be used any more
                self.error = error
                self._files.fail_waiters()
                return
            if shard is None:
                self._changed.wait(_SOON_S)
                self._changed.clear()
                continue
            try:
                self._fetch(shard)
            except (Stopped, Deleted):
                pass
            except Exception as error:  # for whoever waits for this shard
                with self._lock:
                    self._failed[shard] = error
                    self._not_before[shard] = time.monotonic() + RETRY_S
                    with suppress(DataError):  # it is the cache that cannot be used
                        self._let_go({shard})
            finally:
                with self._lock:
                    self._busy.discard(shard)

    def _pick(self) -> int | None:
        """The most urgent shard that nobody here works on."""
        with self._lock:
            self._refresh()
            now = time.monotonic()
            for shard, first in self._wanted.items():
                if first > self._full_first:
                    break  # what is more urgent has no space yet
                if (
                    shard not in self._held
                    and shard not in self._busy
                    and now >= self._not_before.get(shard, 0)
                ):
                    self._busy.add(shard)
                    return shard
        return None

    def _refresh(self) -> None:
        """Let go of what is past, look as far ahead as the budget goes."""
        shards, gone = self._files.shards, set(self._wanted)
        while self._near and self._near[0].last < self._position:
            self._near.popleft()
        self._wanted = {}
        for use in self._near:
            if use.last >= self._position:
                self._wanted.setdefault(use.shard, use.first)
        total = sum(shards[shard].bytes for shard in self._wanted)
        while (use := self._following) is not None and use.first <= self._position + self._needs.horizon:
            more = 0 if use.shard in self._wanted else shards[use.shard].bytes
            if use.first > self._position and total + more > self._needs.budget_bytes:
                break
            if use.last >= self._position:
                self._near.append(use)
                self._wanted.setdefault(use.shard, use.first)
                total += more
            else:
                gone.add(use.shard)
            self._following = next(self._uses, None)
        for shard in self._early - self._wanted.keys():  # another time it is waited for
            self._early.discard(shard)
            self._files.by_range[shard] = 0
        if self._files.parts:
            for shard in gone - self._wanted.keys():
                self._files.parts.drop(shard)
        past = self._held - self._wanted.keys()
        if past:
            self._let_go(past)
        if not any(
            first <= self._full_first for shard, first in self._wanted.items() if shard not in self._held
        ):
            self._full_first = math.inf
        if time.monotonic() - self._looked > _LOOK_S:
            self._looked = time.monotonic()
            path = self._files.cache.path
            self._held = {shard for shard in self._held if path(shards[shard].sha256).exists()}

    def _let_go(self, shards: set[int]) -> None:
        self._held -= shards
        self._lease.drop([self._files.shards[shard].sha256 for shard in shards])

    def _fetch(self, shard: int) -> None:
        files, blob, furthest = self._files, self._files.blob(shard), self._furthest()
        if files.parts and not files.parts.known(shard):
            files.load_part(shard, next_use=furthest, stop=self._stop)
        claim = files.cache.claim(blob, self._lease, furthest)
        if claim.state == "full":
            self._full(shard)
            return
        with self._lock:
            if self._wanted.get(shard, math.inf) <= self._full_first:
                self._full_since, self._full_first = None, math.inf
        if claim.state == "busy":
            with self._lock:
                self._not_before[shard] = time.monotonic() + _SOON_S
            return
        if claim.state == "mine":
            there = files.download(
                blob, claim.descriptor, lambda descriptor: files.damaged(shard, descriptor), self._stop
            )
            if not there:
                return
        with self._lock:
            self._held.add(shard)
            self._failed.pop(shard, None)
            files.by_range[shard] = 0

    def _furthest(self) -> Callable[[str], float]:
        """When a blob is needed next; found out only if something is to be evicted."""
        steps: np.ndarray | None = None

        def of(sha256: str) -> float:
            nonlocal steps
            if sha256 not in self._numbers:
                return math.inf
            if steps is None:
                steps = self._needs.next_use(self._position)
            return float(steps[self._numbers[sha256]])

        return of

    def _full(self, shard: int) -> None:
        """Other jobs hold the space: give back the least urgent shard, or read by range what is urgent."""
        now = time.monotonic()
        with self._lock:
            first = self._wanted.get(shard, self._position)
            self._full_first = min(self._full_first, first)
            self._full_since = self._full_since or now
            self._not_before[shard] = now + _SOON_S
            spare = [
                other
                for other, its in self._wanted.items()
                if other in self._held and its > max(first, self._position)
            ]
            if spare:
                self._let_go({spare[-1]})
            elif now - self._full_since > FULL_PATIENCE_S:
                for other, its in self._wanted.items():
                    if (
                        its <= self._position
                        and other not in self._held
                        and other not in self._busy - {shard}
                    ):
                        self._files.by_range[other] = 1
