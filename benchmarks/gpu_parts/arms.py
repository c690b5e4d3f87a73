"""What the step of `streamgan train` is measured as, and beside: calls that make one step each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from step_arms import HandLoop
from torchvision.models import get_model

from streamgan.core.settings import TrainConfig
from streamgan.data.loader import build_loader
from streamgan.models import channels_last, layers
from streamgan.train import build, graphs
from streamgan.train.networks import EmaUpdate
from streamgan.train.terms import build_losses

from .candidates import ON_A_CARD_ALONE, PATCHES, candidate
from .task import SMALL, Task, on_gpu, precision, recipe

Call = Callable[[], object]
MAIN = "bf16"
# name: (recipe, side in pixels, batch)
MODELS = {
    "default": ("default", 256, 32),
    "pix2pix": ("pix2pix", 256, 32),
    "paper, 512 px": ("paper", 512, 8),
    "ddcolor": ("ddcolor", 256, 32),
    "paper": ("paper", 256, 32),
    "default, large batch": ("default", 256, 128),  # where the host has time to spare
}


@dataclass(frozen=True)
class Arm:
    """How a step is made. `native`: with PyTorch's own norms and PixelShuffle, which leave channels last;
    `graphs`: with the CUDA graphs of a run; `candidate`: one of candidates.py."""

    precision: str
    channels_last: bool = True
    compiled: bool = False
    native: bool = False
    graphs: bool = True
    candidate: str = ""


ARMS = {
    MAIN: Arm("bf16"),
    "bf16, kernel by kernel": Arm("bf16", graphs=False),
    "fp32 (TF32)": Arm("no"),
    "fp16": Arm("fp16"),
}
COMPILED = {"bf16, compiled": Arm("bf16", compiled=True)}
CANDIDATES = {
    f"bf16, {name}": Arm("bf16", candidate=name)
    for name in PATCHES
    if on_gpu() or name not in ON_A_CARD_ALONE
}
MORE_ARMS = {  # of the default recipe, if time is left
    "bf16, PyTorch's norms": Arm("bf16", native=True),
    "bf16, NCHW": Arm("bf16", channels_last=False),
    "fp32 (TF32), NCHW": Arm("no", channels_last=False),
    "fp16, NCHW": Arm("fp16", channels_last=False),
    "fp32 (TF32), compiled": Arm("no", compiled=True),
    "fp16, compiled": Arm("fp16", compiled=True),
    "bf16, NCHW, compiled": Arm("bf16", channels_last=False, compiled=True),
    "fp16, NCHW, compiled": Arm("fp16", channels_last=False, compiled=True),
    "fp32 (TF32), NCHW, compiled": Arm("no", channels_last=False, compiled=True),
}


def config_of(task: Task, name: str, *more: str, how: Arm = ARMS[MAIN]) -> TrainConfig:
    source, size, batch = MODELS[name]
    words = [
        f"data.size={task.choose(size, 32)}", f"data.batch={task.choose(batch, 2)}",
        f"run.channels_last={how.channels_last}", f"run.compile={how.compiled}",
        f"run.cuda_graphs={how.graphs}", *task.choose([], SMALL), *more,
    ]  # fmt: skip
    if task.rehearse and how.compiled:  # a CPU's compiler takes minutes for the recipe's own
        words += ["model.generator=unet", "model.depth=3"]
    config = recipe(task, source, *words)
    if not config.loss.perceptual_weight:
        return config
    return recipe(task, source, *words, f"loss.perceptual_file={_untrained(task, config.loss.perceptual)}")


def _untrained(task: Task, vgg: str) -> str:
    """Weights of a perceptual loss: what a step costs does not depend on what they have learnt."""
    path = task.scratch / f"{vgg}.pt"
    if not path.exists():
        torch.save(get_model(vgg, init_weights=False).state_dict(), path)
    return str(path)


def _batch(config: TrainConfig) -> torch.Tensor:
    """A batch of photos on the card, uint8."""
    data = config.data
    loader = build_loader(
        str(data.shards), batch=data.batch, size=data.size, workers=0, gray=None, stop_step=1
    )
    return next(iter(loader)).color_B3HW.to("cuda" if on_gpu() else "cpu")


def our_step(config: TrainConfig, how: Arm = ARMS[MAIN]) -> Call:
    with precision(how.precision):
        accelerator = build.start_accelerator(config)
        networks = build.build_networks(config, accelerator)
    losses = build_losses(config)
    train_step = build.build_step(config, accelerator, networks, losses)
    move_average = EmaUpdate(networks.ema, networks.plain_generator)
    color = _batch(config)
    with operators(how):
        if graphs.wanted(config, accelerator):
            graphs.use_graphs(config, networks, losses, train_step, accelerator.device)

    def call() -> None:
        with operators(how):
            train_step(color, None, step=1, adversarial_weight=config.loss.gan_weight)
        move_average(0.999)

    return call


@contextmanager
def operators(how: Arm) -> Iterator[None]:
    """Those of an arm: with a candidate, or without what keeps a map in channels-last order."""
    if not how.native:
        with candidate(how.candidate) if how.candidate else nullcontext():
            yield
        return
    with (
        patch.multiple(layers, leaves_channels_last=_never),
        patch.multiple(channels_last, leaves_channels_last=_never),
    ):
        yield


def _never(x_BCHW: torch.Tensor) -> bool:
    return False


def hand_step(config: TrainConfig, plain: bool) -> Call:
    with precision("no"):  # networks without a wrapper: the loop chooses its own precision
        networks = build.build_networks(config, Accelerator())
    head = build.build_head(config)
    hand = HandLoop(config, networks, head, plain=plain)
    color = _batch(config)
    gray, target = head.encode(color, None)

    def rounded() -> AbstractContextManager[Any]:
        return nullcontext() if plain else torch.autocast(color.device.type, torch.bfloat16)

    return lambda: hand.step(gray, target, rounded())
