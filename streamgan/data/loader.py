"""Batches of uint8 crops in canonical order, for one rank.

The plan (`Order` or `Mixture`) runs in the training process and hands each DataLoader worker whole requests:
the epochs and ids of one local batch. Workers, prefetching, pinning and in-order delivery are PyTorch's. The
loader already knows its rank; `Accelerator.prepare` has nothing to do with it and leaves it as it is.
"""

import copy
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from streamgan.core.errors import DataError, StreamganError
from streamgan.core.logs import say
from streamgan.data.order.canonical import Order, Reshuffle, rank_slice
from streamgan.data.order.mixture import Mixture, Reader, Shards, evaluation_ids, make_order, open_reader
from streamgan.data.prefetch.prefetch import Supply, list_supply, training_supply
from streamgan.data.shards.remote import DEFAULT_CACHE, DEFAULT_CACHE_GB
from streamgan.data.workers.batch_memory import Ring
from streamgan.data.workers.counters import Board, LoaderStats
from streamgan.data.workers.samples import Batch, Fetched, GrayMode, OnBad, Request, Samples
from streamgan.data.workers.watchdog import Forked, begin, close_at_exit, read

from .limits import check_options

STALL_S = 8.0
MAX_BAD = 100
PREFETCH = 4  # batches that each worker is ahead
_HELD = 3  # batches that a training loop may have in hand before they get memory of their own


class Loader:
    """An iterable of Batch. Iterating again starts again at the same place.

    `steps_per_epoch`, `num_samples` and `digest` (of the shard set) describe what is read.
    """

    def __init__(
        self,
        samples: Samples,
        requests: "list[Request] | _Plan",
        *,
        local_batch: int,
        steps_per_epoch: int,
        num_samples: int,
        workers: int,
        pin_memory: bool,
        stall_s: float,
        max_bad: int = 0,
        supply: Supply | None = None,
    ):
        self.steps_per_epoch, self.num_samples = steps_per_epoch, num_samples
        self.digest = samples.reader.digest
        self.replaced = 0
        self._supply = supply
        self._samples, self._requests, self._stall_s, self._max_bad = samples, requests, stall_s, max_bad
        self._local_batch, self._workers, self._pin_memory = local_batch, workers, pin_memory

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Generator[Batch, None, None]:
        return close_at_exit(self._batches())

    def _batches(self) -> Generator[Batch, None, None]:
        self.replaced = 0
        where = self._samples.reader.where
        with ExitStack() as stack:
            if self._supply:
                stack.enter_context(self._supply.managed())
            # Processes are forked here, before the threads that fetch shards begin.
            batches = read(self._torch_loader(), self._samples.board, stall_s=self._stall_s, where=where)
            stack.enter_context(closing(batches))
            flow = stack.enter_context(self._supply.flowing()) if self._supply else None
            for number, fetched in enumerate(batches):
                if isinstance(fetched, StreamganError):
                    raise (flow and flow.failure()) or fetched
                self._count(fetched)
                if flow:
                    flow.advance(number + 1)
                yield fetched.batch

    def _torch_loader(self) -> DataLoader[Any]:
        samples, workers = copy.copy(self._samples), self._workers  # two iterators may be open at once
        samples.ring = Ring(workers * PREFETCH + _HELD, samples.shapes(self._local_batch))
        return DataLoader(
            samples,
            batch_sampler=_placed(self._requests, samples.ring),  # type: ignore[arg-type]
            collate_fn=_as_it_is,
            num_workers=workers,
            worker_init_fn=begin,
            pin_memory=self._pin_memory,
            multiprocessing_context=Forked() if workers else None,
            prefetch_factor=PREFETCH if workers else None,
        )

    @property
    def stats(self) -> LoaderStats:
        """What the processes of this loader have done so far, batches under way included."""
        return self._samples.board.stats()

    def _count(self, fetched: Fetched) -> None:
        for line in fetched.replaced:
            self.replaced += 1
            say(f"bad sample {self.replaced} of at most {self._max_bad}: {line}", every_rank=True)
        if self.replaced > self._max_bad:
            what = f"{self.replaced} samples are damaged, more than data.max_bad={self._max_bad} allows"
            todo = "run `streamgan verify --full`, then restore or re-make the shards"
            raise DataError("loader", what, todo)


