"""Batches on their way to the device, beside the work that it has.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-streams
"""

import torch

from streamgan.data.workers.batch import Batch


class Upload:
    """Moves batches to `device`. On CUDA a stream of their own copies them, if they are pinned.

    The host asks for a step long before the card is done with the one before it, so a batch arrives during
    that step; what is asked for after the call waits for its batch.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        if self._stream is None:
            return batch.to(self._device)
        with torch.cuda.stream(self._stream):
            moved = batch.to(self._device)
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._stream)
        for images in (moved.gray_B1HW, moved.color_B3HW):
            if images is not None:
                images.record_stream(now)  # its memory is not for the next batch before this stream is done
        return moved
