"""Batches of uint8 crops in canonical order, for one rank.

The plan (`plan.py`) runs in the training process and hands each DataLoader worker whole requests: the epochs
and ids of one local batch. Workers, prefetching, pinning and in-order delivery are PyTorch's. The loader
already knows its rank; `Accelerator.prepare` has nothing to do with it and leaves it as it is.
"""

import copy
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from streamgan.core.errors import DataError
from streamgan.core.logs import say
from streamgan.core.storage import retry
from streamgan.data.order.canonical import Reshuffle, rank_slice
from streamgan.data.prefetch.prefetch import Supply, evaluation_supply, training_supply
from streamgan.data.shards.joint import Reader, open_reader
from streamgan.data.workers.batch import Batch, Fetched, Parcel
from streamgan.data.workers.batch_memory import Ring
from streamgan.data.workers.counters import LoaderStats
from streamgan.data.workers.processes import SERVER, Workers
from streamgan.data.workers.samples import Samples, Work, as_it_is, begin
from streamgan.data.workers.watchdog import close_at_exit, read

from .limits import GrayMode, OnBad, check_options
from .plan import EvaluationPlan, Plan, Request, Shuffle, TrainingPlan, evaluation_ids, make_order
from .reading import ALONE, DEFAULT_CACHE, DEFAULT_CACHE_GB, Ranks, Reading, Shards, Source

PREFETCH = 4  # batches that each worker is ahead
_HELD = 3  # batches that a training loop may have in hand before they get memory of their own


class Loader:
    """An iterable of Batch. Iterating again starts again at the same place.

    `steps_per_epoch`, `num_samples` and `digest` (of the shard set) describe what is read.
    """

    def __init__(self, samples: Samples, plan: Plan, reading: Reading, supply: Supply | None):
        self.steps_per_epoch, self.num_samples = plan.steps_per_epoch, plan.num_samples
        self.digest = samples.reader.digest
        self.replaced = 0
        self._samples, self._plan, self._reading, self._supply = samples, plan, reading, supply

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Generator[Batch, None, None]:
        return close_at_exit(self._batches())

    def _batches(self) -> Generator[Batch, None, None]:
        self.replaced = 0
        samples = self._samples
        with ExitStack() as stack:
            if self._supply:
                stack.enter_context(self._supply.managed())
            torch_loader, stall_s = self._torch_loader(), self._reading.stall_s
            batches = read(torch_loader, samples.board, stall_s=stall_s, where=samples.reader.where)
            stack.enter_context(closing(batches))
            flow = stack.enter_context(self._supply.flowing()) if self._supply else None
            for number, answer in enumerate(batches):
                if isinstance(answer, Exception):
                    raise (flow and flow.failure()) or answer
                fetched = answer.unpack() if isinstance(answer, Parcel) else answer
                self._count(fetched)
                if flow:
                    flow.advance(number + 1)
                yield fetched.batch

    def _torch_loader(self) -> DataLoader[Any]:
        workers = self._reading.workers
        samples = copy.copy(self._samples)  # two iterators may be open at once
        samples.ring = Ring(workers * PREFETCH + _HELD, samples.shapes(self._plan.local_batch))
        work = Work(samples, partial(begin, retry.shared()))
        return DataLoader(
            samples,  # type: ignore[arg-type]
            batch_sampler=_placed(self._plan, samples.ring),  # type: ignore[arg-type]
            collate_fn=as_it_is,
            num_workers=workers,
            pin_memory=self._reading.pin_memory,
            multiprocessing_context=Workers(work) if workers else None,
            prefetch_factor=PREFETCH if workers else None,
        )

    @property
    def stats(self) -> LoaderStats:
        """What the processes of this loader have done so far, batches under way included."""
        return self._samples.board.stats()

    def _count(self, fetched: Fetched) -> None:
        most = self._reading.max_bad
        for line in fetched.replaced:
            self.replaced += 1
            say(f"bad sample {self.replaced} of at most {most}: {line}", every_rank=True)
        if self.replaced > most:
            what = f"{self.replaced} samples are damaged, more than data.max_bad={most} allows"
            todo = "run `streamgan verify --full`, then restore or re-make the shards"
            raise DataError("loader", what, todo)


def _placed(plan: Plan, ring: Ring) -> Iterator[Request]:
    """The requests, each with a slot for its images as long as there is one."""
    for request in plan:
        yield request._replace(slot=ring.take())


def training_loader(
    reading: Reading,
    split: str,
    shuffle: Shuffle,
    *,
    ranks: Ranks = ALONE,
    start_step: int = 0,
    stop_step: int | None = None,
    epochs: int | None = None,
) -> Loader:
    """What `build_loader` gives, its options in groups."""
    check_options(start_step=start_step, stop_step=stop_step, epochs=epochs)
    reader = _open(reading, split)
    order = make_order(reader, shuffle)
    stops = [stop for stop in (stop_step, epochs and epochs * order.steps_per_epoch) if stop is not None]
    local = rank_slice(shuffle.batch, ranks.rank, ranks.world)
    plan = TrainingPlan(order, local, start_step, min(stops, default=None))
    samples = Samples(reader, reading, seed=shuffle.seed, substitute_from=order.num_samples)
    return Loader(samples, plan, reading, training_supply(reader, plan, ranks))


