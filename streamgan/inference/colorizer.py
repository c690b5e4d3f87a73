"""Photos in, coloured photos out: resolution and luminance stay, the chroma comes from the generator."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from streamgan.core.color import to_uint8
from streamgan.core.errors import ConfigError

from .weights import Weights, find_weights, load_weights

MAX_PIXELS = 200_000_000


class Colorizer:
    """A trained generator, ready for photos of any size and mode."""

    def __init__(self, weights: Weights, *, device: str = "auto", size: int | None = None):
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device", "no CUDA device is available (got 'cuda')", "use cpu or auto")
        choice = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.weights, self.device, self.size = weights, torch.device(choice), size or weights.size
        self._generator = weights.generator.to(self.device)

    @classmethod
    def load(
        cls, model: Path | str, *, which: str = "best", device: str = "auto", size: int | None = None
    ) -> "Colorizer":
        """From a run, a checkpoint folder or a .safetensors file; `size` is the work size in pixels."""
        return cls(load_weights(find_weights(model, which)), device=device, size=size)

    @torch.inference_mode()
    def __call__(self, photo: Image.Image) -> Image.Image:
        """The photo (any mode) in colour: upright, same size and luminance, RGB or RGBA."""
        if photo.width * photo.height > MAX_PIXELS:
            raise ValueError(f"{photo.width} x {photo.height} pixels, over the cap of {MAX_PIXELS}")
        upright = ImageOps.exif_transpose(photo)
        if "transparency" in upright.info and upright.mode in ("1", "L", "P", "RGB"):  # one colour or more
            upright = upright.convert("RGBA")
        given_B1HW = self._input(upright)
        small = given_B1HW
        short = min(given_B1HW.shape[-2:])
        if short != self.size:
            shape = [max(1, round(side * self.size / short)) for side in given_B1HW.shape[-2:]]
            small = functional.interpolate(given_B1HW, shape, mode="bilinear", antialias=True)
        output = self._generator(small)
        if output.shape[-2:] != given_B1HW.shape[-2:]:
            output = functional.interpolate(output, given_B1HW.shape[-2:], mode="bilinear", antialias=True)
        pixels = to_uint8(self.weights.head.decode(given_B1HW, output))[0].permute(1, 2, 0).cpu().numpy()
        colored = Image.fromarray(pixels)
        if "A" in upright.getbands():
            colored.putalpha(upright.getchannel("A"))
        return colored

    def _input(self, photo: Image.Image) -> Tensor:
        """The network input (1, 1, H, W) at full resolution, from 8-bit, 16-bit, palette or colour pixels."""
        head = self.weights.head
        if photo.mode in ("L", "LA", "1"):
            gray = np.asarray(photo.convert("L"), np.float32) / 255
        elif photo.mode.startswith(("I;16", "I")):
            gray = np.asarray(photo, np.float32).clip(0, 65535) / 65535
        else:
            rgb = np.asarray(photo.convert("RGB"), np.float32) / 255
            return head.to_input(torch.from_numpy(rgb).permute(2, 0, 1)[None].to(self.device))
        return head.gray_to_input(torch.from_numpy(gray)[None, None].to(self.device))
