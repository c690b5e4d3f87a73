"""Inception-ResNet-v2, which says what a gray photo shows: the published embedder of `koalarization`.

Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", 2016, https://arxiv.org/abs/1602.07261. The network and its ImageNet weights are timm's.

Shape suffixes: B batch, E = 1000 class scores, H height, W width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from streamgan.core.errors import ConfigError
from streamgan.core.pretrained import read_weights

NAME = "inception_resnet_v2"
_SIDE = 299  # pixels of its training images


class InceptionResNetScores(nn.Module):
    """l (B, 1, H, W) in [-1, 1], any H and W -> class scores before the softmax (B, E).

    With pretrained weights it is frozen and stays in eval mode, as published; from scratch it learns.
    """

    num_classes = 1000

    def __init__(self, *, pretrained: bool | str):
        super().__init__()
        import timm  # slow to import

        self.frozen = pretrained is not False
        self.network = timm.create_model(NAME, pretrained=False, num_classes=self.num_classes)
        if self.frozen:
            self._load(pretrained)
            self.network.eval().requires_grad_(False)

    def _load(self, pretrained: bool | str) -> None:
        if next(self.network.parameters()).is_meta:
            return
        try:
            if isinstance(pretrained, str):
                self.network.load_state_dict(read_weights(pretrained, "model.pretrained"))
            else:
                import timm

                given = timm.create_model(NAME, pretrained=True, num_classes=self.num_classes)
                self.network.load_state_dict(given.state_dict())
        except (OSError, RuntimeError) as error:  # no network, another network's weights
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                "model.pretrained", f"no weights of timm's {NAME} ({reason})", "give a file that holds them"
            ) from error

    def train(self, mode: bool = True) -> "InceptionResNetScores":
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, input_B1HW: Tensor) -> Tensor:
        # timm's mean and deviation are 0.5: l is the image that it expects
        image_B1HW = F.interpolate(input_B1HW, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
        return self.network(image_B1HW.expand(-1, 3, -1, -1))
