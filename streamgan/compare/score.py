"""What a trained row is worth: scores on the split, its colouring of a few photos, scalars for TensorBoard.

All of it lies in the row's folder and is made once: `scores.json`, `column.png` (the same photos in every
row, one under another) and `test/*` beside the scalars of the training.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from streamgan.core.color import HEADS, Head, to_uint8, unit_rgb
from streamgan.core.finite import finite
from streamgan.core.storage.files import atomic_write, read_json, write_json
from streamgan.data.loader import evaluation_loader
from streamgan.inference.weights import find_weights, load_weights
from streamgan.train.evaluate import Photos, Scores, evaluate_weights

FORMAT, VERSION = "streamgan-compare-scores", 1


@dataclass(frozen=True)
class TestPhotos:
    """The photos that every row is scored on; the first `grid_images` of them are in the grid."""

    photos: Photos
    shards_digest: str
    grid_images: int

    def identity(self) -> dict[str, Any]:
        """What makes scores comparable. The place of the shards does not matter."""
        return {
            "shards_digest": self.shards_digest,
            "split": self.photos.split,
            "size": self.photos.reading.size,
            "max_images": self.photos.num_images,
        }


def read_scores(folder: Path, test: TestPhotos) -> dict[str, Any] | None:
    """The scores in a folder, if they are of these photos."""
    path = folder / "scores.json"
    if not path.exists():
        return None
    kept = read_json(path, todo="delete it to evaluate this row again")
    same = isinstance(kept, dict) and (kept.get("format"), kept.get("version")) == (FORMAT, VERSION)
    grid_is_there = (folder / "column.png").exists() and kept.get("grid_images") == test.grid_images
    return kept if same and kept["photos"] == test.identity() and grid_is_there else None


def score_row(
    run: Path, test: TestPhotos, *, baselines: dict[str, Scores] | None, about: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate the newest averaged weights of a run; what is then in its scores.json, `about` among it."""
    weights = load_weights(find_weights(run, "last"))
    result = evaluate_weights(
        weights.generator,
        weights.head,
        test.photos,
        baselines=baselines,
    )
    device = next(weights.generator.parameters()).device
    with torch.inference_mode():
        given, _ = weights.head.encode(grid_photos(test).to(device), None)
        column = weights.head.decode(given, weights.generator(given))
    kept = {
        "format": FORMAT,
        "version": VERSION,
        "photos": test.identity(),
        "grid_images": test.grid_images,
        "weights": str(weights.path),
        "step": weights.step,
        "parameters": sum(p.numel() for p in weights.generator.parameters()),
        **about,
        **finite(result),
    }
    write_column(run, column)
    _write_scalars(run, weights.step, result["model"])
    write_json(run / "scores.json", kept)  # last: says that the others are there
    return kept


def grid_photos(test: TestPhotos) -> Tensor:
    """The first photos of the split, uint8 (N, 3, H, W)."""
    photos, count = test.photos, test.grid_images
    loader = evaluation_loader(
        replace(photos.reading, workers=0), photos.split, batch=count, num_images=count
    )
    batch = next(iter(loader))
    return batch.color_B3HW[batch.ids_B >= 0]


def gray_and_truth(color_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    """The columns that enclose the models', sRGB in [0, 1]."""
    lab: Head = HEADS["lab"]
    given, chroma = lab.encode(color_B3HW, None)
    return lab.decode(given, torch.zeros_like(chroma)), unit_rgb(color_B3HW)


def write_column(folder: Path, rgb_B3HW: Tensor) -> None:
    """sRGB images under one another as `column.png`, without loss."""
    from PIL import Image

    stacked_HW3 = to_uint8(rgb_B3HW).cpu().permute(0, 2, 3, 1).flatten(0, 1)
    with atomic_write(folder / "column.png") as file:
        Image.fromarray(stacked_HW3.numpy()).save(file, "PNG")


def _write_scalars(run: Path, step: int, scores: Scores) -> None:
    board = SummaryWriter(str(run / "tensorboard"))
    for tag, value in scores.items():
        if isinstance(value, float):
            board.add_scalar(f"test/{tag}", value, step)
    board.close()
