"""Scores of a generator on a split, always beside the baselines that cost nothing.

All ranks evaluate disjoint samples; padding is masked; float32 without autocast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from streamgan.core.color import HEADS, Head, unit_rgb
from streamgan.core.logs import progress
from streamgan.data.loader import Loader, evaluation_loader
from streamgan.data.reading import Ranks, Reading
from streamgan.data.shards.joint import split_size
from streamgan.data.shards.known_set import reading_once
from streamgan.data.workers.batch import Batch
from streamgan.losses import RECONSTRUCTION
from streamgan.metrics import (
    Cf,
    ColorizationMetrics,
    GainOverGray,
    LegacyPsnr,
    SaturationSweep,
    constant_ab,
    gray_passthrough,
    median_ab,
    protocol,
    through_jpeg,
)

from .perceptual_scores import PerceptualNetworks, Way, score_perceptual

Scores = dict[str, Any]  # floats, and lists of them as `sweep`
MEDIAN_IMAGES = 1000  # training images behind the median-ab baseline


@dataclass(frozen=True)
class Photos:
    """What a model is scored on: the first `num_images` of a split (None: all), `batch` at a time."""

    reading: Reading
    split: str
    num_images: int | None = None
    batch: int = 16


def measure_median_ab(loader: Loader, device: torch.device) -> Tensor:
    """The median a and b over the pixels of a loader's images, float32 (2,) in Lab units."""
    return median_ab(batch.color_B3HW[batch.ids_B >= 0].to(device) for batch in loader)


@torch.inference_mode()
def score_generator(
    generator: nn.Module,
    head: Head,
    loader: Loader,
    *,
    accelerator: Accelerator,
    reconstruction: Callable[[Tensor, Tensor], Tensor],
    cf: Cf = "hasler",
    in_full: bool = False,
    show_progress: bool = False,
) -> Scores:
    """Metrics of a generator in eval mode over a loader's images, with its reconstruction error as `loss`.

    `in_full` adds what costs more than it tells during training: the saturation sweep and `psnr_legacy`.
    """
    generator.eval()
    metrics = ColorizationMetrics(cf).to(accelerator.device)
    more = _InFull(cf, accelerator.device) if in_full else None
    losses = torch.zeros(2, dtype=torch.float64, device=accelerator.device)  # sum over images, images
    bar = progress(total=len(loader), unit="batch", label="model", hidden=not show_progress)
    for loaded in loader:
        batch = loaded.to(accelerator.device)
        given, target, truth, valid = _on_device(batch, head, accelerator.device)
        output = generator(given)
        made = head.decode(given, output)
        metrics.update(made, truth, valid)
        if more is not None:
            lab = HEADS["lab"]
            pair = (given, output) if head is lab else lab.to_pair(made)
            lightness = given if head is lab else lab.encode(batch.color_B3HW, batch.gray_B1HW)[0]
            raw = output if head.channels == 3 else made
            more.update(pair, lightness, made, truth, valid, raw=raw)
        # image by image: the same to the last digit for every batch size and number of ranks
        loss_B = torch.vmap(reconstruction)(output[valid], target[valid]).double()
        losses += torch.stack((loss_B.sum(), valid.sum().double()))
        bar.update()
    bar.close()
    total, count = accelerator.reduce(losses, "sum").tolist()  # type: ignore[union-attr]
    return {"loss": total / count, **metrics.compute(), **(more.compute() if more else {})}


class _InFull:
    """The saturation sweep, the gain over gray and the legacy PSNR of one model."""

    def __init__(self, cf: Cf, device: torch.device):
        self._sweep, self._legacy = SaturationSweep(cf).to(device), LegacyPsnr().to(device)
        self._gain = GainOverGray().to(device)

    def update(
        self, pair: tuple[Tensor, Tensor], lightness_B1HW: Tensor, made_B3HW: Tensor, truth_B3HW: Tensor,
        valid_B: Tensor, *, raw: Tensor,
    ) -> None:  # fmt: skip
        """`pair`: L and ab of what was made; `lightness`: of the input; `raw`: before it became a photo."""
        self._sweep.update(*pair, truth_B3HW, valid_B)
        self._gain.update(made_B3HW, lightness_B1HW, truth_B3HW, valid_B)
        self._legacy.update(raw, truth_B3HW, valid_B)

    def compute(self) -> Scores:
        return {**self._sweep.compute(), **self._gain.compute(), "psnr_legacy": self._legacy.compute()}


