"""`patchgan`, `pix2pix`: a fully convolutional discriminator that judges every 70 x 70 patch of an image.

Patches: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017,
https://arxiv.org/abs/1611.07004 (section 6.1.2). Spectral norm in place of its BatchNorm: Miyato et al.,
"Spectral Normalization for Generative Adversarial Networks", ICLR 2018, https://arxiv.org/abs/1802.05957.

Published: BatchNorm after the inner three convolutions, a bias on the logits, weights from N(0, 0.02). Here:
`patchgan` has spectral norm, which does not mix images, and lets colours grow slower; `pix2pix` is the
authors' network (https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix, models/networks.py).

Shape suffixes: B batch, K input channels, H height, W width, h w the map of logits.

| depth 3, width 64 | output | sees |
|---|---|---|
| conv4x4 s2, LeakyReLU 0.2 | 64, H/2 | 4 |
| conv4x4 s2, LeakyReLU 0.2 | 128, H/4 | 10 |
| conv4x4 s2, LeakyReLU 0.2 | 256, H/8 | 22 |
| conv4x4 s1, LeakyReLU 0.2 | 512, H/8 - 1 | 46 |
| conv4x4 s1, no bias (`pix2pix`: with it) | 1, H/8 - 2 | 70 |
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from streamgan.core.errors import ConfigError

from .layers import judging, normal_init
from .options import is_published


class PatchDiscriminator(nn.Module):
    """(B, K, H, W) with sides of at least 3 * 2^depth -> logits (B, 1, h, w), h = floor(H / 2^depth) - 2.

    `width` channels at half size; a patch has 16, 34, 70, 142 pixels at `depth` 1, 2, 3, 4.

    In training mode every forward takes one step of power iteration, so the weights' buffers change without
    an optimizer step. `variant="published"` has batch norm instead, with the statistics of real and made
    photos apart (`parts`).
    """

    def __init__(self, *, in_channels: int = 3, width: int = 64, depth: int = 3, variant: str | None = None):
        super().__init__()
        published = is_published("patchgan", variant)
        self.smallest = 3 * 2**depth
        self.apart = published
        widths = [in_channels, *(width * min(2**level, 8) for level in range(depth + 1)), 1]
        layers: list[nn.Module] = []
        for level, (num_in, num_out) in enumerate(pairwise(widths)):
            inner = 0 < level <= depth
            # No bias on the logits of `patchgan`: while all of them lie within the hinge its gradient is zero
            # but for rounding, which Adam makes large; another number of ranks would train another network.
            bias = not inner if published else level <= depth
            conv = nn.Conv2d(num_in, num_out, 4, stride=2 if level < depth else 1, padding=1, bias=bias)
            layers.append(conv if published else spectral_norm(conv))
            if published and inner:
                layers.append(nn.BatchNorm2d(num_out))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers[:-1])
        if published:
            self.apply(normal_init)

    @judging
    def forward(self, image_BKHW: Tensor) -> Tensor:
        height, width = image_BKHW.shape[-2:]
        if min(height, width) < self.smallest:
            raise ConfigError(
                "data.size",
                f"too small for the patches that patchgan and pix2pix judge (got {height} x {width})",
                f"give at least {self.smallest}, or choose another model.discriminator",
            )
        return self.layers(image_BKHW)