class _Plan:
    """Requests of one rank from `start` to `stop` (None: for ever)."""

    def __init__(self, order: Order | Mixture, local: slice, *, start: int, stop: int | None):
        self.order, self.local, self.start, self.stop = order, local, start, stop

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("an endless loader has no length")
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[Request]:
        step = self.start
        while self.stop is None or step < self.stop:
            epochs, ids = self.order.batch_ids(step)
            yield Request(np.broadcast_to(epochs, ids.shape)[self.local], ids[self.local])
            step += 1


def _placed(requests: "list[Request] | _Plan", ring: Ring) -> Iterator[Request]:
    """The requests, each with a slot for its images as long as there is one."""
    for request in requests:
        yield request._replace(slot=ring.take())


def _as_it_is(batch: Any) -> Any:
    return batch


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
    max_bad: int = MAX_BAD,
    pin_memory: bool = False,
    stall_s: float = STALL_S,
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
    check_options(
        batch=batch, size=size, workers=workers, seed=seed, rank=rank, world=world, start_step=start_step,
        epochs=epochs, lanes=lanes, window=window, reshuffle=reshuffle, gray=gray, max_samples=max_samples,
        stop_step=stop_step, on_bad=on_bad, max_bad=max_bad, stall_s=stall_s, cache_gb=cache_gb,
        node_ranks=node_ranks,
    )  # fmt: skip
    reader = _open(root, split, gray, cache, cache_gb)
    order = make_order(
        reader,
        seed=seed,
        batch=batch,
        lanes=lanes,
        window=window,
        reshuffle=reshuffle,
        max_samples=max_samples,
    )
    stops = [stop for stop in (stop_step, epochs and epochs * order.steps_per_epoch) if stop is not None]
    local, stop = rank_slice(batch, rank, world), min(stops, default=None)
    substitute_from = order.num_samples if on_bad == "substitute" else None
    return Loader(
        Samples(
            reader, size=size, seed=seed, gray=gray, board=Board(workers), substitute_from=substitute_from
        ),
        _Plan(order, local, start=start_step, stop=stop),
        local_batch=local.stop - local.start,
        steps_per_epoch=order.steps_per_epoch,
        num_samples=order.num_samples,
        workers=workers,
        pin_memory=pin_memory,
        stall_s=stall_s,
        max_bad=max_bad,
        supply=training_supply(
            reader, order, rank=rank, world=world, node_ranks=node_ranks, start=start_step, stop=stop
        ),
    )


def _open(root: Shards, split: str, gray: str | None, cache: str | Path | None, cache_gb: float) -> Reader:
    reader = open_reader(root, split, cache=cache, cache_gb=cache_gb)
    if gray == "twin" and not reader.has_gray:
        raise DataError(reader.root, "the set has no gray twins", "use data.gray=derive")
    return reader


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
    max_bad: int = MAX_BAD,
    pin_memory: bool = False,
    stall_s: float = STALL_S,
    cache: str | Path | None = DEFAULT_CACHE,
    cache_gb: float = DEFAULT_CACHE_GB,
) -> Loader:
    """The first `num_images` samples of a split (None: all), centre-cropped, once each over all ranks.

    `batch` is the local batch. Every rank gets the same number of full batches; the last are padded: with
    black images, and -1 in ids_B. Of several sets, the first images of each are taken in the ratio of the
    weights. `on_bad` and `max_bad` as in `build_loader`; the substitute is one of the split's.
    """
    check_options(
        batch=batch, size=size, workers=workers, rank=rank, world=world, num_images=num_images, gray=gray,
        on_bad=on_bad, max_bad=max_bad, stall_s=stall_s, cache_gb=cache_gb,
    )  # fmt: skip
    reader = _open(root, split, gray, cache, cache_gb)
    chosen = evaluation_ids(reader, num_images)
    steps = -(-len(chosen) // (batch * world))
    ids = np.full(steps * batch * world, -1, np.int64)
    ids[: len(chosen)] = chosen
    mine = ids.reshape(steps, world, batch)[:, rank]
    return Loader(
        Samples(
            reader,
            size=size,
            seed=0,
            gray=gray,
            board=Board(workers),
            substitute_from=len(reader) if on_bad == "substitute" else None,
        ),
        [Request(None, row) for row in mine],
        local_batch=batch,
        steps_per_epoch=steps,
        num_samples=len(chosen),
        workers=workers,
        pin_memory=pin_memory,
        stall_s=stall_s,
        max_bad=max_bad,
        supply=list_supply(reader, mine),
    )
