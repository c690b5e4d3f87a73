"""The networks behind FID, KID, LPIPS and top-1 classes, with weights from a file, a package or a download.

InceptionV3 is the one of torch-fidelity (extra `fid`), converted from the original TensorFlow weights of
Heusel et al. 2017, https://arxiv.org/abs/1706.08500, with its own resize to 299 pixels. LPIPS (Zhang et al.
2018, https://arxiv.org/abs/1801.03924) is torchmetrics', which brings the linear layers; the AlexNet or
VGG-16 below them is torchvision's. Neither library reads a file of weights here: torch-fidelity would run
code in it.

Shape suffixes: B batch, H height, W width, D features, 3 channels.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import AlexNet_Weights

from streamgan.core.errors import ConfigError
from streamgan.core.pretrained import (
    cache_place,
    cached_weights,
    load_backbone,
    packaged_weights,
    read_weights,
)

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
ALEXNET_URL = AlexNet_Weights.DEFAULT.url
CLASSIFIER, CLASSIFIER_SIDE = "tf_efficientnet_lite0", 224  # timm's name; pixels that it was trained on
SMALLEST_LPIPS = 32  # pixels a side; AlexNet pools smaller images away


class InceptionFeatures(nn.Module):
    """uint8 sRGB (B, 3, H, W) -> pooled features (B, D) in float32."""

    num_features = 2048

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, color_B3HW: Tensor) -> Tensor:
        return self.network(color_B3HW)[0]


class Classifier(nn.Module):
    """uint8 sRGB (B, 3, H, W) -> pooled features (B, D) and the most probable class of ImageNet (B,), int64.

    The network sees the whole image, bicubic at 224 x 224 and scaled to [-1, 1], as it was trained.
    """

    num_features = 1280

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network: Any = network

    def forward(self, color_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        side = (CLASSIFIER_SIDE, CLASSIFIER_SIDE)
        seen_B3HW = F.interpolate(color_B3HW.float(), side, mode="bicubic", antialias=True).clamp(0, 255)
        maps = self.network.forward_features(seen_B3HW / 127.5 - 1)
        features_BD = self.network.forward_head(maps, pre_logits=True)
        return features_BD, self.network.get_classifier()(features_BD).argmax(1)


class LpipsDistance(nn.Module):
    """Two photos, sRGB (B, 3, H, W) in [0, 1] -> their distance (B,). `net`: "alex" or "vgg"."""

    def __init__(self, network: nn.Module, net: str):
        super().__init__()
        self.network, self.net = network, net

    def forward(self, made_B3HW: Tensor, real_B3HW: Tensor) -> Tensor:
        return self.network(made_B3HW, real_B3HW, normalize=True).flatten()


def build_inception(weights: str | None) -> InceptionFeatures:
    """torch-fidelity's InceptionV3; ConfigError at `fid` if it is not to be had: `what` is short.

    `weights` is a file of its state dict (that of pytorch-fid is the same); None: the cache, or a download.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ConfigError("fid", "not installed", "pip install 'streamgan[fid]'") from error
    given = _weights(weights, INCEPTION_URL, "fid")
    ours = io.BytesIO()  # tensors alone, written by us: the constructor unpickles what it is given
    torch.save(given, ours)
    ours.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], ours)
    except RuntimeError as error:
        raise _misfit("fid", weights or cache_place(INCEPTION_URL), "torch-fidelity's InceptionV3") from error
    return InceptionFeatures(network)


def build_classifier() -> Classifier:
    """EfficientNet-Lite0 by timm with the weights of its package; ConfigError if not there."""
    path = packaged_weights(CLASSIFIER)
    if path is None:
        what = "the classifier EfficientNet-Lite0 is not installed"
        raise ConfigError("--semantic", what, "pip install 'streamgan[pretrained]'")
    import timm  # slow to import

    network = timm.create_model(CLASSIFIER)
    load_backbone(network, CLASSIFIER, str(path), setting="--semantic")
    return Classifier(network)


def build_lpips(weights: str | None) -> LpipsDistance:
    """torchmetrics' LPIPS on torchvision's AlexNet or, if `weights` is a file of it, VGG-16.

    None: AlexNet from the cache, or a download. ConfigError at `lpips` if the weights are not to be had.
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    given = _weights(weights, ALEXNET_URL, "lpips")
    net = "vgg" if "features.28.weight" in given else "alex"
    network = _NoTrainLpips(net=net, pnet_rand=True)
    chosen: dict[str, Any] = {
        name: given.get(f"features.{name.split('.', 1)[1]}") for name in network.net.state_dict()
    }  # slice3.6.weight <- features.6.weight
    try:
        network.net.load_state_dict({name: tensor for name, tensor in chosen.items() if tensor is not None})
    except RuntimeError as error:
        where = weights or cache_place(ALEXNET_URL)
        raise _misfit("lpips", where, "torchvision's alexnet or vgg16") from error
    return LpipsDistance(network, net)


def _weights(weights: str | None, url: str, what: str) -> Mapping[str, Tensor]:
    """From the file, or from the cache of downloads."""
    option = f"--{what}-weights"
    if weights is not None:
        return read_weights(weights, option)
    try:
        path: Path = cached_weights(url)
    except OSError as error:
        todo = f"give {option} FILE, or put it at {cache_place(url)}: {url} {error}"
        raise ConfigError(what, "no weights", todo) from error
    return read_weights(path, what)


def _misfit(what: str, weights: str | Path, network: str) -> ConfigError:
    return ConfigError(
        f"--{what}-weights", f"{weights} does not fit the network", f"give weights of {network}"
    )
