"""A training process among others: who owns the run folder, and how it is asked to stop."""

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from streamgan.core.errors import CheckpointError

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def run_lock(run: Path, *, active: bool) -> Iterator[None]:
    """Hold the run folder (made if need be); CheckpointError if another process trains in it.

    The kernel releases the lock when the process ends, however it ends.
    """
    if not active:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                run, "another process trains here", "wait for it, or choose another run.dir"
            ) from None
        yield


def stop_with_launcher() -> None:
    """Let the kernel send SIGTERM when the process that started this one ends: no orphan trains on.

    Of several processes the launcher tells each; of one, `accelerate launch` just ends. Linux only.
    """
    launched = any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"))
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class StopRequest:
    """SIGTERM, SIGUSR1 and Ctrl-C ask the run to finish its step and save; a second Ctrl-C kills."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, accelerator: Accelerator, *, ask_others: bool) -> bool:
        """Whether to stop now, the same answer on every rank; ranks agree only where all of them ask."""
        if accelerator.num_processes == 1:
            return self.asked
        if not ask_others:
            return False
        votes = accelerator.reduce(torch.tensor(float(self.asked), device=accelerator.device), "sum")
        return bool(votes.item() > 0)  # type: ignore[union-attr]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
