"""Operators that might be faster on a card than those of streamgan, each an arm of `step` until one tells.

A candidate computes the same up to rounding; tests/test_gpu_benchmark.py holds it to that. The one that wins
moves into streamgan/models, the one that does not goes.

Shape suffixes: B batch, C channels, H height, W width, P pixels (H * W), G groups, D channels per group.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from streamgan.models import channels_last, decoder, layers

_PLAIN_GROUP_NORM = channels_last.group_norm_nhwc


class PooledBlur(torch.autograd.Function):
    """`decoder.blur` as a pooling: one kernel for five forward, one and the borders for nine backward."""

    @staticmethod
    def forward(ctx: Any, image_BCHW: Tensor) -> Tensor:
        # at the border the mean of fewer pixels is that of the repeated ones
        return F.avg_pool2d(image_BCHW, 2, 1, 1, count_include_pad=False)[..., :-1, :-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> Tensor:  # type: ignore[override]
        made = F.avg_pool2d(grad_BCHW, 2, 1, 1)[..., 1:, 1:]
        # a border pixel counts twice along its side: what it has of its own row, then of its own column
        row, column = grad_BCHW[..., :1, :], grad_BCHW[..., :1]
        made[..., :1, :] += F.avg_pool2d(row, (1, 2), 1, (0, 1))[..., 1:] / 2
        made[..., :1] += F.avg_pool2d(column, (2, 1), 1, (1, 0))[..., 1:, :] / 2
        made[..., :1, :1] += grad_BCHW[..., :1, :1] / 4
        return made


def pooled_blur(image_BCHW: Tensor) -> Tensor:
    return PooledBlur.apply(image_BCHW)  # type: ignore[no-any-return]


class MixedGroupNorm(torch.autograd.Function):
    """`channels_last.group_norm_nhwc` that never writes a 16-bit map out as float32: kernels read it as such.

    The variance is E[x^2] - E[x]^2: of a 16-bit map, whose own rounding is larger than the error of that.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, groups: int, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> Tensor:
        x_BPGD = _pixels(x_BCHW, groups)
        count = x_BPGD.shape[1] * x_BPGD.shape[3]
        mean_BG1 = x_BPGD.sum((1, 3), dtype=torch.float32).unsqueeze(2) / count
        square_BG1 = torch.linalg.vector_norm(x_BPGD, dim=(1, 3), dtype=torch.float32).square().unsqueeze(2)
        rstd_BG1 = torch.rsqrt((square_BG1 / count - mean_BG1.square()).clamp(min=0) + eps)
        scale_BGD = rstd_BG1 * weight_C.unflatten(0, (groups, -1))
        shift_BGD = torch.addcmul(bias_C.unflatten(0, (groups, -1)), mean_BG1, scale_BGD, value=-1)
        ctx.save_for_backward(x_BCHW, mean_BG1, rstd_BG1, scale_BGD)
        made_BPGD = torch.empty_like(x_BPGD)
        torch.addcmul(shift_BGD[:, None], x_BPGD, scale_BGD[:, None], out=made_BPGD)
        return channels_last._image(made_BPGD, x_BCHW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BCHW, mean_BG1, rstd_BG1, scale_BGD = ctx.saved_tensors
        groups = mean_BG1.shape[1]
        grad_BCHW = grad_BCHW.contiguous(memory_format=torch.channels_last)
        x_BPGD, grad_BPGD = _pixels(x_BCHW, groups), _pixels(grad_BCHW, groups)
        sum_BGD = grad_BPGD.sum(1, dtype=torch.float32)
        zero = torch.zeros(1, 1, 1, 1, device=x_BCHW.device)  # float32, and with it the product
        dot_BGD = torch.addcmul(torch.addcmul(zero, grad_BPGD, x_BPGD).sum(1), mean_BG1, sum_BGD, value=-1)
        dot_BG1, sum_BG1 = (scale_BGD * torch.stack((dot_BGD, sum_BGD))).mean(3, keepdim=True)
        along_BG1 = rstd_BG1.square() * dot_BG1 / -x_BPGD.shape[1]
        shift_BG1 = torch.addcmul(sum_BG1 / -x_BPGD.shape[1], mean_BG1, along_BG1, value=-1)
        part_BPGD = torch.addcmul(shift_BG1[:, None], x_BPGD, along_BG1[:, None])
        made_BPGD = torch.empty_like(grad_BPGD)
        torch.addcmul(part_BPGD, grad_BPGD, scale_BGD[:, None], out=made_BPGD)
        weight_GD, bias_GD = (rstd_BG1 * dot_BGD).sum(0), sum_BGD.sum(0)
        return channels_last._image(made_BPGD, x_BCHW), None, weight_GD.flatten(), bias_GD.flatten(), None


def mixed_group_norm(x_BCHW: Tensor, groups: int, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
    if x_BCHW.dtype == torch.float32:
        return _PLAIN_GROUP_NORM(x_BCHW, groups, weight_C, bias_C, eps)
    return MixedGroupNorm.apply(x_BCHW, groups, weight_C, bias_C, eps)  # type: ignore[no-any-return]


def _pixels(x_BCHW: Tensor, groups: int) -> Tensor:
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (groups, -1))


class ConvRelu(torch.autograd.Function):
    """relu(conv(x)) with bias and ReLU in cuDNN's kernel, instead of two more over the map."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
        made = torch.cudnn_convolution_relu(x_BCHW, weight, bias, (1, 1), padding, (1, 1), 1)
        ctx.save_for_backward(x_BCHW, weight, made)
        ctx.padding = padding
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BCHW, weight, made = ctx.saved_tensors
        grad_BCHW = torch.ops.aten.threshold_backward(grad_BCHW, made, 0)
        x, w, b = torch.ops.aten.convolution_backward(
            grad_BCHW, x_BCHW, weight, [weight.shape[0]], (1, 1), ctx.padding, (1, 1), False, (0, 0), 1,
            [ctx.needs_input_grad[0], True, True],
        )  # fmt: skip
        return x, w, b, None


def _shuffle_up(self: decoder.ShuffleUp, x_BCHW: Tensor) -> Tensor:
    conv: nn.Conv2d = self.conv
    dtype = torch.get_autocast_dtype("cuda")
    given = [one.to(dtype) for one in (x_BCHW, conv.weight, conv.bias)]  # type: ignore[union-attr]
    x_BOHW = decoder.pixel_shuffle(ConvRelu.apply(*given, conv.padding), self.factor)
    return decoder.blur(x_BOHW) if self.factor == 2 else x_BOHW


PATCHES = {
    "pooled blur": [(decoder, "blur", pooled_blur)],
    "mixed group norm": [
        (layers, "group_norm_nhwc", mixed_group_norm),
        (channels_last, "group_norm_nhwc", mixed_group_norm),
    ],
    "fused conv and ReLU": [(decoder.ShuffleUp, "forward", _shuffle_up)],
}

ON_A_CARD_ALONE = {"fused conv and ReLU"}  # the operator is cuDNN's


@contextmanager
def candidate(name: str) -> Iterator[None]:
    with ExitStack() as patched:
        for owner, attribute, new in PATCHES[name]:
            patched.enter_context(patch.object(owner, attribute, new))
        yield
