"""The loops that `step.py` compares: `step_arms.py ARM SHARDS SCRATCH REPORT`, each in its own process.

Same networks from the same code, same batch, same losses, same threads. The hand-written loops have their
batches in memory, already in Lab as floats: they decode, convert, average, log and save nothing.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

from streamgan.core.config import TrainConfig, load_config
from streamgan.train.build import build_head, build_networks, build_train_loader
from streamgan.train.loop import train
from streamgan.train.process import keep_freed_memory

BATCH, SIZE, WARM, STEPS, LOG_EVERY, SAVE_EVERY = 8, 128, 3, 12, 3, 9
OURS, SAVING = "streamgan train", f"streamgan train, a checkpoint every {SAVE_EVERY} steps"
BARE, KEEPING, PLAIN = "bare loop", "bare loop that keeps freed memory", "pix2pix-style loop"
ARMS = (OURS, SAVING, BARE, KEEPING, PLAIN)
SETTINGS = [
    f"data.batch={BATCH}", f"data.size={SIZE}", "data.workers=1",
    "model.generator=unet", "model.width=64", "model.depth=6", "model.norm=instance", "model.d_width=64",
    "loss.gan=bce", "loss.gan_weight=0.01", "loss.rec=l1", "loss.warmup_steps=0", "loss.ramp_steps=0",
    "optim.betas=[0.5, 0.999]", f"run.steps={WARM + STEPS}", f"run.log_every={LOG_EVERY}",
    "run.validate_images=8", "run.sample_images=2", "run.threads=2",
]  # fmt: skip


def ours(config: TrainConfig) -> float:
    """Seconds of the steps by the clock of the run's own log, from the end of the warm-up on."""
    train(config)
    lines = [json.loads(line) for line in (Path(config.run.dir) / "metrics.jsonl").read_text().splitlines()]
    times = {line["step"]: line["time"] for line in lines if "loss/g_total" in line}
    return times[WARM + STEPS] - times[WARM]


def by_hand(config: TrainConfig, *, plain: bool) -> float:
    """One G forward, D on real and fake at once; `plain`: D twice, unfused Adam, as pix2pix does it."""
    accelerator = Accelerator()
    torch.set_num_threads(config.run.threads)
    networks = build_networks(config, accelerator)
    g, d, head = networks.plain_generator, networks.plain_discriminator, build_head(config)
    assert d is not None
    fused = None if plain else True
    options = {"lr": config.optim.lr_g, "betas": config.optim.betas, "fused": fused}
    optimizer_g, optimizer_d = (torch.optim.Adam(net.parameters(), **options) for net in (g, d))
    loader = build_train_loader(config, accelerator, start_step=0, stop_step=WARM)
    memory = [tuple(head.encode(batch.color_B3HW, batch.gray_B1HW)) for batch in loader]
    bce, began = binary_cross_entropy_with_logits, 0.0
    for step, (gray, target) in enumerate(itertools.islice(itertools.cycle(memory), WARM + STEPS)):
        if step == WARM:
            began = time.monotonic()
        fake = g(gray)
        d.requires_grad_(True)
        real_pair, fake_pair = head.pair(gray, target), head.pair(gray, fake.detach())
        if plain:
            real_logits, fake_logits = d(real_pair), d(fake_pair)
        else:
            real_logits, fake_logits = d(torch.cat((real_pair, fake_pair))).chunk(2)
        loss_d = bce(real_logits, torch.ones_like(real_logits))
        loss_d = loss_d + bce(fake_logits, torch.zeros_like(fake_logits))
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()
        d.requires_grad_(False)
        judged = d(head.pair(gray, fake))
        loss_g = l1_loss(fake, target) + 0.01 * bce(judged, torch.ones_like(judged))
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
    return time.monotonic() - began


def main() -> None:
    arm, shards, scratch, report = sys.argv[1:]
    words = [*SETTINGS, f"data.shards={shards}", f"run.dir={scratch}"]
    if arm == SAVING:
        words.append(f"run.checkpoint_every={SAVE_EVERY}")
    if arm == KEEPING:
        keep_freed_memory()  # as `streamgan train` does on a CPU
    config = load_config(None, words)
    seconds = ours(config) if arm in (OURS, SAVING) else by_hand(config, plain=arm == PLAIN)
    Path(report).write_text(json.dumps({"seconds": seconds, "images_per_s": STEPS * BATCH / seconds}))


if __name__ == "__main__":
    main()
