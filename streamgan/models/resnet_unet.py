"""`resnet18_unet`, `resnet34_unet`, `resnet50_unet`: the ResNet row of the paper as U-Nets.

Encoder: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
https://arxiv.org/abs/1512.03385 (resnet.py). U-Nets on such encoders with sub-pixel upsampling and one
self-attention layer are known from colouring old photos; decoder.py names the papers of the parts.

Shape suffixes: B batch, C the head's channels, H height, W width.

| ResNet-34, width 64 | output |
|---|---|
| gray as three channels | 3, H, W |
| conv7x7 s2, norm, ReLU (skip) | 64, H/2, W/2 |
| max pool, layer1 (skip) | 64, H/4, W/4 |
| layer2 (skip) | 128, H/8, W/8 |
| layer3 (skip) | 256, H/16, W/16 |
| layer4 | 512, H/32, W/32 |
| up, concat layer3, conv3x3, norm, ReLU | 512, H/16, W/16 |
| up, concat layer2, conv3x3, norm, ReLU, self-attention | 384, H/8, W/8 |
| up, concat layer1, conv3x3, norm, ReLU | 256, H/4, W/4 |
| up, concat conv1, conv3x3, norm, ReLU | 128, H/2, W/2 |
| up, concat the input, conv3x3, ReLU | 64, H, W |
| conv1x1 (and a sigmoid when bounded) | C, H, W |

"up" is conv1x1, ReLU, PixelShuffle 2, blur. At full size it has 64 channels.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from streamgan.core.pretrained import load_pretrained

from .channels_last import conv_of_joined
from .decoder import SelfAttention, ShuffleUp, up_blocks
from .gray import GrayToImageNet
from .layers import Norm, ending, zero_init
from .options import encoder_norm
from .padding import reflect_to_multiple
from .resnet import ResNetFeatures


class ResNetUNet(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> (B, C, H, W) for any H, W: 0 at first, or 0.5 within [0, 1] if bounded.

    `width` channels at half size; `norm` None: batch in the encoder, group after it.
    """

    def __init__(
        self,
        name: str,
        *,
        out_channels: int,
        width: int = 64,
        norm: Norm | None = None,
        pretrained: bool | str = False,
        bounded: bool = False,
    ):
        super().__init__()
        self.bounded = bounded
        self.gray = GrayToImageNet()
        self.encoder = ResNetFeatures(name, width=width, norm=encoder_norm(norm, pretrained))
        *skips, num_in = self.encoder.widths
        self.ups = up_blocks(num_in, skips, [factor * width for factor in (8, 6, 4, 2)], norm=norm or "group")
        self.attention = SelfAttention(6 * width)
        self.full = ShuffleUp(2 * width, width)
        self.refine = nn.Conv2d(width + 1, width, 3, padding=1)
        self.last = zero_init(nn.Conv2d(width, out_channels, 1))
        load_pretrained(self.encoder, name, pretrained, setting="model.pretrained")

    def forward(self, input_B1HW: Tensor) -> Tensor:
        padded = reflect_to_multiple(input_B1HW, 32)
        *skips, x = self.encoder(self.gray(padded))
        for level, up in enumerate(self.ups):
            x = up(x, skips.pop())
            if level == 1:
                x = self.attention(x)
        x = F.relu(conv_of_joined(self.refine, self.full(x), padded))
        return ending(self.last(x), input_B1HW, bounded=self.bounded)
