"""Write ids and pixel hashes of this rank's first 20 batches: `accelerate launch batch_ids.py SHARDS OUT`."""

import json
import sys
from hashlib import sha256
from pathlib import Path

from streamgan.core.config import load_config
from streamgan.data import Batch
from streamgan.train.build import build_train_loader, start_accelerator


def sample_hashes(batch: Batch) -> list[list[int | str]]:
    """[id, sha256 of the crop] of each sample."""
    images = (image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in batch.color_B3HW)
    return [[i, sha256(data).hexdigest()] for i, data in zip(batch.ids_B.tolist(), images, strict=True)]


if __name__ == "__main__":
    shards, out = sys.argv[1:]
    config = load_config(None, [f"data.shards={shards}", "data.batch=8", "data.size=48", "run.steps=20"])
    accelerator = start_accelerator(config)
    loader = build_train_loader(config, accelerator, start_step=0, stop_step=20)
    Path(out).mkdir(parents=True, exist_ok=True)
    ids = [sample_hashes(batch) for batch in loader]
    (Path(out) / f"rank-{accelerator.process_index}.json").write_text(json.dumps(ids))
    accelerator.end_training()
