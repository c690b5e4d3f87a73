"""What training changes: the networks, the average of the generator, and their optimizers."""

from dataclasses import dataclass

from torch import nn
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
