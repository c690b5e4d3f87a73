"""From a request to a batch: the work of a loader's process.

Shape suffixes: B local batch, H and W = size, 1/3 channels.
"""

import traceback
from collections.abc import Callable
from operator import attrgetter
from time import perf_counter_ns
from typing import Any, Literal

import numpy as np

from streamgan.core.counters import Counters
from streamgan.core.errors import DataError, StreamganError
from streamgan.core.seeding import hash64
from streamgan.core.storage import retry
from streamgan.data.plan import Request
from streamgan.data.reading import Reading
from streamgan.data.shards.joint import Reader
from streamgan.data.shards.reader import unplanned

from .batch import Parcel
from .batch_memory import Ring
from .counters import Board, Meter
from .decode import CENTER, Crop, decode, sampled_crops, write_luma

_SUBSTITUTE = 7  # hash key of what stands in for a bad sample
_ATTEMPTS = 10
_NUM_MISSED = attrgetter("num_missed")


class Defect(RuntimeError):
    """An error in a worker that is none of a user."""

    @classmethod
    def here(cls, worker: int) -> "Defect":
        """The one that is being handled, with its traceback."""
        return cls(f"in loader process {worker}:\n{traceback.format_exc()}")


def begin(retries: Counters, worker: int) -> None:
    """For the start of a worker: requests that it makes again count in the training process."""
    retry.share(retries)


def as_it_is(batch: Any) -> Any:
    """In place of PyTorch's collation."""
    return batch


class Work:
    """What a loader's process does: fulfil requests until it hears None, or the training process is gone.

    In place of PyTorch's own loop, whose import alone takes a process longer than its first batches.
    """

    def __init__(self, samples: "Samples", start: Callable[[int], None]):
        self._samples, self._start = samples, start

    def __call__(self, worker: int, requests: Any, results: Any) -> None:
        self._samples.row, defect = worker, None
        try:
            self._start(worker)
        except Exception:
            defect = Defect.here(worker)
        while (message := requests.take()) is not None:
            number, request = message
            results.put((number, defect or self._answer(worker, request)))

    def _answer(self, worker: int, request: Request) -> "Parcel | Exception":
        try:
            return self._samples.__getitems__(request)
        except Exception:  # for the training process to raise
            return Defect.here(worker)


class Samples:
    """Map-style dataset whose index is a whole Request; `row` is the worker's number, 0 if there is none.

    Where damaged samples are replaced, others are drawn from the first `substitute_from`.
    """

    def __init__(self, reader: Reader, reading: Reading, *, seed: int, substitute_from: int):
        self.reader, self.seed, self.substitute_from = reader, seed, substitute_from
        self.size, self.gray, self.on_bad = reading.size, reading.gray, reading.on_bad
        self.board = Board(reading.workers)
        self._files = reader.all_files
        self.ring: Ring | None = None
        self.row = 0

    def shapes(self, count: int) -> list[tuple[int, int, int, int]]:
        """Of the images of a batch of `count`: colour and, where it is wanted, gray."""
        return [(count, self.size, self.size, channels) for channels in ((3, 1) if self.gray else (3,))]

    def __getitems__(self, request: Request) -> "Parcel | StreamganError":
        meter = self.board.meter(self.row)
        self.reader.while_waiting(meter.heartbeat)
        try:
            return self._batch(request, meter)
        except StreamganError as error:  # an exception would reach the trainer as a page of traceback
            return error
        finally:
            self.reader.release()
            meter.idle()

    def _batch(self, request: Request, meter: Meter) -> Parcel:
        ring, slot = self.ring, request.slot
        if ring is None or slot is None:
            images = [np.empty(shape, np.uint8) for shape in self.shapes(len(request.ids))]
            return Parcel(images, *self._write(images, request, meter))
        return Parcel((ring.number, slot), *self._write(ring.images(slot), request, meter))

    def _write(
        self, images: list[np.ndarray], request: Request, meter: Meter
    ) -> tuple[np.ndarray, list[str]]:
        """Fill in the images of a batch; the ids they are of, and what was replaced."""
        color_BHW3, gray_BHW1 = images[0], images[-1]
        twin = self.gray == "twin"
        ids, replaced = request.ids.copy(), []
        crops = self._crops(request.epochs, ids)
        self.reader.expect(ids[ids >= 0], gray=twin)
        for row, sample_id in enumerate(ids.tolist()):
            out = color_BHW3[row], gray_BHW1[row] if twin else None
            if sample_id < 0:  # padding
                for image in out:
                    if image is not None:
                        image[:] = 0
                continue
            try:
                self._fill(*out, sample_id, crops[row], meter)
            except DataError as error:
                if self.on_bad == "raise":
                    raise
                ids[row] = self._substitute(*out, sample_id, request, row, meter)
                replaced.append(f"{error.where}: {error.what}; sample {ids[row]} stands in for {sample_id}")
        if self.gray == "derive":
            began = perf_counter_ns()
            write_luma(color_BHW3, gray_BHW1)
            meter.decoded(perf_counter_ns() - began)
        return ids, replaced

    def _crops(self, epochs: np.ndarray | None, ids: np.ndarray) -> list[Crop]:
        return [CENTER] * len(ids) if epochs is None else sampled_crops(self.seed, epochs, ids)

    def _fill(
        self, color_HW3: np.ndarray, gray_HW1: np.ndarray | None, sample_id: int, crop: Crop, meter: Meter
    ) -> None:
        """Write the crop of a sample, and of its gray twin, into the places given."""
        meter.begin(sample_id)
        began, missed = perf_counter_ns(), self._num_missed()
        encoded = self.reader.read(sample_id, gray=gray_HW1 is not None)
        read = perf_counter_ns()
        self._decode(encoded.color, "RGB", crop, sample_id, color_HW3)
        if gray_HW1 is not None and encoded.gray is not None:
            self._decode(encoded.gray, "L", crop, sample_id, gray_HW1)
        size = len(encoded.color) + len(encoded.gray or b"")
        hit = self._num_missed() == missed
        meter.done(size, read - began, perf_counter_ns() - read, hit=hit)

    def _num_missed(self) -> int:
        """Grows when bytes had to be waited for."""
        return sum(map(_NUM_MISSED, self._files))

    def _decode(
        self, data: bytes, mode: Literal["RGB", "L"], crop: Crop, sample_id: int, out: np.ndarray
    ) -> None:
        try:
            decode(data, mode, size=self.size, crop=crop, out=out)
        except ValueError as error:
            where = self.reader.where(sample_id)
            todo = "run `streamgan verify --full`, or set data.on_bad=substitute"
            raise DataError(where, f"does not decode ({error})", todo) from error

    def _substitute(
        self,
        color_HW3: np.ndarray,
        gray_HW1: np.ndarray | None,
        sample_id: int,
        request: Request,
        row: int,
        meter: Meter,
    ) -> int:
        """Fill in another sample, a function of the seed, the epoch and the damaged one; its id."""
        epochs = None if request.epochs is None else request.epochs[row : row + 1]
        epoch, attempt = np.zeros(1, np.int64) if epochs is None else epochs, 0
        while True:
            drawn = hash64(self.seed, _SUBSTITUTE, epoch, sample_id, attempt)
            other = drawn % np.uint64(self.substitute_from)
            try:
                with unplanned(self.reader.all_files):
                    self._fill(color_HW3, gray_HW1, int(other[0]), self._crops(epochs, other)[0], meter)
                return int(other[0])
            except DataError:
                attempt += 1
                if attempt == _ATTEMPTS:
                    raise
