"""What a rank sees of its launcher and of R1: `accelerate launch facts.py OUT` writes OUT/rank-N.json.

With `exit N` in place of OUT it ends with that code.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from streamgan.losses import r1_penalty


def gradient_of_r1(model: nn.Module, accelerator: Accelerator) -> list[float]:
    """The gradient of R1 on images that differ from rank to rank."""
    generator = torch.Generator().manual_seed(int(os.environ.get("RANK", "0")))
    real = torch.rand(2, 3, 8, 8, generator=generator).requires_grad_()
    accelerator.backward(r1_penalty(model(real), real))
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    gradient = torch.cat(found).tolist()
    model.zero_grad()
    return gradient


def main(out: str, *code: str) -> None:
    if out == "exit":
        sys.exit(int(code[0]))
    accelerator = Accelerator()
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3))
    wrapped = accelerator.prepare(plain)
    found = {
        "world": int(os.environ.get("WORLD_SIZE", "1")),
        "num_processes": accelerator.num_processes,
        "plain": gradient_of_r1(accelerator.unwrap_model(wrapped), accelerator),
        "wrapped": gradient_of_r1(wrapped, accelerator),
    }
    (Path(out) / f"rank-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
