"""`ddcolor` (discriminator): a strided network with spectral norm that judges patches, as DDColor has it.

Kang et al., "DDColor", ICCV 2023, https://arxiv.org/abs/2212.11613; layers as in its authors' code
(https://github.com/piddnad/DDColor, basicsr/archs/discriminator_arch.py). Attention: Zhang et al. 2018,
https://arxiv.org/abs/1805.08318.

Shape suffixes: B batch, C channels, K input channels, H height, W width, h w the map of logits.

| depth 3, width 64; all with spectral norm | output |
|---|---|
| conv4x4 s2 | 64, H/2, W/2 |
| conv3x3, conv4x4 s2, self-attention | 128, H/4, W/4 |
| conv3x3, conv4x4 s2 | 256, H/8, W/8 |
| conv3x3, conv4x4 s2 | 512, H/16, W/16 |
| conv3x3 | 512, H/16, W/16 |
| conv4x4, no padding, no bias | 1, H/16 - 3, W/16 - 3 |

ReLU after every convolution but the last, before the attention.
"""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .layers import judging
from .padding import reflect_to_multiple
from .unet_discriminator import PooledAttention


def _conv(num_in: int, num_out: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=1)
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return [spectral_norm(conv), nn.ReLU()]


class StridedDiscriminator(nn.Module):
    """(B, K, H, W) -> logits (B, 1, h, w); images below 2^(depth + 3) pixels are reflected up to that.

    `width` channels at half size, `depth` more halvings.
    In training mode every forward takes one step of power iteration, so the weights' buffers change without
    an optimizer step.
    """

    def __init__(self, *, in_channels: int = 3, width: int = 64, depth: int = 3):
        super().__init__()
        self.smallest = 2 ** (depth + 3)
        layers = _conv(in_channels, width, kernel=4, stride=2)
        for level in range(depth):
            layers += [*_conv(width, width), *_conv(width, 2 * width, kernel=4, stride=2)]
            width *= 2
            if level == 0:
                layers.append(PooledAttention(width, pool=1))
        last = nn.Conv2d(width, 1, 4, bias=False)
        nn.init.kaiming_normal_(last.weight)
        self.layers = nn.Sequential(*layers, *_conv(width, width), spectral_norm(last))

    @judging
    def forward(self, image_BKHW: Tensor) -> Tensor:
        if min(image_BKHW.shape[-2:]) < self.smallest:
            image_BKHW = reflect_to_multiple(image_BKHW, self.smallest)
        return self.layers(image_BKHW)
