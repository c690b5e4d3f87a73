"""`patchgan`: a fully convolutional discriminator that judges every 70 x 70 patch of an image.

Patches: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017,
https://arxiv.org/abs/1611.07004 (section 6.1.2). Spectral norm in place of its BatchNorm: Miyato et al.,
"Spectral Normalization for Generative Adversarial Networks", ICLR 2018, https://arxiv.org/abs/1802.05957.

Shape suffixes: B batch, K input channels, H height, W width, h w the map of logits.

| depth 3, width 64 | output | sees |
|---|---|---|
| conv4x4 s2, LeakyReLU 0.2 | 64, H/2 | 4 |
| conv4x4 s2, LeakyReLU 0.2 | 128, H/4 | 10 |
| conv4x4 s2, LeakyReLU 0.2 | 256, H/8 | 22 |
| conv4x4 s1, LeakyReLU 0.2 | 512, H/8 - 1 | 46 |
| conv4x4 s1, no bias | 1, H/8 - 2 | 70 |
"""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from streamgan.core.errors import ConfigError
from streamgan.models.layers import fp32_on_request
from streamgan.models.options import at_least, refuse


def _conv(num_in: int, num_out: int, *, stride: int, bias: bool = True) -> nn.Module:
    return spectral_norm(nn.Conv2d(num_in, num_out, 4, stride=stride, padding=1, bias=bias))


class PatchDiscriminator(nn.Module):
    """(B, K, H, W) with sides of at least 3 * 2^depth -> logits (B, 1, h, w), h = floor(H / 2^depth) - 2.

    In training mode every forward takes one step of power iteration, so the weights' buffers change without
    an optimizer step.
    """

    def __init__(self, in_channels: int, *, width: int, depth: int):
        super().__init__()
        self.smallest = 3 * 2**depth
        widths = [width * min(2**level, 8) for level in range(depth + 1)]
        layers: list[nn.Module] = [_conv(in_channels, widths[0], stride=2), nn.LeakyReLU(0.2)]
        for level in range(1, depth + 1):
            stride = 1 if level == depth else 2
            layers += [_conv(widths[level - 1], widths[level], stride=stride), nn.LeakyReLU(0.2)]
        # No bias on the logits, unlike the paper: while all of them lie within the hinge its gradient is zero
        # but for rounding, which Adam makes large; another number of ranks would then train another network.
        self.layers = nn.Sequential(*layers, _conv(widths[-1], 1, stride=1, bias=False))

    @fp32_on_request
    def forward(self, image_BKHW: Tensor) -> Tensor:
        height, width = image_BKHW.shape[-2:]
        if min(height, width) < self.smallest:
            raise ConfigError(
                "patchgan",
                f"images are too small for its patches (got {height} x {width})",
                f"use images of at least {self.smallest} pixels a side or a smaller depth",
            )
        return self.layers(image_BKHW)


def build_discriminator(
    *, in_channels: int = 3, width: int | None = None, depth: int | None = None, norm: str | None = None
) -> PatchDiscriminator:
    """The PatchGAN: `width` (64) channels at half size, `depth` (3) convs of stride 2 set the patch.

    A patch has 16, 34, 70, 142 pixels at depth 1, 2, 3, 4. The norm is fixed: spectral.
    """
    refuse("patchgan", norm=norm)
    return PatchDiscriminator(
        in_channels,
        width=at_least(1, 64 if width is None else width, "width"),
        depth=at_least(1, 3 if depth is None else depth, "depth"),
    )
