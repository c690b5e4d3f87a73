"""Write the ids of this rank's first 20 training batches: `accelerate launch batch_ids.py SHARDS OUT`."""

import json
import sys
from pathlib import Path

from streamgan.core.config import load_config
from streamgan.train.build import build_train_loader, start_accelerator

if __name__ == "__main__":
    shards, out = sys.argv[1:]
    config = load_config(None, [f"data.shards={shards}", "data.batch=8", "data.size=48", "run.steps=20"])
    accelerator = start_accelerator(config)
    loader = build_train_loader(config, accelerator, start_step=0, stop_step=20)
    Path(out).mkdir(parents=True, exist_ok=True)
    ids = [batch.ids_B.tolist() for batch in loader]
    (Path(out) / f"rank-{accelerator.process_index}.json").write_text(json.dumps(ids))
    accelerator.end_training()
