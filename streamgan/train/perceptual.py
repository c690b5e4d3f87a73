"""FID, KID and LPIPS of several ways to colour one set, as far as their networks are to be had.

Shape suffixes: B batch, H height, W width, D features, 1/3 channels.
The truth passes through each network once for all ways. Float32 without autocast.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from streamgan.core.color import to_uint8, unit_rgb
from streamgan.core.errors import ConfigError
from streamgan.core.logs import progress
from streamgan.data.loader import Loader
from streamgan.metrics.networks import SMALLEST_LPIPS, LpipsDistance, build_inception, build_lpips
from streamgan.metrics.perceptual import KID_BELOW, LPIPS_PROTOCOL, PROTOCOL, PerceptualScores

# uint8 colour (B, 3, H, W) and its gray twin or None -> sRGB in [0, 1]
Way = Callable[[Tensor, Tensor | None], Tensor]


@dataclass
class PerceptualNetworks:
    """The networks that are there, and for the others why not: metric -> one line."""

    inception: nn.Module | None = None
    lpips: LpipsDistance | None = None
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def protocols(self) -> list[str]:
        """What to say about how they measure."""
        texts = [] if self.inception is None else [PROTOCOL]
        return texts if self.lpips is None else [*texts, LPIPS_PROTOCOL.format(net=self.lpips.net)]


def find_networks(
    *, everything: bool, fid_weights: str | None = None, lpips_weights: str | None = None
) -> PerceptualNetworks | None:
    """What was asked for: everything, or what has a weights file; None if nothing was.

    Weights that were not named and cannot be had are `absent`; a named file that is wrong is a ConfigError.
    """
    found = PerceptualNetworks()
    if not (everything or fid_weights or lpips_weights):
        return None
    if everything or fid_weights:
        try:
            found.inception = build_inception(fid_weights)
        except ConfigError as error:
            if fid_weights is not None:
                raise
            found.absent |= {name: str(error) for name in ("fid", "kid")}
    if everything or lpips_weights:
        try:
            found.lpips = build_lpips(lpips_weights)
        except ConfigError as error:
            if lpips_weights is not None:
                raise
            found.absent["lpips"] = str(error)
    return found


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
    """`fid`, `kid` and `lpips` of every way, and for those that are missing why, in one line each."""
    inception, lpips, missing = networks.inception, networks.lpips, dict(networks.absent)
    if inception is not None and loader.num_samples < 2:
        inception = None
        missing |= {name: f"{name}: needs at least 2 images" for name in ("fid", "kid")}
    if inception is not None and loader.num_samples >= KID_BELOW:
        missing["kid"] = f"kid: is for fewer than {KID_BELOW:,} images; read fid"
    if lpips is not None and size < SMALLEST_LPIPS:
        lpips = None
        missing["lpips"] = f"lpips: needs images of at least {SMALLEST_LPIPS} pixels (got {size})"
    device = accelerator.device
    for network in (inception, lpips):
        if network is not None:
            network.to(device).eval()
    scores = {
        name: PerceptualScores(
            num_features=None if inception is None else int(inception.num_features),  # type: ignore[arg-type]
            with_kid=loader.num_samples < KID_BELOW,
            with_lpips=lpips is not None,
            device=device,
        )
        for name in ways
    }
    bar = progress(total=len(loader), unit="batch", label="fid, lpips", hidden=not show_progress)
    for batch in loader:
        valid = (batch.ids_B >= 0).to(device)
        color = batch.color_B3HW.to(device)
        gray = None if batch.gray_B1HW is None else batch.gray_B1HW.to(device)
        real = None if inception is None else inception(color)[valid]
        for name, way in ways.items():
            made_B3HW = to_uint8(way(color, gray))
            made = None if inception is None else inception(made_B3HW)[valid]
            distance = None if lpips is None else lpips(unit_rgb(made_B3HW), unit_rgb(color))[valid]
            scores[name].update(made, real, distance)
        bar.update()
    bar.close()
    return {name: each.compute() for name, each in scores.items()}, missing