def evaluation_loader(
    reading: Reading, split: str, *, batch: int, num_images: int | None = None, ranks: Ranks = ALONE
) -> Loader:
    """The first `num_images` samples of a split (None: all), centre-cropped, once each over all ranks.

    `batch` is the local batch, or a rank's share if that is smaller. Every rank gets the same number of full
    batches; the last are padded: with black images, and -1 in ids_B. Of several sets, the first images of
    each are taken in the ratio of the weights. Where damaged samples are replaced, the substitute is one of
    the split's.
    """
    check_options(batch=batch, num_images=num_images)
    reader = _open(reading, split)
    plan = EvaluationPlan(evaluation_ids(reader, num_images), batch, ranks)
    samples = Samples(reader, reading, seed=0, substitute_from=len(reader))
    return Loader(samples, plan, reading, evaluation_supply(reader, plan))


def _open(reading: Reading, split: str) -> Reader:
    if reading.workers:
        SERVER.start()  # it has much to import, and time for it until the first batch is asked for
    reader = open_reader(reading.source, split)
    if reading.gray == "twin" and not reader.has_gray:
        raise DataError(
            reader.root, "the set has no gray twins", "derive the gray: data.gray=derive, --gray derive"
        )
    return reader


def build_loader(
    root: Shards,
    split: str = "train",
    batch: int = 16,
    size: int = 256,
    workers: int = 2,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    epochs: int | None = None,
    *,
    lanes: int | None = None,
    window: int | None = None,
    reshuffle: Reshuffle = "global",
    gray: GrayMode | None = "derive",
    max_samples: int | None = None,
    stop_step: int | None = None,
    on_bad: OnBad = "raise",
    max_bad: int = Reading.max_bad,
    pin_memory: bool = False,
    stall_s: float = Reading.stall_s,
    cache: str | Path | None = DEFAULT_CACHE,
    cache_gb: float = DEFAULT_CACHE_GB,
    node_ranks: int | None = None,
) -> Loader:
    """Training batches of a shard set in canonical order, the part that `rank` of `world` gets.

    Yields `Batch(gray_B1HW, color_B3HW, ids_B)`: uint8 images in [0, 255] of size x size pixels and int64
    ids, with B = batch / world. The short side of a photo is resized to `size`; place of the crop and
    mirroring depend on (seed, epoch, id) alone. The concatenation over ranks is the same for every `world`
    that divides `batch` and for any number of workers; `start_step` continues a run exactly where it was,
    in milliseconds.

    `root` is the folder of a shard set, or several, mixed in the ratio of their `Weighted.weight`; ids then
    run through the sets in turn. `gray`: "derive" computes JPEG luma from the colour crop, "twin" reads the
    set's own gray image, None skips it. Ends after `epochs` passes or before step `stop_step`, both counted
    from step 0; endless with neither.

    A set at an address (s3://, gs://, https://, hf://) comes through the folder `cache`, which holds at most
    `cache_gb` GB and may serve any number of processes ("none": image by image, by range); `node_ranks`
    (None: all) is how many ranks run on a machine.

    Raises ConfigError (sizes that cannot be shared, too few samples) and, while iterating, DataError naming
    the shard and key of damaged data; with `on_bad="substitute"` another sample, which depends on the damaged
    one alone, takes its place, `max_bad` times at most. A worker process that dies, or does not move for
    `stall_s` seconds, is a DataError that names what it was at.
    """
    reading = Reading(
        Source(root, cache, cache_gb), size, gray=gray, workers=workers, on_bad=on_bad, max_bad=max_bad,
        stall_s=stall_s, pin_memory=pin_memory,
    )  # fmt: skip
    shuffle = Shuffle(batch, seed, lanes=lanes, window=window, reshuffle=reshuffle, max_samples=max_samples)
    return training_loader(
        reading, split, shuffle, ranks=Ranks(rank, world, node_ranks), start_step=start_step,
        stop_step=stop_step, epochs=epochs,
    )  # fmt: skip


def build_eval_loader(
    root: Shards,
    split: str,
    *,
    batch: int,
    size: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    num_images: int | None = None,
    gray: GrayMode | None = None,
    on_bad: OnBad = "raise",
    max_bad: int = Reading.max_bad,
    pin_memory: bool = False,
    stall_s: float = Reading.stall_s,
    cache: str | Path | None = DEFAULT_CACHE,
    cache_gb: float = DEFAULT_CACHE_GB,
) -> Loader:
    """As `evaluation_loader`, of the sets `root`; the other options as of `build_loader`."""
    reading = Reading(
        Source(root, cache, cache_gb), size, gray=gray, workers=workers, on_bad=on_bad, max_bad=max_bad,
        stall_s=stall_s, pin_memory=pin_memory,
    )  # fmt: skip
    return evaluation_loader(reading, split, batch=batch, num_images=num_images, ranks=Ranks(rank, world))
