"""ResNet encoders with torchvision's names and blocks, at any width.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
https://arxiv.org/abs/1512.03385. torchvision's own class has its widths written into it.

Shape suffixes: B batch, H height, W width.
"""

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .layers import Norm, normalization


class _Layout(NamedTuple):
    block: type[BasicBlock] | type[Bottleneck]
    num_blocks: tuple[int, int, int, int]


RESNETS = {
    "resnet18": _Layout(BasicBlock, (2, 2, 2, 2)),
    "resnet34": _Layout(BasicBlock, (3, 4, 6, 3)),
    "resnet50": _Layout(Bottleneck, (3, 4, 6, 3)),
}


class ResNetFeatures(nn.Module):
    """torchvision's ResNet up to `layer4`: (B, 3, H, W) -> five maps of H/2, H/4, H/8, H/16, H/32.

    Their channels, `widths`, are 64, 64, 128, 256, 512 at width 64 (ResNet-50: 64, 256, 512, 1024, 2048).
    """

    def __init__(self, name: str, *, width: int, norm: Norm):
        super().__init__()
        block, num_blocks = RESNETS[name]
        make_norm = partial(normalization, norm)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.widths = [width]
        num_in = width
        stages = []
        for level, count in enumerate(num_blocks):
            planes, stride = width * 2**level, 1 if level == 0 else 2
            num_out = planes * block.expansion
            shortcut = None
            if stride != 1 or num_in != num_out:
                shortcut = nn.Sequential(
                    nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False), make_norm(num_out)
                )
            first = block(num_in, planes, stride, shortcut, norm_layer=make_norm)
            rest = [block(num_out, planes, norm_layer=make_norm) for _ in range(count - 1)]
            stages.append(nn.Sequential(first, *rest))
            self.widths.append(num_out)
            num_in = num_out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.relu = nn.ReLU()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        maps = [self.relu(self.bn1(self.conv1(image_B3HW)))]
        x = self.maxpool(maps[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps
