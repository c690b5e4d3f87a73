"""One shard set or several, read as one."""

from collections.abc import Callable, Sequence

import numpy as np

from streamgan.core.storage.files import canonical_sha256
from streamgan.data.order.mixture import cycle_counts
from streamgan.data.reading import Source, as_sets

from .known_set import read_set
from .reader import Encoded, Files, ShardReader


class JointReader:
    """Readers of several sets as one; ids run through the sets one after the other."""

    def __init__(self, readers: Sequence[ShardReader], weights: Sequence[float]):
        self.readers, self.weights = list(readers), list(weights)
        self.starts = np.concatenate(([0], np.cumsum([len(reader) for reader in readers])))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def root(self) -> str:
        return ", ".join(str(reader.root) for reader in self.readers)

    @property
    def has_gray(self) -> bool:
        return all(reader.has_gray for reader in self.readers)

    @property
    def digest(self) -> str:
        """The identity of the mixture: of what, and how much of each."""
        digests = [reader.digest for reader in self.readers]
        return canonical_sha256(list(zip(digests, cycle_counts(self.weights), strict=True)))

    def read(self, sample_id: int, *, gray: bool = False) -> Encoded:
        reader, local = self._place(sample_id)
        return reader.read(local, gray=gray)

    def expect(self, sample_ids: np.ndarray, *, gray: bool) -> None:
        numbers = np.searchsorted(self.starts, sample_ids, side="right") - 1
        for number in np.unique(numbers).tolist():
            local = sample_ids[numbers == number] - self.starts[number]
            self.readers[number].expect(local, gray=gray)

    def where(self, sample_id: int) -> str:
        reader, local = self._place(sample_id)
        return reader.where(local)

    @property
    def all_files(self) -> list[Files]:
        return [reader.files for reader in self.readers]

    def while_waiting(self, heartbeat: Callable[[], None]) -> None:
        for reader in self.readers:
            reader.while_waiting(heartbeat)

    def release(self) -> None:
        for reader in self.readers:
            reader.release()

    def close(self) -> None:
        for reader in self.readers:
            reader.close()

    def _place(self, sample_id: int) -> tuple[ShardReader, int]:
        number = int(np.searchsorted(self.starts, sample_id, side="right")) - 1
        return self.readers[number], sample_id - int(self.starts[number])


Reader = ShardReader | JointReader


def open_reader(source: Source, split: str) -> Reader:
    """A reader of the split of one set or of several; DataError if one is missing, damaged or without it."""
    sets = as_sets(source.shards)
    readers = [ShardReader(one.path, split, cache=source.cache, cache_gb=source.cache_gb) for one in sets]
    if len(readers) == 1:
        return readers[0]
    counted = zip(sets, readers, strict=True)
    return JointReader(
        readers, [len(reader) if one.weight is None else one.weight for one, reader in counted]
    )


def split_size(source: Source, split: str) -> int:
    """Samples in a split of all sets together; 0 if one of them has none."""
    manifests = [read_set(str(one.path), source.cache)[1] for one in as_sets(source.shards)]
    sizes = [manifest.splits[split].samples if split in manifest.splits else 0 for manifest in manifests]
    return sum(sizes) if all(sizes) else 0
