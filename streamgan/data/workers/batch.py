"""A batch, and how it comes from a worker, which does without PyTorch: importing that takes too long."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .batch_memory import hand_over

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Batch(NamedTuple):
    """One rank's part of a global batch; images are uint8 in [0, 255], stored channels-last.

    `gray_B1HW` is the gray image (None where the loader was built with gray=None), `color_B3HW` sRGB,
    `ids_B` the samples' ids (int64, positions in the split; -1 marks padding, in evaluation only).
    """

    gray_B1HW: "Tensor | None"
    color_B3HW: "Tensor"
    ids_B: "Tensor"

    def to(self, device: "torch.device") -> "Batch":
        """Its images on `device`, without waiting if they are pinned; the ids stay."""
        gray = None if self.gray_B1HW is None else self.gray_B1HW.to(device, non_blocking=True)
        return Batch(gray, self.color_B3HW.to(device, non_blocking=True), self.ids_B)


class Fetched(NamedTuple):
    """A batch, and a line for each bad sample that another one stands in for."""

    batch: Batch
    replaced: list[str]


class Parcel:
    """A batch on its way to the training process: ids, and a line for each sample that was replaced.

    Its images are in a slot of a ring, told as (number of the ring, slot), or come along.
    """

    def __init__(self, images: tuple[int, int] | list[np.ndarray], ids: np.ndarray, replaced: list[str]):
        self._images, self._ids, self._replaced = images, ids, replaced

    def unpack(self) -> Fetched:
        """The batch, in the process that made the ring; the slot is free when all its images are gone."""
        from torch import from_numpy

        images = hand_over(*self._images) if isinstance(self._images, tuple) else self._images
        color_B3HW, *gray_B1HW = (from_numpy(image).permute(0, 3, 1, 2) for image in images)
        gray = gray_B1HW[0] if gray_B1HW else None
        return Fetched(Batch(gray, color_B3HW, from_numpy(self._ids)), self._replaced)

    def pin_memory(self) -> Fetched:
        """The batch in memory that a GPU copies from by itself; what PyTorch's own thread asks for."""
        (gray, color, ids), replaced = self.unpack()
        return Fetched(Batch(None if gray is None else gray.pin_memory(), color.pin_memory(), ids), replaced)
