"""What this process may use of the machine it runs on."""

import os
import platform
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")  # the control group of a container (Linux, version 2)


def usable_cores() -> int:
    """CPU cores that this process may run on; where a system cannot say (macOS), all of them.

    A container has no more than its limit pays for, rounded up: beyond that its processes are only held up.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = GROUP / "cpu.max"  # microseconds of a core, and in how many of the clock
    quota, period = limit.read_text().split() if limit.exists() else ("max", "")
    return cores if quota == "max" else min(cores, -(-int(quota) // int(period)))


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows the family alone
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def available_memory() -> int | None:
    """Bytes that this process may take before the system swaps or kills; None where none says it (macOS)."""
    free = [_number(Path("/proc/meminfo"), "MemAvailable:", 1024)]
    if (most := _number(GROUP / "memory.max", "", 1)) is not None:
        used = (_number(GROUP / "memory.current", "", 1) or 0) - (
            _number(GROUP / "memory.stat", "inactive_file ", 1) or 0
        )
        free.append(most - used)
    return min((number for number in free if number is not None), default=None)


def _number(path: Path, name: str, unit: int) -> int | None:
    """The number behind `name` in a file of the kernel's; None if there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    words = [line.removeprefix(name).split() for line in lines if line.startswith(name)]
    return int(words[0][0]) * unit if words and words[0] and words[0][0].isdecimal() else None
