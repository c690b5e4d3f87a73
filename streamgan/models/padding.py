"""Any image size for networks that halve it k times: reflect up to a multiple of 2^k, crop the result.

Shape suffixes: B batch, C channels, H height, W width.
torch's own reflect padding must be smaller than the image. Here the reflection goes back and forth as often
as needed, so an image of 5 x 7 reaches 64 x 64; a side of one pixel is repeated. The padding is all at the
bottom and the right: the crop is a plain slice.
"""

import torch
from torch import Tensor


def _reflected(size: int, multiple: int, device: torch.device) -> Tensor:
    """Indices 0 1 .. n-1 n-2 .. 1 0 1 .. of a side of n pixels, as many as the next multiple."""
    target = (size + multiple - 1) // multiple * multiple
    period = max(2 * size - 2, 1)
    step = torch.arange(target, device=device)
    step = step % torch.full_like(step, period)  # a tensor, since ONNX knows no symbol there
    return torch.where(step < size, step, period - step)


def reflect_to_multiple(image_BCHW: Tensor, multiple: int) -> Tensor:
    """The image, reflected at its lower and right border until both sides are multiples of `multiple`."""
    height, width = image_BCHW.shape[-2:]
    always = torch.compiler.is_exporting()  # no branch on a size that is a symbol
    if always or height % multiple:
        image_BCHW = image_BCHW.index_select(-2, _reflected(height, multiple, image_BCHW.device))
    if always or width % multiple:
        image_BCHW = image_BCHW.index_select(-1, _reflected(width, multiple, image_BCHW.device))
    return image_BCHW


def crop_like(image_BCHW: Tensor, reference_BCHW: Tensor) -> Tensor:
    """The upper left part of the image, of the height and width of the reference."""
    return image_BCHW[..., : reference_BCHW.shape[-2], : reference_BCHW.shape[-1]]
