"""A torch profiler trace of some steps, `RUN/profile/*.json`, for Perfetto or TensorBoard."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from streamgan.core.logs import say
from streamgan.core.run_folder import PROFILE


class Trace:
    """Records steps `first` to `last` of the run (both included); None: nothing. On the main process only."""

    def __init__(self, run: Path, steps: tuple[int, int] | None, *, active: bool):
        self._folder = run / PROFILE
        self._first, self._last = steps if steps and active else (0, -1)
        self._profile: profile | None = None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around step number `step`, counted from 1."""
        if step == self._first:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *cuda], record_shapes=True)
            self._profile.start()
        yield
        if self._profile is not None:
            self._profile.step()
            if step == self._last:
                self.close()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what was recorded, also when the run ends earlier."""
        if self._profile is None:
            return
        running, self._profile = self._profile, None
        running.stop()
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"steps-{self._first:08d}-{self._last:08d}.pt.trace.json"
        running.export_chrome_trace(str(path))
        say(f"{path}: open it in https://ui.perfetto.dev or TensorBoard's profile plugin")