def _baselines(median_2: Tensor | None) -> dict[str, Callable[[Tensor], Tensor]]:
    """How each baseline makes Lab ab of L; without a median of the training set, gray alone."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {"gray": gray_passthrough}
    if median_2 is not None:
        ways["median_ab"] = partial(constant_ab, ab_2=median_2)
    return ways


@torch.inference_mode()
def score_baselines(
    loader: Loader,
    *,
    accelerator: Accelerator,
    median_2: Tensor | None,
    cf: Cf = "hasler",
    in_full: bool = False,
    show_progress: bool = False,
) -> dict[str, Scores]:
    """`{"gray": ..., "median_ab": ...}`: chroma zero, and the training set's median chroma everywhere.

    Without a median, gray alone.
    """
    lab, ways = HEADS["lab"], _baselines(median_2)
    metrics = {name: ColorizationMetrics(cf).to(accelerator.device) for name in ways}
    more = {name: _InFull(cf, accelerator.device) for name in ways if in_full}
    bar = progress(total=len(loader), unit="batch", label="baselines", hidden=not show_progress)
    for batch in loader:
        given, _, truth, valid = _on_device(batch, lab, accelerator.device)
        for name, way in ways.items():
            ab = way(given)
            made = lab.decode(given, ab)
            metrics[name].update(made, truth, valid)
            if in_full:
                more[name].update((given, ab), given, made, truth, valid, raw=made)
        bar.update()
    bar.close()
    return {name: {**metrics[name].compute(), **(more[name].compute() if in_full else {})} for name in ways}


@reading_once()
def evaluate_weights(
    generator: nn.Module,
    head: Head,
    photos: Photos,
    *,
    baselines: dict[str, Scores] | None = None,
    cf: Cf = "hasler",
    networks: PerceptualNetworks | None = None,
) -> dict[str, Any]:
    """`{"num_images", "split", "size", "protocol", "model": scores, "baselines": {"gray", "median_ab"}}`.

    Runs on all ranks if there are several. `baselines` of an earlier call for the same images are not
    measured again. `cf` is the definition of colourfulness, for the sweep and `psnr_at_cf50` too.
    `networks`: FID, KID, LPIPS and the semantic share as far as they are there; with the last, the baselines
    have `truth_jpeg`, the truth through a JPEG, with scores by networks alone. `not_measured` says what is
    not, and why: one of them, or median_ab of a set without a training split.
    """
    accelerator = Accelerator()
    reading, split, size, batch = photos.reading, photos.split, photos.reading.size, photos.batch
    ranks = Ranks(accelerator.process_index, accelerator.num_processes)
    loader = evaluation_loader(reading, split, batch=batch, num_images=photos.num_images, ranks=ranks)

    generator = generator.to(accelerator.device)
    extra: dict[str, Any] = {"accelerator": accelerator, "show_progress": True}
    model = score_generator(
        generator, head, loader, reconstruction=RECONSTRUCTION["l1"], cf=cf, in_full=True, **extra
    )
    median_2, not_measured = None, {}
    if not split_size(reading.source, "train"):
        where = reading.source.shards
        not_measured["median_ab"] = f"{where}: no split 'train' to take median_ab from; its row is left out"
    elif baselines is None or networks is not None:
        train = evaluation_loader(reading, "train", batch=batch, num_images=MEDIAN_IMAGES)
        median_2 = measure_median_ab(train, accelerator.device)
    if baselines is None:
        baselines = score_baselines(loader, median_2=median_2, cf=cf, in_full=True, **extra)
    rows = {"model": model, **baselines}
    told = f"{protocol(cf)}; split {split}, {size} x {size} centre crops, N = {loader.num_samples}"
    if networks is not None:
        ways: dict[str, Way] = {"model": partial(_colored, head, predict=generator)}
        for name, predict in _baselines(median_2).items():
            ways[name] = partial(_colored, HEADS["lab"], predict=predict)
        if networks.semantic:
            ways["truth_jpeg"] = lambda color_B3HW, _: unit_rgb(through_jpeg(color_B3HW))
        measured, absent = score_perceptual(ways, loader, size=size, networks=networks, **extra)
        not_measured |= absent
        for name, scores in measured.items():
            rows[name] = {**rows.get(name, {}), **scores}
        told += "".join(f"; {text}" for text in networks.protocols)
    model = rows.pop("model")
    return {
        "num_images": loader.num_samples,
        "split": split,
        "size": size,
        "protocol": told,
        "shards_digest": loader.digest,
        "model": model,
        "baselines": rows,
        "not_measured": not_measured,
    }


@torch.inference_mode()
def sample_rows(
    generator: nn.Module, ema: nn.Module, head: Head, batch: Batch, device: torch.device
) -> dict[str, Tensor]:
    """The rows of a sample grid by name, sRGB in [0, 1]: the average is the EMA of the generator."""
    batch, lab = batch.to(device), HEADS["lab"]
    given, _, truth, _ = _on_device(batch, head, device)
    lightness = lab.encode(batch.color_B3HW, batch.gray_B1HW)[0]
    modes = {module: module.training for module in generator.modules()}  # optim.freeze_norm
    generator.eval()
    gray = lab.decode(lightness, gray_passthrough(lightness))
    made, average = (head.decode(given, network(given)) for network in (generator, ema))
    for module, mode in modes.items():
        module.training = mode
    return {"gray": gray, "generator": made, "average": average, "truth": truth}


def _on_device(batch: Batch, head: Head, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(network input, target, true sRGB in [0, 1], mask of real images)."""
    gray, color, ids = batch.to(device)
    return *head.encode(color, gray), unit_rgb(color), (ids >= 0).to(device)


def _colored(
    head: Head, color_B3HW: Tensor, gray_B1HW: Tensor | None, predict: Callable[[Tensor], Tensor]
) -> Tensor:
    """uint8 colour and its gray twin (None: derive it) -> the prediction as sRGB in [0, 1]."""
    given, _ = head.encode(color_B3HW, gray_B1HW)
    return head.decode(given, predict(given))
