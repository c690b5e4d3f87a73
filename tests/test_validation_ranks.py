"""Validation on several ranks: disjoint parts, padding masked, and together the score of one process."""

import pytest
import torch
from accelerate import Accelerator

from streamgan.core.color import HEADS
from streamgan.data.loader import build_eval_loader
from streamgan.losses import RECONSTRUCTION
from streamgan.models import GENERATORS
from streamgan.train.evaluate import score_generator

IMAGES = 13  # over 2 ranks of 4 images a step: 8 and 5, then 3 places of padding


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
