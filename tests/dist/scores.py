"""Every metric on one rank's share of fixed images, in batches of 3; rank 0 writes what `compute` gives.

Arguments: the file to write. The shares differ in size, and the last rank's last batch has no image.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from streamgan.core.color import HEADS
from streamgan.metrics import ColorizationMetrics, SaturationSweep
from streamgan.metrics.perceptual import PerceptualScores

NUM_IMAGES, BATCH = 11, 3


def features(color_B3HW: torch.Tensor) -> torch.Tensor:
    """Means over a grid of 2 x 2, (B, 12)."""
    return torch.nn.functional.adaptive_avg_pool2d(color_B3HW.float(), 2).flatten(1) / 64


def main(path: str) -> None:
    accelerator = Accelerator(cpu=True)
    world = accelerator.num_processes
    noise = torch.Generator().manual_seed(0)
    truth, made = (
        torch.randint(0, bound, (NUM_IMAGES, 3, 16, 20), dtype=torch.uint8, generator=noise)
        for bound in (256, 200)
    )
    steps = -(-NUM_IMAGES // (BATCH * world)) + 1  # one more, which is padding
    ids = torch.full((steps * BATCH * world,), -1)
    ids[:NUM_IMAGES] = torch.arange(NUM_IMAGES)
    scores = PerceptualScores(
        num_features={"": 12, "_lite0": 12}, with_kid=True, means=["lpips", "semantic"], device=torch.device("cpu")
    )
    metrics, sweep = ColorizationMetrics(), SaturationSweep()
    for row in ids.view(steps, world, BATCH)[:, accelerator.process_index]:
        valid = row >= 0
        real_B3HW, made_B3HW = truth[row], made[row]
        metrics.update(made_B3HW, real_B3HW, valid)
        sweep.update(*HEADS["lab"].encode(made_B3HW, None), real_B3HW, valid)
        seen = features(made_B3HW)[valid], features(real_B3HW)[valid]
        same_B = seen[0].argmax(1) % 2 == seen[1].argmax(1) % 2
        scores.update({"": seen, "_lite0": (seen[0] / 2, seen[1])}, {"lpips": seen[0].mean(1), "semantic": same_B})
    result = {**metrics.compute(), **sweep.compute(), **scores.compute()}
    if accelerator.is_main_process:
        Path(path).write_text(json.dumps({"world": world, **result}))
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
