"""What a loader asks its processes for, request by request: pure functions of the order and the rank."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from streamgan.core.errors import ConfigError

from .limits import check_options
from .order.canonical import Order, Reshuffle
from .order.mixture import Mixture
from .reading import Ranks
from .shards.joint import JointReader, Reader


@dataclass(frozen=True)
class Shuffle:
    """What the order of training depends on, beside the sets; `lanes` and `window` as of `Order`.

    `batch` is global. `max_samples`: only the first so many samples of a set, None: all.
    """

    batch: int
    seed: int = 0
    lanes: int | None = None
    window: int | None = None
    reshuffle: Reshuffle = "global"
    max_samples: int | None = None

    def __post_init__(self) -> None:
        check_options(**vars(self))


class Request(NamedTuple):
    """What a process is asked for: ids of one local batch, and the epoch of each; None means centre crops.

    `slot` is where in the ring of the loader the images go; None: in memory of their own.
    """

    epochs: np.ndarray | None
    ids: np.ndarray
    slot: int | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """The rows `local` of the global batches from `start` to `stop` (None: for ever)."""

    order: Order | Mixture
    local: slice
    start: int
    stop: int | None

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("an endless loader has no length")
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[Request]:
        step = self.start
        while self.stop is None or step < self.stop:
            epochs, ids = self.order.batch_ids(step, self.local)
            yield Request(np.broadcast_to(epochs, ids.shape), ids)
            step += 1

    @property
    def local_batch(self) -> int:
        return self.local.stop - self.local.start

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    @property
    def num_samples(self) -> int:
        return self.order.num_samples


class EvaluationPlan:
    """The samples `ids`, once each over all ranks, in rows of at most `most`; -1 pads the last ones.

    `ids_SB` are those of this rank.
    """

    def __init__(self, ids: np.ndarray, most: int, ranks: Ranks):
        self.num_samples = len(ids)
        self.local_batch = local_batch = min(most, -(-len(ids) // ranks.world))
        self.steps_per_epoch = -(-len(ids) // (local_batch * ranks.world))
        padded = np.full(self.steps_per_epoch * local_batch * ranks.world, -1, np.int64)
        padded[: len(ids)] = ids
        self.ids_SB = padded.reshape(self.steps_per_epoch, ranks.world, local_batch)[:, ranks.rank]

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Request]:
        return (Request(None, row) for row in self.ids_SB)


Plan = TrainingPlan | EvaluationPlan


def make_order(reader: Reader, shuffle: Shuffle) -> Order | Mixture:
    """The canonical order of what `reader` reads."""
    options = {name: getattr(shuffle, name) for name in ("seed", "batch", "lanes", "window", "reshuffle")}
    if not isinstance(reader, JointReader):
        return Order(_first(reader.shard_sizes, shuffle.max_samples), **options)
    if shuffle.max_samples is not None:
        what = "does not say of which set the first samples are to be taken"
        raise ConfigError("data.max_samples", what, "leave it out, or train on one set")
    return Mixture([one.shard_sizes for one in reader.readers], reader.weights, **options)


def evaluation_ids(reader: Reader, num_images: int | None) -> np.ndarray:
    """The first `num_images` ids (None: all); of several sets the first of each, in the ratio of weights."""
    count = min(num_images or len(reader), len(reader))
    if not isinstance(reader, JointReader):
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
