"""Chroma of a film without flicker: the mean over time wherever the picture stands still, anew at a cut.

Shape suffixes: h w the work size.
"""

import torch

from .colorizer import Chroma

_NEW = 0.2  # share of a frame in the running mean where nothing moves: a memory of five frames
_STILL = 0.06  # luminance difference, in network units, at which a pixel counts as half moved
_CUT = 0.2  # mean difference of two frames that is no motion: a tenth of the range from black to white


class Smoother:
    """Frames in the order of the film; `last`, what they remember, is forgotten at every cut."""

    def __init__(self, last: Chroma | None = None):
        self.last = last

    def __call__(self, frame: Chroma) -> Chroma:
        """The frame with the chroma of the running mean."""
        last = self.last
        if last is not None and last.input_11hw.shape == frame.input_11hw.shape:
            moved_11hw = (frame.input_11hw - last.input_11hw).abs()
            if moved_11hw.mean() < _CUT:
                kept_11hw = (1 - _NEW) * torch.exp2(-(moved_11hw / _STILL).square())
                mixed = frame.chroma_12hw + kept_11hw * (last.chroma_12hw - frame.chroma_12hw)
                frame = Chroma(frame.input_11hw, mixed)
        self.last = frame
        return frame
