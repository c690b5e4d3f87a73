"""FID, KID, LPIPS and the semantic share by torchmetrics, over ranks with different numbers of images.

Frechet distance: Heusel et al. 2017, https://arxiv.org/abs/1706.08500. Kernel distance: Binkowski et al.
2018, https://arxiv.org/abs/1801.01401. LPIPS: Zhang et al. 2018, https://arxiv.org/abs/1801.03924.

Shape suffixes: B batch, D features.
FID falls with the number of images, so it is compared at equal N alone. KID does not, which is why it stands
beside FID for small sets: here over all images at once instead of over random subsets, so that it is the same
for every number of ranks.
"""

import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities.data import dim_zero_cat

from .baselines import JPEG_QUALITY

KID_BELOW = 5000  # images: it keeps the features of all
PROTOCOL = (
    "FID, KID: InceptionV3 of torch-fidelity, 2048 features, uint8 images, its own resize to 299 x 299; "
    f"compare FID at equal N alone; KID (N < {KID_BELOW:,}): unbiased, over all images at once"
)
LITE0_PROTOCOL = (
    "fid_lite0, kid_lite0: the same distances on 1280 features of EfficientNet-Lite0 at 224 x 224; not to be "
    "compared with FID and KID, which are InceptionV3's"
)
SEMANTIC_PROTOCOL = (
    "semantic: share of images to which EfficientNet-Lite0 gives the same ImageNet class as to the true "
    "photo, after Zhang et al. 2016, with a standard error of up to 0.5 / sqrt(N); truth_jpeg: the true "
    f"photo through a JPEG of quality {JPEG_QUALITY}, 4:2:0, at the same size"
)
LPIPS_PROTOCOL = "LPIPS 0.1 ({net}): uint8 images at their size, mean over images"


class _Given(nn.Module):
    """Takes features for images."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features_BD: Tensor) -> Tensor:
        return features_BD


class KernelDistance(KernelInceptionDistance):
    """torchmetrics' KID of given features, without subsets; `compute` gives the mean alone.

    The states are concatenated over ranks; torchmetrics gathers them batch by batch and would wait for ever
    for a rank with fewer.
    """

    def __init__(self, num_features: int):
        with warnings.catch_warnings(action="ignore"):  # that it keeps all features
            super().__init__(feature=_Given(num_features), subsets=1)
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("fake_features", [], dist_reduce_fx="cat")

    def compute(self) -> Tensor:  # type: ignore[override]
        self.subset_size = len(dim_zero_cat(self.real_features))  # a list, or after the exchange a tensor
        return super().compute()[0]


class PerceptualScores:
    """What networks see in one way to colour a set: FID and KID of their features, means of other values.

    `num_features` by what ends the names of FID and KID: "" for InceptionV3, "_lite0". `means` are names of
    what every image has a value of. Every rank updates with all of its batches, also those of which no image
    counts.
    """

    def __init__(
        self, *, num_features: Mapping[str, int], with_kid: bool, means: Iterable[str], device: torch.device
    ):
        self._distances: dict[str, dict[str, Metric]] = {}
        for suffix, count in num_features.items():
            chosen = self._distances[suffix] = {}
            chosen[f"fid{suffix}"] = FrechetInceptionDistance(_Given(count)).to(device)
            if with_kid:
                chosen[f"kid{suffix}"] = KernelDistance(count).to(device)
        self._means = {name: MeanMetric().set_dtype(torch.float64).to(device) for name in means}

    def update(self, features: Mapping[str, tuple[Tensor, Tensor]], values: Mapping[str, Tensor]) -> None:
        """Add the features of images and of their truths, both (B, D), and the other values, each (B,)."""
        for suffix, (made_BD, real_BD) in features.items():
            for metric in self._distances[suffix].values():
                metric.update(made_BD.double(), real=False)
                metric.update(real_BD.double(), real=True)
        for name, value_B in values.items():
            if len(value_B):
                self._means[name].update(value_B.double())

    def compute(self) -> dict[str, float]:
        """By name, on every rank the same."""
        measured: dict[str, Metric] = {}
        for chosen in self._distances.values():
            measured |= chosen
        return {name: float(metric.compute()) for name, metric in (measured | self._means).items()}
