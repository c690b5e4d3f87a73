"""The decoder that the VGG and ResNet U-Nets share: sub-pixel upsampling, skip connection, one convolution.

U-Net: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597. Sub-pixel convolution: Shi et al. 2016,
https://arxiv.org/abs/1609.05158, started as nearest-neighbour upsampling (ICNR): Aitken et al. 2017,
https://arxiv.org/abs/1707.02937. Blur against checkerboards: Sugawara et al. 2018,
https://arxiv.org/abs/1806.02658. Attention: Zhang et al. 2018, https://arxiv.org/abs/1805.08318.

Shape suffixes: B batch, C channels, D skip channels, O output channels, H height, W width, N = H * W tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from .channels_last import concat, conv_of_joined, pixel_shuffle
from .layers import Norm, normalization


def icnr_(weight: Tensor, factor: int) -> None:
    """Fill the kernel of a convolution before PixelShuffle so that all sub-pixels start equal, in place."""
    small = torch.empty_like(weight[:: factor**2])
    nn.init.kaiming_normal_(small)
    with torch.no_grad():
        weight.copy_(small.repeat_interleave(factor**2, 0))


def blur(image_BCHW: Tensor) -> Tensor:
    """The mean of each pixel with its left, upper and upper left neighbour; size kept, border repeated.

    It removes the pattern of period two that PixelShuffle 2 can leave.
    """
    if image_BCHW.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Blur.apply(image_BCHW)  # type: ignore[no-any-return]
    rows = (image_BCHW + torch.cat((image_BCHW[..., :1, :], image_BCHW[..., :-1, :]), -2)) / 2
    return (rows + torch.cat((rows[..., :1], rows[..., :-1]), -1)) / 2


class _Blur(torch.autograd.Function):
    """The same to the last bit, and its gradient, without the copies that autograd makes of every slice."""

    @staticmethod
    def forward(ctx: Any, image_BCHW: Tensor) -> Tensor:
        for dim in (-2, -1):
            inner, summed = image_BCHW.shape[dim] - 1, torch.empty_like(image_BCHW)
            here, before = image_BCHW.narrow(dim, 1, inner), image_BCHW.narrow(dim, 0, inner)
            torch.add(here, before, out=summed.narrow(dim, 1, inner))
            border = image_BCHW.narrow(dim, 0, 1)
            torch.add(border, border, out=summed.narrow(dim, 0, 1))
            image_BCHW = summed
        return image_BCHW.mul_(0.25)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> Tensor:  # type: ignore[override]
        for dim in (-1, -2):
            inner, summed = grad_BCHW.shape[dim] - 1, torch.empty_like(grad_BCHW)
            here, behind = grad_BCHW.narrow(dim, 0, inner), grad_BCHW.narrow(dim, 1, inner)
            torch.add(here, behind, out=summed.narrow(dim, 0, inner))
            summed.narrow(dim, inner, 1).copy_(grad_BCHW.narrow(dim, inner, 1))
            summed.narrow(dim, 0, 1).add_(grad_BCHW.narrow(dim, 0, 1))
            grad_BCHW = summed
        return grad_BCHW.mul_(0.25)


class ShuffleUp(nn.Module):
    """(B, C, H, W) -> (B, O, factor H, factor W): conv1x1, ReLU, PixelShuffle and, for factor 2, blur."""

    def __init__(self, num_in: int, num_out: int, *, factor: int = 2):
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(num_in, num_out * factor**2, 1)
        icnr_(self.conv.weight, factor)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BOHW = pixel_shuffle(F.relu(self.conv(x_BCHW)), self.factor)
        return blur(x_BOHW) if self.factor == 2 else x_BOHW


class UpBlock(nn.Module):
    """(B, C, H, W), skip (B, D, 2H, 2W) -> (B, O, 2H, 2W): up, concat, conv3x3, norm, ReLU."""

    def __init__(self, num_in: int, num_skip: int, num_out: int, *, norm: Norm):
        super().__init__()
        self.up = ShuffleUp(num_in, num_out)
        self.conv = nn.Conv2d(num_out + num_skip, num_out, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = normalization(norm, num_out)

    def forward(self, x_BCHW: Tensor, skip_BDHW: Tensor) -> Tensor:
        return F.relu(self.norm(conv_of_joined(self.conv, self.up(x_BCHW), skip_BDHW)))


class SpectralShuffleUp(nn.Module):
    """(B, C, H, W) -> (B, O, factor H, factor W): spectral conv1x1, norm, ReLU, PixelShuffle, blur."""

    def __init__(self, num_in: int, num_out: int, *, norm: Norm, factor: int = 2, blurred: bool = True):
        super().__init__()
        self.factor, self.blurred = factor, blurred
        conv = nn.Conv2d(num_in, num_out * factor**2, 1, bias=norm == "none")
        icnr_(conv.weight, 2)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        self.conv = spectral_norm(conv)
        self.norm = normalization(norm, num_out * factor**2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BOHW = pixel_shuffle(F.relu(self.norm(self.conv(x_BCHW))), self.factor)
        return blur(x_BOHW) if self.blurred else x_BOHW


class SpectralUpBlock(nn.Module):
    """(B, C, H, W), skip (B, D, 2H, 2W) -> (B, O, 2H, 2W): the `UpBlock` of DDColor's authors.

    Up, concat the normalised skip, ReLU, conv3x3 with spectral norm, ReLU, norm.
    """

    def __init__(self, num_in: int, num_skip: int, num_out: int, *, norm: Norm):
        super().__init__()
        self.up = SpectralShuffleUp(num_in, num_out, norm=norm)
        self.skip_norm = normalization(norm, num_skip)
        conv = nn.Conv2d(num_out + num_skip, num_out, 3, padding=1, bias=norm == "none")
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        self.conv = spectral_norm(conv)
        self.norm = normalization(norm, num_out)

    def forward(self, x_BCHW: Tensor, skip_BDHW: Tensor) -> Tensor:
        joined = F.relu(concat(self.up(x_BCHW), self.skip_norm(skip_BDHW)))
        return self.norm(F.relu(self.conv(joined)))


def up_blocks(
    num_in: int,
    skips: Sequence[int],
    widths: Sequence[int],
    *,
    norm: Norm,
    block: type[UpBlock] | type[SpectralUpBlock] = UpBlock,
) -> nn.ModuleList:
    """A block for each skip, the smallest first.

    `skips`: channels from the largest map to the smallest, as an encoder gives them; `widths`: of the blocks.
    """
    blocks = nn.ModuleList()
    for num_skip, num_out in zip(reversed(skips), widths, strict=True):
        blocks.append(block(num_in, num_skip, num_out, norm=norm))
        num_in = num_out
    return blocks


class SelfAttention(nn.Module):
    """x + gamma * attention(x) over all positions, (B, C, H, W) -> the same; gamma starts at 0.

    Half of the channels, in heads of 64, attend.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        inner = max(1, num_channels // 2)
        self.num_heads = max(1, inner // 64)
        inner -= inner % self.num_heads
        self.qkv = nn.Conv2d(num_channels, 3 * inner, 1)
        self.out = nn.Conv2d(inner, num_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        batch, _, height, width = x_BCHW.shape
        # (B, 3 * heads * d, H, W) -> three of (B, heads, N, d)
        qkv = self.qkv(x_BCHW).reshape(batch, 3, self.num_heads, -1, height * width).transpose(-1, -2)
        attended = F.scaled_dot_product_attention(*qkv.unbind(1))
        attended_BCHW = attended.transpose(-1, -2).reshape(batch, -1, height, width)
        return x_BCHW + self.gamma * self.out(attended_BCHW)
