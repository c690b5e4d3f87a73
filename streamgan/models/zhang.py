"""`zhang`: colour as classification over bins of the ab plane.

Zhang, Isola, Efros, "Colorful Image Colorization", ECCV 2016, https://arxiv.org/abs/1603.08511 (section 2 and
the network of its supplement). Colour bins and the annealed mean are in core/ab_bins.py, the class-rebalanced
loss in losses/classes.py: `loss.rec=cross_entropy`.

Shape suffixes: B batch, H height, W width, h w a quarter of the padded image, Q bins.

| width 64; all but the last conv3x3, ReLU | convs | output |
|---|---|---|
| block 1, the second s2 | 2, norm | 64, H/2, W/2 |
| block 2, the second s2 | 2, norm | 128, H/4, W/4 |
| block 3, the third s2 | 3, norm | 256, H/8, W/8 |
| block 4 | 3, norm | 512, H/8, W/8 |
| block 5, dilation 2 | 3, norm | 512, H/8, W/8 |
| block 6, dilation 2 | 3, norm | 512, H/8, W/8 |
| block 7 | 3, norm | 512, H/8, W/8 |
| block 8: transposed conv4x4 s2, ReLU, 2 conv3x3 | 3 | 256, H/4, W/4 |
| conv1x1: logits | 1 | 261, H/4, W/4 |
| annealed mean (T = 0.38), bilinear x4 | | 2, H, W |

The norm is BatchNorm, once a block, after its last ReLU. With a file of the authors' 313 bins as `variant`
this is the network of their demo (https://github.com/richzhang/colorization, colorizers/eccv16.py) to
rounding; its weights are for (L - 50) / 100 and have the temperature in them.

Published: 313 bins. Here: 261, because only these hold a colour of sRGB. Published, for training
(models/colorization_train_val_v2.prototxt there): batch norm without scale and shift. Here: with them, as in
the demo. Published: weights fitted to data before training. Here: He's start, because it needs none. What
differs in the loss is in losses/classes.py.
"""

from collections.abc import Mapping
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamgan.core.ab_bins import annealed_mean, bin_centres, read_bins

from .layers import Norm, normalization, zero_init
from .options import only_lab
from .padding import crop_like, reflect_to_multiple

# The first guess is a Gaussian around gray, of this width in Lab units, and a little of every class.
_START_SIGMA, _START_FLOOR = 20.0, 1e-4


def _block(num_in: int, num_out: int, num_convs: int, norm: Norm, *, stride: int = 1, dilation: int = 1):
    """Convolutions with ReLU, the last with the stride, and a norm at the end."""
    layers: list[nn.Module] = []
    for index in range(num_convs):
        last = index == num_convs - 1
        conv = nn.Conv2d(
            num_in if index == 0 else num_out, num_out, 3,
            stride=stride if last else 1, padding=dilation, dilation=dilation,
        )  # fmt: skip
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers, normalization(norm, num_out))


class ZhangClassifier(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> ab / 110 (B, 2, H, W) for any H, W: gray at first, within 0.1 Lab units.

    `width` channels in the first block. `variant` is a .npy file of bins in Lab units, (Q, 2), instead of our
    own: the authors' `pts_in_hull.npy`. They are kept with the weights.
    `class_weights` rebalance the loss and travel with the weights; they are 1 until `set_class_weights`.
    """

    only_head = "lab"
    centres_Q2: Tensor
    class_weights: Tensor

    def __init__(
        self,
        *,
        out_channels: int = 2,
        width: int = 64,
        norm: Norm = "batch",
        bounded: bool = False,
        variant: str | None = None,
    ):
        super().__init__()
        only_lab("zhang", out_channels, bounded)
        centres_Q2 = bin_centres() if variant is None else read_bins(variant, setting="model.variant")
        w1, w2, w4, w8 = (width * factor for factor in (1, 2, 4, 8))
        self.blocks = nn.Sequential(
            _block(1, w1, 2, norm, stride=2),
            _block(w1, w2, 2, norm, stride=2),
            _block(w2, w4, 3, norm, stride=2),
            _block(w4, w8, 3, norm),
            _block(w8, w8, 3, norm, dilation=2),
            _block(w8, w8, 3, norm, dilation=2),
            _block(w8, w8, 3, norm),
        )
        self.up = nn.ConvTranspose2d(w8, w4, 4, stride=2, padding=1)
        self.refine = nn.ModuleList(nn.Conv2d(w4, w4, 3, padding=1) for _ in range(2))
        self.logits = zero_init(nn.Conv2d(w4, len(centres_Q2), 1))
        with torch.no_grad():
            assert self.logits.bias is not None
            guess_Q = torch.exp(-centres_Q2.square().sum(1) / (2 * _START_SIGMA**2))
            self.logits.bias.copy_(torch.log(guess_Q + _START_FLOOR))
        self.register_buffer("centres_Q2", centres_Q2)
        self.register_buffer("class_weights", torch.ones(len(centres_Q2)))
        self.register_load_state_dict_pre_hook(_take_over_bins)

    def set_class_weights(self, weights_Q: Tensor) -> None:
        """Take over the weights of the classes, (Q,)."""
        self.class_weights.copy_(weights_Q)

    @overload
    def forward(self, input_B1HW: Tensor, with_logits: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, input_B1HW: Tensor, with_logits: Literal[True]) -> tuple[Tensor, Tensor]: ...
    def forward(self, input_B1HW: Tensor, with_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """`with_logits`: also the logits (B, Q, h, w) of the image padded to multiples of 8."""
        x = F.relu(self.up(self.blocks(reflect_to_multiple(input_B1HW, 8))))
        for conv in self.refine:
            x = F.relu(conv(x))
        logits_BQhw = self.logits(x)
        ab_B2hw = annealed_mean(logits_BQhw, self.centres_Q2).to(logits_BQhw.dtype)
        large = F.interpolate(ab_B2hw, scale_factor=4, mode="bilinear", align_corners=False)
        ab_B2HW = crop_like(large, input_B1HW)
        return (ab_B2HW, logits_BQhw) if with_logits else ab_B2HW


def _take_over_bins(module: nn.Module, given: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Before weights are loaded: as many bins as they have. The bins are part of the weights."""
    assert isinstance(module, ZhangClassifier)
    centres_Q2 = given.get(f"{prefix}centres_Q2")
    if centres_Q2 is None or centres_Q2.shape == module.centres_Q2.shape:
        return
    conv, count = module.logits, len(centres_Q2)
    module.logits = nn.Conv2d(conv.in_channels, count, 1).to(conv.weight.device)
    module.centres_Q2 = centres_Q2.new_empty(count, 2, device=conv.weight.device)
    module.class_weights = module.centres_Q2.new_empty(count)
