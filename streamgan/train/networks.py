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
    """A frozen copy of `model` in eval mode, to be moved by `EmaUpdate`."""
    return copy.deepcopy(model).eval().requires_grad_(False)


class EmaUpdate:
    """Moves the parameters of `average` towards those of `model`; buffers and counters are copied.

    Tensors are listed once: to walk over the modules takes the host a millisecond.
    """

    def __init__(self, average: nn.Module, model: nn.Module):
        self._averages: list[Tensor] = list(average.parameters())
        self._parameters: list[Tensor] = list(model.parameters())
        self._copies: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}  # one kernel for each
        for old, new in zip(average.buffers(), model.buffers(), strict=True):
            olds, news = self._copies.setdefault(old.dtype, ([], []))
            olds.append(old)
            news.append(new)

    @torch.no_grad()
    def __call__(self, decay: float) -> None:
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for olds, news in self._copies.values():
            torch._foreach_copy_(olds, news)  # pyright: ignore[reportPrivateImportUsage]
