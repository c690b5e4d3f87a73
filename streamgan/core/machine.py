"""What this process may use of the machine it runs on."""

import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """CPU cores that this process may run on; where a system cannot say (macOS), all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows the family alone
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
