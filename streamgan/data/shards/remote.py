"""What the two ways of reading shards at an address share: whole ones through a cache, images by range."""

from collections.abc import Callable, Sequence
from typing import Any

from streamgan.core.errors import DataError, StreamganError
from streamgan.core.storage.address import join, redacted
from streamgan.core.storage.download import read_range, read_whole
from streamgan.data.format import Sample, SplitEntry, idx_name, parse_idx

from .coalesce import ByteRange, Coming


class NotArrived(StreamganError):
    """Bytes that could not be had (exit code 3). The sample may be good, so no other may stand in for it."""

    exit_code = 3


def nothing() -> None:
    """What a reader does while it waits, unless somebody wants to know."""


class RemoteFiles:
    """Names, addresses and bytes of the shards of a split at the address `root`."""

    def __init__(self, root: str, split: str, entry: SplitEntry):
        self.root, self.split, self.entry = root, split, entry
        self.index_address = join(root, f"{split}.index")
        self.heartbeat: Callable[[], None] = nothing  # called while bytes are waited for
        self.num_missed = 0  # reads for which bytes were waited for
        self.waits = True  # for shards that somebody fetches
        self._coming: Coming | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_coming": None}

    def address(self, shard: int) -> str:
        return join(self.root, self.entry.shards[shard].name)

    def name(self, shard: int) -> str:
        return redacted(self.address(shard))

    def samples(self, shard: int) -> list[Sample]:
        """The samples of a shard as its `.idx` lists them."""
        address = join(self.root, idx_name(self.entry.shards[shard].name))
        return parse_idx(redacted(address), read_whole(address))

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
