"""The loops that `step.py` compares: `step_arms.py ARM SHARDS SCRATCH REPORT`, each in its own process.

Same networks from the same code, same batch, same losses, same threads. The hand-written loops have their
batches in memory, already in Lab as floats: they decode, convert, average, log and save nothing.
"""

import itertools
import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import l1_loss

from streamgan.core.color import Head
from streamgan.core.config import load_config
from streamgan.core.settings import TrainConfig
from streamgan.losses import ADVERSARIAL
from streamgan.train.build import build_head, build_networks, build_train_loader
from streamgan.train.loop import train
from streamgan.train.networks import Networks
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


class HandLoop:
    """One G forward, D on real and fake at once, fused Adam; `plain`: D twice, Adam as it comes (pix2pix)."""

    def __init__(self, config: TrainConfig, networks: Networks, head: Head, *, plain: bool):
        assert networks.plain_discriminator is not None
        self._g, self._d, self._head = networks.plain_generator, networks.plain_discriminator, head
        self._gan, self._gan_weight = ADVERSARIAL[config.loss.gan], config.loss.gan_weight
        self._plain = plain
        optim, fused = config.optim, None if plain else True
        self._optimizer_g = torch.optim.Adam(
            self._g.parameters(), lr=optim.lr_g, betas=optim.betas, fused=fused
        )
        self._optimizer_d = torch.optim.Adam(
            self._d.parameters(), lr=optim.lr_d, betas=optim.betas, fused=fused
        )

    def step(self, gray: Tensor, target: Tensor, precision: AbstractContextManager[Any]) -> None:
        """One step of both networks, forward passes and losses under `precision`."""
        with precision:
            fake = self._g(gray)
            self._d.requires_grad_(True)
            real_pair, fake_pair = self._head.pair(gray, target), self._head.pair(gray, fake.detach())
            if self._plain:
                real_logits, fake_logits = self._d(real_pair), self._d(fake_pair)
            else:
                real_logits, fake_logits = self._d(torch.cat((real_pair, fake_pair))).chunk(2)
            loss_d = self._gan.d_real(real_logits) + self._gan.d_fake(fake_logits)
        self._optimizer_d.zero_grad()
        loss_d.backward()
        self._optimizer_d.step()
        self._d.requires_grad_(False)
        with precision:
            loss_g = l1_loss(fake, target)
            loss_g = loss_g + self._gan_weight * self._gan.g(self._d(self._head.pair(gray, fake)))
        self._optimizer_g.zero_grad()
        loss_g.backward()
        self._optimizer_g.step()


def by_hand(config: TrainConfig, *, plain: bool) -> float:
    """Seconds of the steps of a loop by hand."""
    accelerator = Accelerator()
    torch.set_num_threads(config.run.threads)
    head = build_head(config)
    hand = HandLoop(config, build_networks(config, accelerator), head, plain=plain)
    loader = build_train_loader(config, accelerator, start_step=0, stop_step=WARM)
    memory = [tuple(head.encode(batch.color_B3HW, batch.gray_B1HW)) for batch in loader]
    began = 0.0
    for step, (gray, target) in enumerate(itertools.islice(itertools.cycle(memory), WARM + STEPS)):
        if step == WARM:
            began = time.monotonic()
        hand.step(gray, target, nullcontext())
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
