"""Several shard sets as one: a weighted, deterministic mixture of their canonical orders.

Slot n of the training stream (n = step x B + place in the batch) belongs to a set that depends on n, the seed
and the weights alone: every `CYCLE` slots hold each set exactly as often as its weight says, in an order that
a hash shuffles. The slots of a set take its samples in its own canonical order, epoch after epoch, however
many passes that are. So a position is still one integer and any number of ranks sees the same batches.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.seeding import hash64, permutation
from streamgan.core.storage.files import canonical_sha256
from streamgan.data.format import read_manifest
from streamgan.data.shards.reader import Encoded, Files, ShardReader
from streamgan.data.shards.remote import DEFAULT_CACHE, DEFAULT_CACHE_GB

from .canonical import MAX_LANES, Order, Reshuffle, default_window

CYCLE = 10_000  # slots; a weight is rounded to this part
_SET, _SLOTS = 8, 9  # what a hash is for: first key after the seed


class Weighted(NamedTuple):
    """A shard set of a mixture. `weight` is its share of the samples, relative to the others'; None for all:
    each has as many shares as samples.
    """

    path: str
    weight: float | None = None


Shards = Path | str | Sequence[str | Weighted]


def as_sets(shards: Shards) -> tuple[Weighted, ...]:
    """`shards` as one or more sets; ConfigError if there is none, or if only some have a weight."""
    one = isinstance(shards, str | Path)
    sets = [shards] if one else list(shards)
    weighted = tuple(one if isinstance(one, Weighted) else Weighted(str(one)) for one in sets)
    if not weighted:
        raise ConfigError("data.shards", "names no shard set", "name at least one")
    if len({one.weight is None for one in weighted}) > 1:
        bare = next(one.path for one in weighted if one.weight is None)
        raise ConfigError(
            "data.shards", f"{bare} has no weight but others have", "give all a weight, or none"
        )
    return weighted


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


def open_reader(
    shards: Shards,
    split: str,
    *,
    cache: str | Path | None = DEFAULT_CACHE,
    cache_gb: float = DEFAULT_CACHE_GB,
) -> Reader:
    """A reader of the split of one set or of several; DataError if one is missing, damaged or without it."""
    sets = as_sets(shards)
    readers = [ShardReader(one.path, split, cache=cache, cache_gb=cache_gb) for one in sets]
    if len(readers) == 1:
        return readers[0]
    return JointReader(
        readers,
        [
            len(reader) if one.weight is None else one.weight
            for one, reader in zip(sets, readers, strict=True)
        ],
    )


def split_size(shards: Shards, split: str) -> int:
    """Samples in a split of all sets together; 0 if one of them has none."""
    manifests = [read_manifest(one.path) for one in as_sets(shards)]
    sizes = [manifest.splits[split].samples if split in manifest.splits else 0 for manifest in manifests]
    return sum(sizes) if all(sizes) else 0


def cycle_counts(weights: Sequence[float]) -> list[int]:
    """Slots of each set in a cycle, by largest remainder; ConfigError where a weight is too small for one."""
    shares = np.asarray(weights, np.float64) / np.sum(weights) * CYCLE
    counts = np.floor(shares).astype(int)
    largest = np.argsort(counts - shares, kind="stable")
    counts[largest[: CYCLE - counts.sum()]] += 1
    if counts.min() == 0:
        number = int(counts.argmin())
        what = f"weight {weights[number]:g} of set {number + 1} is less than 1 in {CYCLE}"
        raise ConfigError("data.shards", what, "raise it or leave the set out")
    return counts.tolist()


class Mixture:
    """The order of several sets together, with the interface of `Order`.

    An epoch has as many samples as all sets together; a set of more than its share of the weight is met more
    than once in it.
    """

    def __init__(
        self,
        shard_sizes: Sequence[Sequence[int]],
        weights: Sequence[float],
        *,
        seed: int,
        batch: int,
        lanes: int | None = None,
        window: int | None = None,
        reshuffle: Reshuffle = "global",
    ):
        self.seed, self.batch = seed, batch
        self.counts = cycle_counts(weights)
        self._cycle: tuple[int, np.ndarray] | None = None
        self._pattern = np.repeat(np.arange(len(weights)), self.counts)
        sizes = [int(np.sum(one)) for one in shard_sizes]
        self.num_samples = sum(sizes)
        self.starts = np.cumsum(sizes) - sizes
        self.steps_per_epoch = self.num_samples // batch
        if self.steps_per_epoch == 0:
            raise ConfigError(
                "data.batch", f"{batch} is more than the {self.num_samples} samples", "use a smaller batch"
            )
        self.orders = []
        for number, (one, count) in enumerate(zip(shard_sizes, self.counts, strict=True)):
            width = lanes or min(MAX_LANES, sizes[number])
            if width > sizes[number]:
                what = f"{width} lanes are more than the {sizes[number]} samples of set {number + 1}"
                raise ConfigError("data.lanes", what, "leave data.lanes out")
            share = (
                -(-batch * count // CYCLE // width) * width
            )  # its part of a batch, in whole rounds of lanes
            self.orders.append(
                Order(
                    one,
                    seed=int(hash64(seed, _SET, number)),
                    batch=width,
                    lanes=width,
                    window=window or default_window(int(np.count_nonzero(one)), max(share, width), width),
                    reshuffle=reshuffle,
                )
            )

    def batch_ids(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(epochs of their sets, ids) of the global batch at `step`, both int64 of length B."""
        epochs, ids = np.empty(self.batch, np.int64), np.empty(self.batch, np.int64)
        slots = np.arange(step * self.batch, (step + 1) * self.batch)
        for cycle in range(slots[0] // CYCLE, slots[-1] // CYCLE + 1):
            pattern = self._pattern_of(cycle)
            inside = np.flatnonzero(slots // CYCLE == cycle)
            begin, end = int(slots[inside[0]]) % CYCLE, int(slots[inside[-1]]) % CYCLE + 1
            for number, order in enumerate(self.orders):
                mine = inside[pattern[begin:end] == number]
                if len(mine):
                    first = cycle * self.counts[number] + int((pattern[:begin] == number).sum())
                    epochs[mine], ids[mine] = order.samples(first, first + len(mine))
                    ids[mine] += self.starts[number]
        return epochs, ids

    def slots(self, number: int, cycle: int) -> np.ndarray:
        """Places, in the stream, of the samples that set `number` gives to a cycle."""
        pattern = self._pattern[permutation(CYCLE, self.seed, _SLOTS, cycle)]
        return cycle * CYCLE + np.flatnonzero(pattern == number)

    def _pattern_of(self, cycle: int) -> np.ndarray:
        """The set of every slot of a cycle; the last one is kept."""
        if self._cycle is None or self._cycle[0] != cycle:
            self._cycle = cycle, self._pattern[permutation(CYCLE, self.seed, _SLOTS, cycle)]
        return self._cycle[1]


def make_order(
    reader: Reader,
    *,
    seed: int,
    batch: int,
    lanes: int | None,
    window: int | None,
    reshuffle: Reshuffle,
    max_samples: int | None = None,
) -> Order | Mixture:
    """The canonical order of what `reader` reads."""
    if isinstance(reader, ShardReader):
        sizes = _first(reader.shard_sizes, max_samples)
        return Order(sizes, seed=seed, batch=batch, lanes=lanes, window=window, reshuffle=reshuffle)
    if max_samples is not None:
        what = "does not say of which set the first samples are to be taken"
        raise ConfigError("data.max_samples", what, "leave it out, or train on one set")
    sizes = [one.shard_sizes for one in reader.readers]
    return Mixture(
        sizes, reader.weights, seed=seed, batch=batch, lanes=lanes, window=window, reshuffle=reshuffle
    )


def evaluation_ids(reader: Reader, num_images: int | None) -> np.ndarray:
    """The first `num_images` ids (None: all); of several sets the first of each, in the ratio of weights."""
    count = min(num_images or len(reader), len(reader))
    if isinstance(reader, ShardReader):
        return np.arange(count)
    sizes = np.diff(reader.starts)
    shares = np.asarray(reader.weights) / np.sum(reader.weights)
    # how many images have to be taken until a set gives its n-th, (n + 1/2) / share: merge them in this order
    ids = np.arange(len(reader))
    nth = ids - np.repeat(reader.starts[:-1], sizes)
    return np.sort(ids[np.argsort((nth + 0.5) / np.repeat(shares, sizes), kind="stable")[:count]])


def _first(shard_sizes: list[int], max_samples: int | None) -> list[int]:
    """Sizes of the shards that hold the first `max_samples` samples, the last one cut."""
    if max_samples is None:
        return shard_sizes
    ends = np.minimum(np.cumsum(shard_sizes), max_samples)
    return np.diff(ends, prepend=0).tolist()
