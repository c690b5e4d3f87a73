"""`unet` (discriminator): a U-Net with spectral norm that judges every pixel.

Schoenfeld, Schiele, Khoreva, "A U-Net Based Discriminator for Generative Adversarial Networks", CVPR 2020,
https://arxiv.org/abs/2002.12655; this smaller form is that of Wang et al., "Real-ESRGAN", ICCVW 2021,
https://arxiv.org/abs/2107.10833 (section 3.3), with the self-attention of Zhang et al. 2018,
https://arxiv.org/abs/1805.08318.

Shape suffixes: B batch, C channels, K input channels, H height, W width, N tokens.

| depth 3, width 64; all but the first and the last with spectral norm | output |
|---|---|
| conv3x3 (skip) | 64, H, W |
| conv4x4 s2, no bias (skip) | 128, H/2, W/2 |
| conv4x4 s2, no bias, self-attention (skip) | 256, H/4, W/4 |
| conv4x4 s2, no bias | 512, H/8, W/8 |
| bilinear x2, conv3x3, no bias, + skip | 256, H/4, W/4 |
| bilinear x2, conv3x3, no bias, + skip | 128, H/2, W/2 |
| bilinear x2, conv3x3, no bias, + skip | 64, H, W |
| conv3x3, no bias; twice | 64, H, W |
| conv3x3, no bias | 1, H, W |

LeakyReLU 0.2 after every convolution but the last, before the skip is added.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from .layers import judging
from .options import at_least
from .padding import crop_like, reflect_to_multiple

_ATTENTION_LEVEL = 2  # at H/4: at full size the weights of attention would be larger than all the rest


def _conv(num_in: int, num_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=1, bias=False))


class PooledAttention(nn.Module):
    """x + gamma * attention(x), (B, C, H, W) -> the same; keys and values from maxima of `pool` x `pool`.

    gamma starts at 0. Logits are not scaled.
    """

    def __init__(self, num_channels: int, *, pool: int = 2):
        super().__init__()
        self.pool = pool
        inner = max(1, num_channels // 8)
        self.query, self.key = (
            spectral_norm(nn.Conv2d(num_channels, inner, 1, bias=False)) for _ in range(2)
        )
        self.value = spectral_norm(nn.Conv2d(num_channels, num_channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pooled = F.max_pool2d(x_BCHW, self.pool) if self.pool > 1 else x_BCHW
        query_B1NC, key_B1NC, value_B1NC = (
            layer(x).flatten(2).transpose(1, 2)[:, None]
            for layer, x in ((self.query, x_BCHW), (self.key, pooled), (self.value, pooled))
        )
        attended_B1NC = F.scaled_dot_product_attention(query_B1NC, key_B1NC, value_B1NC, scale=1.0)
        return x_BCHW + self.gamma * attended_B1NC[:, 0].transpose(1, 2).unflatten(2, x_BCHW.shape[2:])


class UNetDiscriminator(nn.Module):
    """(B, K, H, W) of any size -> a logit for every pixel, (B, 1, H, W).

    `width` channels at full size, `depth` halvings, at least 2.
    In training mode every forward takes one step of power iteration, so the weights' buffers change without
    an optimizer step.
    """

    def __init__(self, *, in_channels: int = 3, width: int = 64, depth: int = 3):
        super().__init__()
        at_least(_ATTENTION_LEVEL, depth, "depth")
        self.multiple = max(2**depth, 2 ** (_ATTENTION_LEVEL + 1))  # a 2 x 2 maximum fits at the attention
        widths = [width * 2**level for level in range(depth + 1)]
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.downs = nn.ModuleList(
            _conv(num_in, num_out, kernel=4, stride=2) for num_in, num_out in pairwise(widths)
        )
        self.attention = PooledAttention(widths[_ATTENTION_LEVEL])
        self.ups = nn.ModuleList(
            _conv(num_in, num_out) for num_out, num_in in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.refine = nn.ModuleList(_conv(width, width) for _ in range(2))
        # No bias on the logits, for the reason that patchgan.py gives.
        self.last = nn.Conv2d(width, 1, 3, padding=1, bias=False)

    @judging
    def forward(self, image_BKHW: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(reflect_to_multiple(image_BKHW, self.multiple)), 0.2)
        skips = []
        for level, down in enumerate(self.downs, start=1):
            skips.append(x)
            x = F.leaky_relu(down(x), 0.2)
            if level == _ATTENTION_LEVEL:
                x = self.attention(x)
        for up in self.ups:
            larger = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(up(larger), 0.2) + skips.pop()
        for conv in self.refine:
            x = F.leaky_relu(conv(x), 0.2)
        return crop_like(self.last(x), image_BKHW)
