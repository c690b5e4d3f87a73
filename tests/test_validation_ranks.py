"""Validation on several ranks: disjoint parts, padding masked, and together the score of one process."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from training import read_metrics, settings, tiny_config

from streamgan.core.color import HEADS
from streamgan.data.loader import build_eval_loader
from streamgan.data.reading import Reading, Source
from streamgan.losses import RECONSTRUCTION
from streamgan.models import GENERATORS
from streamgan.train.evaluate import Photos, evaluate_weights, score_generator
from streamgan.train.loop import train

IMAGES = 13  # over 2 ranks of 4 images per step: 8 and 5, then 3 places of padding
ONE_STEP = ["run.steps=1", f"run.validate_images={IMAGES}"]


@pytest.mark.parametrize("world", [2, 3])
def test_the_scores_of_all_ranks_together_are_those_of_one_process(shard_set, world):
    torch.manual_seed(0)
    generator = GENERATORS["unet"](out_channels=2, width=4, depth=3)
    torch.nn.init.normal_(generator.last.weight, 0, 0.1)
    accelerator = Accelerator(cpu=True)

    def score(rank: int, world: int) -> tuple[int, dict[str, float]]:
        loader = build_eval_loader(
            shard_set, "val", batch=4, size=48, rank=rank, world=world, num_images=IMAGES
        )
        count = sum(int((batch.ids_B >= 0).sum()) for batch in loader)
        l1 = RECONSTRUCTION["l1"]
        return count, score_generator(
            generator, HEADS["lab"], loader, accelerator=accelerator, reconstruction=l1
        )

    count, whole = score(0, 1)
    parts = [score(rank, world) for rank in range(world)]
    assert sum(part[0] for part in parts) == count == IMAGES
    assert len({part[0] for part in parts}) > 1
    means = ("loss", "psnr", "ssim", "cf", "ab_error")
    together = {name: sum(n * scores[name] for n, scores in parts) / IMAGES for name in means}
    assert together == pytest.approx({name: whole[name] for name in means}, rel=1e-5)


@pytest.mark.parametrize(("head", "channels"), [("lab", 2), ("ycbcr", 2), ("rgb", 3)])
def test_the_gain_of_every_head_is_over_the_gray_row_beside_it(shard_set, head, channels):
    torch.manual_seed(0)
    generator = GENERATORS["unet"](out_channels=channels, width=4, depth=3, bounded=channels == 3)
    torch.nn.init.normal_(generator.last.weight, 0, 0.3)
    reading = Reading(Source(str(shard_set)), 48, workers=0)
    found = evaluate_weights(generator, HEADS[head], Photos(reading, "val", 6, batch=4))
    model, gray = found["model"], found["baselines"]["gray"]
    assert model["psnr_gain"] == pytest.approx(model["psnr"] - gray["psnr"], abs=1e-4)
    assert model["psnr_gain_95"] > 0
    assert (gray["psnr_gain"], gray["psnr_gain_95"]) == (0, 0)


@pytest.mark.parametrize("batch", [3, 7, 100])
@pytest.mark.slow
def test_an_evaluation_has_the_same_digits_for_every_batch_size(shard_set, batch):
    torch.manual_seed(0)
    generator = GENERATORS["unet"](out_channels=2, width=4, depth=3)

    def evaluate(batch: int) -> dict[str, float]:
        reading = Reading(Source(str(shard_set)), 48, workers=0)
        found = evaluate_weights(generator, HEADS["lab"], Photos(reading, "val", IMAGES, batch))
        rows = {"model": found["model"], **found["baselines"]}
        return {f"{name} {metric}": row[metric] for name, row in rows.items() for metric in ("psnr", "ssim")}

    assert evaluate(batch) == evaluate(1)  # with which nothing is padded


def validation_figures(run: Path) -> dict[str, float]:
    """Those of baselines, which do not depend on the training."""
    (line,) = (line for line in read_metrics(run) if "val/psnr" in line)
    return {tag: value for tag, value in line.items() if tag.startswith(("val/gray", "val/median_ab"))}


@pytest.fixture(scope="module")
def unpadded(shard_set, tmp_path_factory) -> dict[str, float]:
    run = tmp_path_factory.mktemp("unpadded")
    train(tiny_config(shard_set, run, *ONE_STEP, "data.batch=1"))
    return validation_figures(run)


@pytest.mark.parametrize("words", [["data.batch=64"], ["optim.accumulate=2"]])
def test_a_validation_has_the_same_digits_for_every_batch(shard_set, unpadded, tmp_path, words):
    train(tiny_config(shard_set, tmp_path, *ONE_STEP, *words))
    assert validation_figures(tmp_path) == unpadded


@pytest.mark.slow
@pytest.mark.dist
def test_a_validation_has_the_same_digits_on_two_processes(template, shard_set, unpadded, tmp_path):
    template.run_ranks(settings(shard_set, tmp_path, *ONE_STEP))
    assert validation_figures(tmp_path) == unpadded
