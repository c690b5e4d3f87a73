"""What the two ways of reading shards at an address share: whole ones through a cache, images by range."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from streamgan.core.errors import DataError, StreamganError
from streamgan.core.storage.address import join, redacted
from streamgan.core.storage.download import read_range, read_whole
from streamgan.data.format import Sample, SplitEntry, idx_name, pack_index, parse_idx

from .coalesce import BEAT_S, NUM_REQUESTS, ByteRange, Coming
from .index_parts import IndexParts, in_parts
from .verified_download import read_sealed


class NotArrived(StreamganError):
    """Bytes that could not be fetched (exit code 3). The sample may be good: no other may stand in for it."""

    exit_code = 3


def nothing() -> None:
    """What a reader does while it waits, unless somebody wants to know."""


def never(sha256: str) -> float:
    """When what no plan knows of is needed next."""
    return math.inf


class RemoteFiles:
    """Names, addresses and bytes of the shards of a split at the address `root`."""

    def __init__(self, root: str, split: str, entry: SplitEntry):
        self.root, self.split, self.entry = root, split, entry
        self.index_address = join(root, f"{split}.index")
        self.heartbeat: Callable[[], None] = nothing  # called while bytes are waited for
        self.num_missed = 0  # reads for which bytes were waited for
        self.waits = True  # for shards that somebody fetches
        self.parts = IndexParts(entry) if in_parts(entry.samples) else None  # None: the index is whole
        self._coming: Coming | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_coming": None}

    def address(self, shard: int) -> str:
        return join(self.root, self.entry.shards[shard].name)

    def name(self, shard: int) -> str:
        return redacted(self.address(shard))

    def idx_address(self, shard: int) -> str:
        return join(self.root, idx_name(self.entry.shards[shard].name))

    def samples(self, shard: int) -> list[Sample]:
        """The samples of a shard as its `.idx` lists them."""
        address = self.idx_address(shard)
        return parse_idx(redacted(address), read_whole(address))

    def begins_with_part(self, shard: int) -> bool:
        """Whether the index comes in parts, that of `shard` first; not so where the set has no `.idx`."""
        if self.parts:
            try:
                self.load_part(shard)
            except DataError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                self.parts = None
        return self.parts is not None

    def rows(self, shards: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The index of these samples of these shards, of which missing parts are fetched, all at once."""
        assert self.parts
        while (rows := self.parts.rows(shards, numbers)) is None:
            self.num_missed += 1
            needed = np.unique(shards).tolist()
            self._load_parts([shard for shard in needed if not self.parts.known(shard)] or needed)
        return rows

    def load_part(
        self, shard: int, *, next_use: Callable[[str], float] = never, stop: threading.Event | None = None
    ) -> None:
        """Make the rows of a shard known. `next_use` as of `NodeCache.claim`; Stopped soon after `stop`."""
        assert self.parts
        name = redacted(self.idx_address(shard))
        rows = pack_index(parse_idx(name, self._idx(shard, next_use, stop)))
        if len(rows) != self.entry.shards[shard].samples or not rows["color_size"].all():
            todo = "run `streamgan verify --full` where the set was made"
            raise DataError(name, "does not list the samples that the manifest says", todo)
        self.parts.put(shard, rows)

    def _load_parts(self, shards: Sequence[int]) -> None:
        pool = ThreadPoolExecutor(min(NUM_REQUESTS, len(shards)), "index")
        try:
            pending = {pool.submit(self.load_part, shard) for shard in shards}
            while pending:
                done, pending = wait(pending, BEAT_S, FIRST_COMPLETED)
                for one in done:
                    one.result()
                self.heartbeat()
        except DataError as error:
            raise NotArrived(error.where, error.what, error.todo) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _idx(self, shard: int, next_use: Callable[[str], float], stop: threading.Event | None) -> bytes:
        return read_sealed(self.idx_address(shard), self.entry.shards[shard].idx_sha256, stop=stop)

    def renew_index(self) -> bool:
        """Whether the index was damaged since it was read, and is right again."""
        return False

    def is_by_range(self, shard: int) -> bool:
        """Whether images of this shard are read by range now."""
        return True

    def expect(self, pieces: Sequence[ByteRange]) -> None:
        """These are read by range next, until `release`: ask for all of them at once."""
        self.forget()
        self._coming = Coming(pieces, self.fetch)

    def forget(self) -> None:
        """What was expected is no longer."""
        if self._coming:
            self._coming.close()
            self._coming = None

    def read_by_range(self, shard: int, size: int, offset: int) -> bytes:
        """Bytes of a shard from its address, asked for before or now."""
        self.num_missed += 1  # in any case it was not here
        piece = ByteRange(shard, offset, size)
        data = self._coming and self._coming.take(piece, self.heartbeat)
        if data is None:
            alone = Coming([piece], self.fetch)
            try:
                data = alone.take(piece, self.heartbeat)
            finally:
                alone.close()
        assert data is not None
        return data

    def fetch(self, shard: int, size: int, offset: int) -> bytes:
        """As `read_by_range`, without a heartbeat: for a thread that nobody watches."""
        try:
            return read_range(self.address(shard), offset, offset + size)
        except DataError as error:
            raise NotArrived(error.where, error.what, error.todo) from error
