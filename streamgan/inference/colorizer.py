"""Photos in, coloured photos out: resolution and luminance stay, the chroma comes from the generator.

Shape suffixes: B batch, H W the photo (or a band of its rows), h w the work size, 1/2/3 channels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from huggingface_hub import ModelHubMixin
from PIL import Image
from torch import Tensor

from streamgan.core.color import HEADS
from streamgan.core.errors import ConfigError
from streamgan.core.logs import say
from streamgan.core.storage.hub import READY, download_model

from .bundle import bundle_files, save_file
from .chroma import paint, upsample
from .given import Given, photo_of
from .photo import Photo
from .saving import to_image
from .weights import Weights, find_weights, load_weights

BATCH = 8
_BAND_PIXELS = 1 << 18  # of a photo at a time: what the memory of its full-size steps depends on
_BAND_PIXELS_ON_GPU = 1 << 22  # which waits for the host between two bands
_MAX_ASPECT = 4  # a photo longer than this times its short side is worked on at a smaller size
_LEAST_SIZE = 32
_REDUCING_GAP = 3.0  # how much larger than the work size a photo is after it was reduced by a whole number


class Chroma(NamedTuple):
    """What was predicted for a photo: its input and two channels of chroma at the work size, (1, ., h, w)."""

    input_11hw: Tensor
    chroma_12hw: Tensor


class Colorizer(ModelHubMixin, library_name="streamgan", tags=["image-colorization"]):
    """A trained generator, ready for photos of any size and mode.

    `size` is the short side in pixels at which the generator works (as trained), `saturation` a factor on
    the chroma beside the one that an exported model has, `batch` how many photos of one shape share a
    forward pass. `save_pretrained`, `push_to_hub` and `from_pretrained` are those of huggingface_hub, with
    bundles.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "auto",
        size: int | None = None,
        saturation: float = 1.0,
        batch: int = BATCH,
    ):
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device", "no CUDA device is available (got 'cuda')", "use cpu or auto")
        choice = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.weights, self.device, self.size = weights, torch.device(choice), size or weights.size
        self.saturation, self.batch = saturation, batch
        self._generator = weights.generator.to(self.device)
        self._head = weights.head if weights.head.channels == 2 else HEADS["lab"]  # that of the chroma

    @classmethod
    def load(
        cls,
        model: Path | str = READY,
        *,
        which: str = "best",
        device: str = "auto",
        size: int | None = None,
        saturation: float = 1.0,
        batch: int = BATCH,
    ) -> "Colorizer":
        """From a run, a checkpoint or bundle folder, a .safetensors file, or ORG/NAME on the Hub.

        By default the model that comes with streamgan.
        """
        weights = load_weights(find_weights(model, which))
        return cls(weights, device=device, size=size, saturation=saturation, batch=batch)

    def _save_pretrained(self, save_directory: Path) -> None:
        for name, content in bundle_files(self.weights, title=save_directory.name).items():
            save_file(save_directory / name, content)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: Any, force_download: bool,
        local_files_only: bool, token: str | bool | None, **options: Any,
    ) -> "Colorizer":  # fmt: skip
        path = Path(model_id)
        if not path.is_dir():
            path = download_model(
                f"{model_id}@{revision}" if revision else model_id, cache_dir=cache_dir, token=token,
                force_download=force_download, local_files_only=local_files_only,
            )  # fmt: skip
        return cls.load(path, **options)

    @overload
    def __call__(self, images: np.ndarray) -> np.ndarray: ...
    @overload
    def __call__(self, images: str | Path | Image.Image) -> Image.Image: ...
    @overload
    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]: ...
    @overload
    def __call__(self, images: Sequence[str | Path | Image.Image]) -> list[Image.Image]: ...
    def __call__(self, images: Given | Sequence[Given]) -> Any:
        """A photo in colour, or a list of photos: upright, same size and luminance.

        A path or an image of PIL's (any mode) gives an image of 8 bits, RGB or RGBA, with profile and EXIF in
        its `info`. An array of gray (H, W) or sRGB (H, W, 3), uint8 or uint16, gives (H, W, 3) of its type.
        DataError for what cannot be read, ConfigError for what is no photo.
        """
        if not isinstance(images, list | tuple):
            return self([images])[0]  # pyright: ignore[reportCallIssue, reportArgumentType]
        photos = [photo_of(one) for one in images]
        return [
            rgb if isinstance(one, np.ndarray) else to_image(photo, rgb)
            for one, photo, rgb in zip(images, photos, self.color(photos), strict=True)
        ]

    def color(self, photos: Sequence[Photo]) -> Iterator[np.ndarray]:
        """sRGB of each photo, (H, W, 3): uint16 where its gray is, else uint8."""
        for photo, chroma in zip(photos, self.predict(photos), strict=True):
            yield self.paint(photo, chroma)

    def predict(self, photos: Sequence[Photo]) -> list[Chroma]:
        """The chroma of every photo; photos of one work shape go through the generator together.

        Where the memory of a GPU ends, batches and then the work size become smaller and stay so.
        """
        while True:
            try:
                return self._predict(photos)
            except torch.OutOfMemoryError as error:
                too_large = error
            self._shrink(too_large)

    def _shrink(self, error: torch.OutOfMemoryError) -> None:
        torch.cuda.empty_cache()
        if self.batch > 1:
            self.batch = 1
            return
        smaller = self.size * 3 // 4
        if smaller < _LEAST_SIZE:
            what = f"not enough memory at a work size of {self.size}"
            raise ConfigError(str(self.device), what, "use --device cpu") from error
        if not self._shrunk:
            say(f"{self.device}: out of memory at a work size of {self.size}; going on with a smaller one")
        self._shrunk, self.size = True, smaller

    _shrunk = False

    @torch.inference_mode()
    def _predict(self, photos: Sequence[Photo]) -> list[Chroma]:
        shapes = [work_shape(photo.size, self.size) for photo in photos]
        found: dict[int, Chroma] = {}
        for shape in dict.fromkeys(shapes):
            alike = [index for index, one in enumerate(shapes) if one == shape]
            for start in range(0, len(alike), self.batch):
                chosen = alike[start : start + self.batch]
                input_B1hw = torch.cat([self.to_input(_resized(photos[index], shape)) for index in chosen])
                output = self._generator(input_B1hw).float()
                if self.weights.head.channels == 3:
                    output = self._head.to_target(output.clamp(0, 1))
                for place, index in enumerate(chosen):
                    part = slice(place, place + 1)
                    found[index] = Chroma(input_B1hw[part], output[part])
        return [found[index] for index in range(len(photos))]

    def paint(self, photo: Photo, chroma: Chroma) -> np.ndarray:
        """The photo in this chroma, times the saturation: sRGB (H, W, 3), uint16 where its gray is."""
        result, top = np.empty((*photo.size, 3), photo.pixels.dtype), 0
        for band in self.bands(photo, chroma):
            result[top : top + len(band)] = band
            top += len(band)
        return result

    def bands(self, photo: Photo, chroma: Chroma) -> Iterator[np.ndarray]:
        """As `paint`, a band of rows at a time: (rows, W, 3)."""
        (height, width), top = photo.size, 0
        pixels = _BAND_PIXELS if self.device.type == "cpu" else _BAND_PIXELS_ON_GPU
        while top < height:
            rows = max(1, pixels // width)
            try:
                band = self._band(photo.pixels[top : top + rows], chroma, top=top, height=height)
            except torch.OutOfMemoryError:
                if pixels == _BAND_PIXELS:
                    raise
                torch.cuda.empty_cache()
                pixels = _BAND_PIXELS
                continue
            yield band
            top += rows

    @torch.inference_mode()
    def _band(self, pixels: np.ndarray, chroma: Chroma, *, top: int, height: int) -> np.ndarray:
        given_11HW = self.to_input(pixels)
        chroma_12HW = upsample(chroma.chroma_12hw, chroma.input_11hw, given_11HW, top=top, height=height)
        rgb_13HW = paint(self._head, given_11HW, chroma_12HW * self._factor)
        levels_HW3 = (rgb_13HW[0] * np.iinfo(pixels.dtype).max).round().permute(1, 2, 0)
        if pixels.dtype == np.uint8:
            return levels_HW3.byte().cpu().numpy()
        return levels_HW3.cpu().numpy().astype(pixels.dtype)

    @torch.inference_mode()
    def colors(self, chroma: Chroma) -> Tensor:
        """What was predicted, times the saturation, as sRGB in [0, 1] at the work size, (1, 3, h, w)."""
        return paint(self._head, chroma.input_11hw, chroma.chroma_12hw * self._factor)

    @property
    def _factor(self) -> float:
        return self.saturation * self.weights.saturation

    def to_input(self, pixels: np.ndarray) -> Tensor:
        """Pixels (H, W) or (H, W, 3) as the network input (1, 1, H, W)."""
        small = pixels.dtype == np.uint8  # else of a type that torch knows little of
        levels = torch.from_numpy(np.array(pixels, np.uint8 if small else np.float32)).to(self.device)
        unit = levels / float(np.iinfo(pixels.dtype).max)
        if pixels.ndim == 2:
            return self._head.gray_to_input(unit[None, None])
        return self._head.to_input(unit.permute(2, 0, 1)[None])


def work_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(h, w) for a photo of (height, width): its short side is `size`, its long one 4 times that at most."""
    scale = min(size / min(shape), _MAX_ASPECT * size / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _resized(photo: Photo, shape: tuple[int, int]) -> np.ndarray:
    """The pixels at the work size, antialiased, 8 bits: Pillow's `resize` with a `reducing_gap`, in bands."""
    if photo.size == shape:
        return _eight_bits(photo.pixels)
    (height, width), (down, across) = (
        photo.size,
        (max(1, int(full / small / _REDUCING_GAP)) for full, small in zip(photo.size, shape, strict=True)),
    )
    rows = down * max(1, _BAND_PIXELS // width // down)
    bands = [_eight_bits(photo.pixels[top : top + rows]) for top in range(0, height, rows)]
    reduced = np.concatenate([np.asarray(Image.fromarray(band).reduce((across, down))) for band in bands])
    box = (0, 0, width / across, height / down)
    return np.asarray(
        Image.fromarray(reduced).resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box=box)
    )


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))
