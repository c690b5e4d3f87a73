"""On what a row was trained, for the foot of the table."""

import torch

from streamgan.core.machine import processor, usable_cores


def describe_machine(device: torch.device, *, precision: str) -> str:
    """One line: processor, cores, device, torch, precision."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    cores = usable_cores()
    return f"{processor()}, {cores} cores, {name}, torch {torch.__version__}, mixed precision {precision}"
