"""From a request to a batch: the work of a loader's process.

Shape suffixes: B local batch, H and W = size, 1/3 channels.
"""

import math
from time import perf_counter_ns
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from streamgan.core.errors import DataError, StreamganError
from streamgan.core.seeding import hash64

from .board import Board, Meter
from .decode import CENTER, Crop, decode, luma, sampled_crops
from .mixture import Reader

GrayMode = Literal["derive", "twin"]
_SUBSTITUTE = 7  # hash key of what stands in for a bad sample
_ATTEMPTS = 10


class Batch(NamedTuple):
    """One rank's part of a global batch; images are uint8 in [0, 255], stored channels-last.

    `gray_B1HW` is the gray image (None where the loader was built with gray=None), `color_B3HW` sRGB,
    `ids_B` the samples' ids (int64, positions in the split; -1 marks padding, in evaluation only).
    """

    gray_B1HW: Tensor | None
    color_B3HW: Tensor
    ids_B: Tensor


class Request(NamedTuple):
    """What a process is asked for: ids of one local batch, and the epoch of each; None means centre crops."""

    epochs: np.ndarray | None
    ids: np.ndarray


class Fetched(NamedTuple):
    """A batch, and a line for each bad sample that another one stands in for."""

    batch: Batch
    replaced: list[str]


def _empty(count: int, size: int, channels: int) -> Tensor:
    """Room for images, uint8 (B, H, W, C); in a worker in shared memory, where PyTorch would copy it to."""
    shape = (count, size, size, channels)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    shared = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(shared).view(shape)


class Samples(Dataset):
    """Map-style dataset whose index is a whole Request.

    `substitute_from` is the number of samples out of which one is drawn for each that is damaged; None: a
    damaged sample is an error.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        size: int,
        seed: int,
        gray: GrayMode | None,
        board: Board,
        substitute_from: int | None = None,
    ):
        self.reader, self.size, self.seed, self.gray, self.board = reader, size, seed, gray, board
        self.substitute_from = substitute_from

    def __getitems__(self, request: Request) -> Fetched | StreamganError:
        meter = self.board.meter()
        self.reader.while_waiting(meter.beat)
        try:
            return self._batch(request, meter)
        except StreamganError as error:  # an exception would reach the trainer as a page of traceback
            return error
        finally:
            self.reader.release()
            meter.idle()

    def _batch(self, request: Request, meter: Meter) -> Fetched:
        count, size = len(request.ids), self.size
        color_BHW3, gray_BHW1 = _empty(count, size, 3), _empty(count, size, 1) if self.gray else None
        ids, replaced = request.ids.copy(), []
        crops = self._crops(request.epochs, ids)
        for row, sample_id in enumerate(ids.tolist()):
            out = color_BHW3[row].numpy(), None if gray_BHW1 is None else gray_BHW1[row].numpy()
            try:
                self._fill(*out, max(sample_id, 0), crops[row], meter)  # padding decodes any; its id tells
            except DataError as error:
                if self.substitute_from is None:
                    raise
                ids[row] = self._substitute(*out, sample_id, request, row, meter)
                replaced.append(f"{error.where}: {error.what}; sample {ids[row]} stands in for {sample_id}")
        gray_B1HW = None if gray_BHW1 is None else gray_BHW1.permute(0, 3, 1, 2)
        return Fetched(Batch(gray_B1HW, color_BHW3.permute(0, 3, 1, 2), torch.from_numpy(ids)), replaced)

    def _crops(self, epochs: np.ndarray | None, ids: np.ndarray) -> list[Crop]:
        return [CENTER] * len(ids) if epochs is None else sampled_crops(self.seed, epochs, ids)

    def _fill(
        self, color_HW3: np.ndarray, gray_HW1: np.ndarray | None, sample_id: int, crop: Crop, meter: Meter
    ) -> None:
        """Write the crop of a sample into the places given."""
        meter.begin(sample_id)
        began, missed = perf_counter_ns(), self._num_missed()
        encoded = self.reader.read(sample_id, gray=self.gray == "twin")
        read = perf_counter_ns()
        color_HW3[:] = self._decode(encoded.color, "RGB", crop, sample_id)
        if gray_HW1 is not None:
            if encoded.gray is None:
                gray_HW1[..., 0] = luma(color_HW3)
            else:
                gray_HW1[:] = self._decode(encoded.gray, "L", crop, sample_id)
        size = len(encoded.color) + len(encoded.gray or b"")
        hit = self._num_missed() == missed
        meter.done(size, read - began, perf_counter_ns() - read, hit=hit)

    def _num_missed(self) -> int:
        """Grows when bytes had to be waited for."""
        return sum(files.num_missed for files in self.reader.all_files)

    def _decode(self, data: bytes, mode: Literal["RGB", "L"], crop: Crop, sample_id: int) -> np.ndarray:
        try:
            return decode(data, mode, size=self.size, crop=crop)
        except ValueError as error:
            where = self.reader.where(sample_id)
            raise DataError(where, str(error), "run `streamgan verify --full`") from error

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
        assert self.substitute_from is not None
        assert request.epochs is not None
        epochs, attempt = request.epochs[row : row + 1], 0
        while True:
            drawn = hash64(self.seed, _SUBSTITUTE, epochs, sample_id, attempt)
            other = drawn % np.uint64(self.substitute_from)
            try:
                self._fill(color_HW3, gray_HW1, int(other[0]), self._crops(epochs, other)[0], meter)
                return int(other[0])
            except DataError:
                attempt += 1
                if attempt == _ATTEMPTS:
                    raise
