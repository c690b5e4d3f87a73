"""What training changes: networks, the average of the generator (EMA, in float32), optimizers."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW


@dataclass
class Networks:
    """Everything that a checkpoint holds beside the step; modules as `Accelerator.prepare` gives them.

    `plain_*` are the same modules without the distributed wrapper: what is averaged, saved and frozen.
    """

    generator: nn.Module
    plain_generator: nn.Module
    ema: nn.Module
    optimizer_g: AdamW
    discriminator: nn.Module | None = None
    plain_discriminator: nn.Module | None = None
    optimizer_d: AdamW | None = None


def ema_copy(model: nn.Module) -> nn.Module:
    """A frozen copy of `model` in eval mode, to be moved by `update_ema`."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards those of `model`; buffers and counters are copied."""
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]  (one kernel for all tensors)
        list(average.parameters()), list(model.parameters()), 1 - decay
    )
    by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}  # one kernel for each
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        olds, news = by_dtype.setdefault(old.dtype, ([], []))
        olds.append(old)
        news.append(new)
    for olds, news in by_dtype.values():
        torch._foreach_copy_(olds, news)  # pyright: ignore[reportPrivateImportUsage]
