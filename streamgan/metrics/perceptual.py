"""FID, KID and LPIPS by torchmetrics, over ranks that hold different numbers of images.

Frechet distance: Heusel et al. 2017, https://arxiv.org/abs/1706.08500. Kernel distance: Binkowski et al.
2018, https://arxiv.org/abs/1801.01401. LPIPS: Zhang et al. 2018, https://arxiv.org/abs/1801.03924.

Shape suffixes: B batch, D features.
FID falls with the number of images, so it is compared at equal N alone. KID does not, which is why it stands
beside FID for small sets: here over all images at once instead of over random subsets, so that it is the same
for every number of ranks.
"""

import warnings

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities.data import dim_zero_cat

KID_BELOW = 5000  # images: it keeps the features of all
PROTOCOL = (
    "FID, KID: InceptionV3 of torch-fidelity, 2048 features, uint8 images, its own resize to 299 x 299; "
    f"compare FID at equal N alone; KID (N < {KID_BELOW:,}): unbiased, over all images at once"
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
    """FID, KID and LPIPS of one way to colour a set.

    `num_features` None: no FID and no KID; `with_kid`, `with_lpips` likewise. Every rank updates with all of
    its batches, also those of which no image counts.
    """

    def __init__(self, *, num_features: int | None, with_kid: bool, with_lpips: bool, device: torch.device):
        self._fid = self._kid = self._lpips = None
        if num_features is not None:
            self._fid = FrechetInceptionDistance(_Given(num_features)).to(device)
            self._kid = KernelDistance(num_features).to(device) if with_kid else None
        if with_lpips:
            self._lpips = MeanMetric().set_dtype(torch.float64).to(device)

    def update(
        self, made_BD: Tensor | None, real_BD: Tensor | None, distance_B: Tensor | None = None
    ) -> None:
        """Add the features of images and their truths, and the LPIPS between them."""
        for metric in (self._fid, self._kid):
            if metric is not None:
                assert made_BD is not None
                assert real_BD is not None
                metric.update(made_BD.double(), real=False)
                metric.update(real_BD.double(), real=True)
        if self._lpips is not None and distance_B is not None and len(distance_B):
            self._lpips.update(distance_B.double())

    def compute(self) -> dict[str, float]:
        """`fid`, `kid`, `lpips`, as far as they are measured; on every rank the same."""
        measured = {"fid": self._fid, "kid": self._kid, "lpips": self._lpips}
        return {name: float(metric.compute()) for name, metric in measured.items() if metric is not None}
