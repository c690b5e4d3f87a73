"""How good a colouring is: values of each image, means over a set and ranks, baselines beside them."""

from streamgan.metrics.baselines import constant_ab, gray_passthrough, median_ab, through_jpeg
from streamgan.metrics.collection import ColorizationMetrics
from streamgan.metrics.functional import PROTOCOL, Cf, protocol
from streamgan.metrics.gain import GainOverGray
from streamgan.metrics.legacy import LegacyPsnr
from streamgan.metrics.saturation import SaturationSweep

__all__ = [
    "PROTOCOL",
    "Cf",
    "ColorizationMetrics",
    "GainOverGray",
    "LegacyPsnr",
    "SaturationSweep",
    "constant_ab",
    "gray_passthrough",
    "median_ab",
    "protocol",
    "through_jpeg",
]
