"""What this process may use of the machine it runs on."""

import os


def usable_cores() -> int:
    """CPU cores that this process may run on; where a system cannot say (macOS), all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
