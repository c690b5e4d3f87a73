"""`unet`: the U-Net generator of pix2pix.

Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017,
https://arxiv.org/abs/1611.07004 (section 6.1.1).

Shape suffixes: B batch, C the head's channels, H height, W width.

depth 8, width 64; every conv is 4x4 with stride 2:
| down | channels | side of 256 | up (transposed) | channels in -> out |
|---|---|---|---|---|
| 1 | 64, no norm | 128 | 8 (last) | 128 -> C |
| 2 | 128 | 64 | 7 | 256 -> 64 |
| 3 | 256 | 32 | 6 | 512 -> 128 |
| 4 | 512 | 16 | 5 | 1024 -> 256 |
| 5 | 512 | 8 | 4 | 1024 -> 512 |
| 6 | 512 | 4 | 3, dropout 0.5 | 1024 -> 512 |
| 7 | 512 | 2 | 2, dropout 0.5 | 1024 -> 512 |
| 8 | 512, no norm | 1 | 1, dropout 0.5 | 512 -> 512 |

LeakyReLU 0.2 going down, ReLU going up; each up step is joined with the down step of its size. Depth d ends
at 1 / 2^d of the image; a shallower net drops the innermost 512 -> 512 levels first. Dropout is at the three
innermost up steps from depth 7 on, as the authors' two sizes have it; one is left at depth 6, none below. The
option `dropout` puts another rate at the three innermost of any depth, a brake on learning few photos by
heart.

Published: BatchNorm, no biases beside it, weights from N(0, 0.02) to the last layer, a tanh. Here: instance
norm, so that a photo is coloured alike in any batch, and a linear last layer that starts at zero, which is
gray: it is paler after equally many steps. `variant="published"` is the authors' network to the digit
(https://github.com/phillipi/pix2pix, models.lua; https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix has
its dropout one step further out). Published, too: dropout and the statistics of the test batch when colouring
(section 3.3). Here: none and the running ones, so that a photo has one colouring.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Norm, ending, normal_init, normalization, zero_init
from .options import between, is_published
from .padding import reflect_to_multiple

_SMALLEST_PUBLISHED = 7  # the authors have a net of depth 8 for 256 pixels and one of 7 for 128
MAX_DEPTH = 12  # halves the largest training crop, of 4096 pixels, to 1


def default_depth(size: int) -> int:
    """Down steps for square images of `size` pixels: as deep as they can be halved, within 2 to 8."""
    return max(2, min(8, size.bit_length() - 1))


class UNet(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first, or 0.5 within [0, 1] if bounded.

    `width` channels at half size, `depth` down steps, `dropout` the rate at the three innermost up steps.
    `variant="published"` starts at random and ends in a tanh unless bounded; its norm is "batch", else it is
    "instance". The smallest maps are never normalised, so a bottleneck of one pixel keeps its content under
    every norm.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        size: int = 256,
        width: int = 64,
        depth: int | None = None,
        norm: Norm | None = None,
        bounded: bool = False,
        dropout: float | None = None,
        variant: str | None = None,
    ):
        super().__init__()
        published = is_published("unet", variant)
        depth = between(2, MAX_DEPTH, default_depth(size) if depth is None else depth, "depth")
        norm = norm or ("batch" if published else "instance")
        outermost_dropped = depth - 3
        if dropout is None:
            dropout, outermost_dropped = 0.5, depth - 3 if depth >= _SMALLEST_PUBLISHED else 5
        widths = [width * min(2**level, 8) for level in range(depth)]
        bias = norm in ("none", "group")  # batch and instance norm subtract it again
        outer_bias = bias or not published  # where no norm follows
        self.multiple = 2**depth
        self.bounded, self.published = bounded, published
        self.first = nn.Conv2d(1, widths[0], 4, stride=2, padding=1, bias=outer_bias)
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        for level in range(1, depth):
            innermost = level == depth - 1
            has_bias = outer_bias if innermost else bias
            conv = nn.Conv2d(widths[level - 1], widths[level], 4, stride=2, padding=1, bias=has_bias)
            self.downs.append(conv if innermost else nn.Sequential(conv, normalization(norm, widths[level])))
        for level in range(depth - 1, 0, -1):
            num_in = widths[level] if level == depth - 1 else 2 * widths[level]
            up = [
                nn.ConvTranspose2d(num_in, widths[level - 1], 4, stride=2, padding=1, bias=bias),
                normalization(norm, widths[level - 1]),
            ]
            if level >= outermost_dropped:
                up.append(nn.Dropout(dropout))
            self.ups.append(nn.Sequential(*up))
        self.last = nn.ConvTranspose2d(2 * widths[0], out_channels, 4, stride=2, padding=1)
        if norm != "none":  # without a norm the small start would fade from layer to layer
            self.apply(normal_init)
        if not published:
            zero_init(self.last)

    def forward(self, input_B1HW: Tensor) -> Tensor:
        x = self.first(reflect_to_multiple(input_B1HW, self.multiple))
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(F.leaky_relu(x, 0.2))
        for up in self.ups:
            x = torch.cat((skips.pop(), up(F.relu(x))), 1)
        x = ending(self.last(F.relu(x)), input_B1HW, bounded=self.bounded)
        return torch.tanh(x) if self.published and not self.bounded else x
