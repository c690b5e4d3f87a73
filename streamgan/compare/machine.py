"""On what a row was trained, for the foot of the table."""

import platform
from pathlib import Path

import torch

from streamgan.core.machine import usable_cores


def describe_machine(device: torch.device, *, precision: str) -> str:
    """One line: processor, cores, device, torch, precision."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    return f"{_cpu()}, {usable_cores()} cores, {name}, torch {torch.__version__}, mixed precision {precision}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows the family alone
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
