"""Batches of uint8 crops in canonical order, for one rank.

The plan (`Order`) runs in the training process and hands each DataLoader worker whole requests: an epoch
and the ids of one local batch. Workers, prefetching, pinning and in-order delivery are PyTorch's. The
loader already knows its rank; `Accelerator.prepare` has nothing to do with it and leaves it as it is.

Shape suffixes: B local batch, H and W = size, 1/3 channels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from streamgan.core.errors import DataError, StreamganError

from .decode import CENTER, decode, sampled_crop
from .order import Order, Reshuffle, rank_slice
from .reader import ShardReader
from .workers import leave_signals_to_the_parent, read

GrayMode = Literal["derive", "twin"]
_LUMA = np.array(
    [19595, 38470, 7471], np.uint32
)  # BT.601 in 16-bit fixed point, as libjpeg and Pillow compute it


class Batch(NamedTuple):
    """One rank's part of a global batch; images are uint8 in [0, 255], stored channels-last.

    `gray_B1HW` is the gray image (None where the loader was built with gray=None), `color_B3HW` sRGB,
    `ids_B` the samples' ids (int64, positions in the split; -1 marks padding, in evaluation only).
    """

    gray_B1HW: Tensor | None
    color_B3HW: Tensor
    ids_B: Tensor


class Request(NamedTuple):
    """What a worker is asked for: ids of one local batch; epoch None means centre crops."""

    epoch: int | None
    ids: np.ndarray


class _Samples(Dataset):
    """Map-style dataset whose index is a whole Request; runs in the workers."""

    def __init__(self, reader: ShardReader, *, size: int, seed: int, gray: GrayMode | None):
        self.reader, self.size, self.seed, self.gray = reader, size, seed, gray

    def __getitems__(self, request: Request) -> Batch | StreamganError:
        try:
            return self._batch(request)
        except StreamganError as error:  # an exception would reach the trainer as a page of traceback
            return error

    def _batch(self, request: Request) -> Batch:
        count, size = len(request.ids), self.size
        color_BHW3 = np.empty((count, size, size, 3), np.uint8)
        gray_BHW1 = np.empty((count, size, size, 1), np.uint8) if self.gray else None
        for row, sample_id in enumerate(request.ids.tolist()):
            index = max(sample_id, 0)  # padding decodes any sample; its id tells
            crop = CENTER if request.epoch is None else sampled_crop(self.seed, request.epoch, index)
            encoded = self.reader.read(index, gray=self.gray == "twin")
            try:
                color_BHW3[row] = decode(encoded.color, "RGB", size=size, crop=crop)
                if gray_BHW1 is not None and encoded.gray is not None:
                    gray_BHW1[row] = decode(encoded.gray, "L", size=size, crop=crop)
            except ValueError as error:
                raise DataError(
                    self.reader.where(index), str(error), "run `streamgan verify --full`"
                ) from error
        if gray_BHW1 is not None and self.gray == "derive":
            gray_BHW1[..., 0] = (color_BHW3 @ _LUMA + 32768) >> 16
        color_B3HW = torch.from_numpy(color_BHW3).permute(0, 3, 1, 2)
        gray_B1HW = None if gray_BHW1 is None else torch.from_numpy(gray_BHW1).permute(0, 3, 1, 2)
        return Batch(gray_B1HW, color_B3HW, torch.from_numpy(request.ids))


class Loader:
    """An iterable of Batch. Iterating again starts again at the same place.

    `steps_per_epoch`, `num_samples` and `digest` (of the shard set) describe what is read.
    """

    def __init__(
        self,
        samples: _Samples,
        requests: "list[Request] | _Plan",
        *,
        steps_per_epoch: int,
        num_samples: int,
        workers: int,
        pin_memory: bool,
        timeout_s: float,
    ):
        self.steps_per_epoch, self.num_samples = steps_per_epoch, num_samples
        self.digest = samples.reader.manifest.digest
        self._requests = requests
        self._loader = DataLoader(
            samples,
            batch_sampler=requests,  # type: ignore[arg-type]
            collate_fn=_as_it_is,
            num_workers=workers,
            worker_init_fn=leave_signals_to_the_parent,
            pin_memory=pin_memory,
            timeout=timeout_s if workers else 0,
            # Forked workers share the index's pages and start in milliseconds; they never touch CUDA.
            multiprocessing_context="fork" if workers else None,
            prefetch_factor=4 if workers else None,
        )

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Batch]:
        for batch in read(self._loader):
            if isinstance(batch, StreamganError):
                raise batch
            yield batch


class _Plan:
    """Requests of one rank from `start` to `stop` (None: for ever)."""

    def __init__(self, order: Order, local: slice, *, start: int, stop: int | None):
        self.order, self.local, self.start, self.stop = order, local, start, stop

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("an endless loader has no length")
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[Request]:
        step = self.start
        while self.stop is None or step < self.stop:
            epoch, ids = self.order.batch_ids(step)
            yield Request(epoch, ids[self.local])
            step += 1


def _as_it_is(batch: Any) -> Any:
    return batch


def build_loader(
    root: Path | str,
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
    pin_memory: bool = False,
    timeout_s: float = 120.0,
) -> Loader:
    """Training batches of a shard set in canonical order, the part that `rank` of `world` gets.

    Yields `Batch(gray_B1HW, color_B3HW, ids_B)`: uint8 images in [0, 255] of size x size pixels and int64
    ids, with B = batch / world. The short side of a photo is resized to `size`; place of the crop and
    mirroring depend on (seed, epoch, id) alone. The concatenation over ranks is the same for every `world`
    that divides `batch` and for any number of workers; `start_step` continues a run exactly where it was,
    in milliseconds.

    `gray`: "derive" computes JPEG luma from the colour crop, "twin" reads the set's own gray image, None
    skips it. Ends after `epochs` passes or before step `stop_step`, both counted from step 0; endless with
    neither.

    Raises ConfigError (sizes that cannot be shared, too few samples) and, while iterating, DataError naming
    the shard and key of damaged data.
    """
    reader = ShardReader(root, split)
    if gray == "twin" and not reader.has_gray:
        raise DataError(reader.root, "the set has no gray twins", "use data.gray=derive")
    order = Order(
        _first(reader.shard_sizes, max_samples),
        seed=seed,
        batch=batch,
        lanes=lanes,
        window=window,
        reshuffle=reshuffle,
    )
    stops = [stop for stop in (stop_step, epochs and epochs * order.steps_per_epoch) if stop is not None]
    return Loader(
        _Samples(reader, size=size, seed=seed, gray=gray),
        _Plan(order, rank_slice(batch, rank, world), start=start_step, stop=min(stops, default=None)),
        steps_per_epoch=order.steps_per_epoch,
        num_samples=order.num_samples,
        workers=workers,
        pin_memory=pin_memory,
        timeout_s=timeout_s,
    )


def build_eval_loader(
    root: Path | str,
    split: str,
    *,
    batch: int,
    size: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    num_images: int | None = None,
    gray: GrayMode | None = None,
    pin_memory: bool = False,
    timeout_s: float = 120.0,
) -> Loader:
    """The first `num_images` samples of a split (None: all), centre-cropped, once each over all ranks.

    `batch` is the local batch. Every rank gets the same number of full batches; the last are padded, and
    ids_B is -1 there.
    """
    reader = ShardReader(root, split)
    if gray == "twin" and not reader.has_gray:
        raise DataError(reader.root, "the set has no gray twins", "use data.gray=derive")
    count = min(num_images or len(reader), len(reader))
    steps = -(-count // (batch * world))
    ids = np.full(steps * batch * world, -1, np.int64)
    ids[:count] = np.arange(count)
    mine = ids.reshape(steps, world, batch)[:, rank]
    return Loader(
        _Samples(reader, size=size, seed=0, gray=gray),
        [Request(None, row) for row in mine],
        steps_per_epoch=steps,
        num_samples=count,
        workers=workers,
        pin_memory=pin_memory,
        timeout_s=timeout_s,
    )


def _first(shard_sizes: list[int], max_samples: int | None) -> list[int]:
    """Sizes of the shards that hold the first `max_samples` samples, the last one cut."""
    if max_samples is None:
        return shard_sizes
    ends = np.minimum(np.cumsum(shard_sizes), max_samples)
    return np.diff(ends, prepend=0).tolist()
