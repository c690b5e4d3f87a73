"""Operators that keep a map in channels-last order on a GPU, where PyTorch's own return to NCHW.

Tensor cores want channels last. Between two convolutions one operator of the other order costs transpositions
there and back, forward and backward: on an H200 a third of the time of a step of `resnet34_unet`. On CPUs
PyTorch's operators keep the order, under `torch.compile` its compiler does.

Group norm: Wu and He 2018, https://arxiv.org/abs/1803.08494. CUDA's kernels of group and instance norm take
and make NCHW alone: https://github.com/pytorch/pytorch/issues/111824.

Shape suffixes: B batch, C channels, H height, W width, P pixels (H * W), G groups, D channels per group.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def leaves_channels_last(x_BCHW: Tensor) -> bool:
    """Whether PyTorch's operators would take a map out of channels-last order, the one that it has."""
    if x_BCHW.device.type == "cpu" or torch.compiler.is_compiling():
        return False
    return x_BCHW.is_contiguous(memory_format=torch.channels_last) and not x_BCHW.is_contiguous()


def pixel_shuffle(x_BCHW: Tensor, factor: int) -> Tensor:
    """`F.pixel_shuffle`, (B, C factor^2, H, W) -> (B, C, factor H, factor W)."""
    if not leaves_channels_last(x_BCHW):
        return F.pixel_shuffle(x_BCHW, factor)
    return shuffle_nhwc(x_BCHW, factor)


def shuffle_nhwc(x_BCHW: Tensor, factor: int) -> Tensor:
    """`F.pixel_shuffle` of a map in channels-last order."""
    x_BHWCij = x_BCHW.permute(0, 2, 3, 1).unflatten(-1, (-1, factor, factor))
    return x_BHWCij.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def concat(x_BCHW: Tensor, *others_BCHW: Tensor) -> Tensor:
    """The channels of several maps, in the order in memory of the first."""
    if leaves_channels_last(x_BCHW):
        # PyTorch takes a map with a single channel for NCHW.
        others_BCHW = tuple(
            one.reshape(len(one), *one.shape[2:], 1).permute(0, 3, 1, 2) if one.shape[1] == 1 else one
            for one in others_BCHW
        )
    return torch.cat((x_BCHW, *others_BCHW), 1)


def conv_of_joined(conv: nn.Conv2d, x_BCHW: Tensor, *others_BCHW: Tensor) -> Tensor:
    """`conv` of the channels of several maps."""
    missing = channels_missing(conv, x_BCHW)
    if not missing:
        return conv(concat(x_BCHW, *others_BCHW))  # type: ignore[no-any-return]
    # In the dtype of the convolution: of several, torch.cat makes the widest.
    dtype = torch.get_autocast_dtype(x_BCHW.device.type)
    maps_BCHW = [one.to(dtype) for one in (x_BCHW, *others_BCHW)]
    zeros = x_BCHW.new_zeros(len(x_BCHW), *x_BCHW.shape[2:], missing, dtype=dtype).permute(0, 3, 1, 2)
    weight = F.pad(conv.weight, (0, 0, 0, 0, 0, missing))
    return F.conv2d(concat(*maps_BCHW, zeros), weight, conv.bias, conv.stride, conv.padding)


def channels_missing(conv: nn.Conv2d, x_BCHW: Tensor) -> int:
    """How many channels of zeros a map is given, which change no value, to be fast.

    Tensor cores take 16-bit channels by the eight. Where they are more or fewer, cuDNN fills the map up for
    each pass anew, and takes slower kernels: with 65 channels at 256 pixels a tenth of a step of
    `resnet34_unet` on an H200.
    """
    if x_BCHW.is_cuda and torch.is_autocast_enabled("cuda"):
        return -conv.in_channels % 8
    return 0


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`; of a GPU's map in channels-last order it gives one of the same order and dtype."""

    def forward(self, input: Tensor) -> Tensor:
        if not leaves_channels_last(input):
            return super().forward(input)
        return group_norm_nhwc(input, self.num_groups, self.weight, self.bias, self.eps)


def group_norm_nhwc(x_BCHW: Tensor, groups: int, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
    """`F.group_norm` of a map in channels-last order, in float32 or wider within; no second derivative."""
    return _GroupNorm.apply(x_BCHW, groups, weight_C, bias_C, eps)  # type: ignore[no-any-return]


class _GroupNorm(torch.autograd.Function):
    """Moments of every channel, read as it lies, then of the groups; one multiplication and addition."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, groups: int, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> Tensor:
        x_BPGD = _pixels(x_BCHW, groups)
        var_BGD, mean_BGD = torch.var_mean(x_BPGD, 1, correction=0)
        between_BG1, mean_BG1 = torch.var_mean(mean_BGD, 2, correction=0, keepdim=True)
        rstd_BG1 = torch.rsqrt(var_BGD.mean(2, keepdim=True) + between_BG1 + eps)
        scale_BGD = rstd_BG1 * weight_C.unflatten(0, (groups, -1))
        shift_BGD = torch.addcmul(bias_C.unflatten(0, (groups, -1)), mean_BG1, scale_BGD, value=-1)
        ctx.save_for_backward(x_BCHW, mean_BG1, rstd_BG1, scale_BGD)
        return _image(torch.addcmul(shift_BGD[:, None], x_BPGD, scale_BGD[:, None]), x_BCHW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BCHW, mean_BG1, rstd_BG1, scale_BGD = ctx.saved_tensors
        groups = mean_BG1.shape[1]
        x_BPGD, grad_BPGD = _pixels(x_BCHW, groups), _pixels(grad_BCHW, groups)
        sum_BGD = grad_BPGD.sum(1)
        dot_BGD = torch.addcmul((grad_BPGD * x_BPGD).sum(1), mean_BG1, sum_BGD, value=-1)  # with x - mean
        dot_BG1, sum_BG1 = (scale_BGD * torch.stack((dot_BGD, sum_BGD))).mean(3, keepdim=True)
        along_BG1 = rstd_BG1.square() * dot_BG1 / -x_BPGD.shape[1]
        shift_BG1 = torch.addcmul(sum_BG1 / -x_BPGD.shape[1], mean_BG1, along_BG1, value=-1)
        made_BPGD = torch.addcmul(shift_BG1[:, None], x_BPGD, along_BG1[:, None])
        made_BPGD.addcmul_(grad_BPGD, scale_BGD[:, None])
        weight_GD, bias_GD = (rstd_BG1 * dot_BGD).sum(0), sum_BGD.sum(0)
        return _image(made_BPGD, x_BCHW), None, weight_GD.flatten(), bias_GD.flatten(), None


def _pixels(x_BCHW: Tensor, groups: int) -> Tensor:
    """(B, P, G, D), float32 or wider."""
    x_BCHW = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32), memory_format=torch.channels_last)
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (groups, -1))


def _image(x_BPGD: Tensor, like_BCHW: Tensor) -> Tensor:
    return x_BPGD.to(like_BCHW.dtype).flatten(2).unflatten(1, like_BCHW.shape[2:]).permute(0, 3, 1, 2)
