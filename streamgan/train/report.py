"""What a run shows, with the same numbers everywhere: TensorBoard, metrics.jsonl, sample grids, console."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from streamgan.core.config import dump_yaml
from streamgan.core.logs import progress, say
from streamgan.core.run_folder import CONFIG, METRICS, SAMPLES, step_name
from streamgan.core.settings import TrainConfig
from streamgan.core.storage.files import atomic_write
from streamgan.core.storage.retry import num_retries
from streamgan.data.bottleneck import BottleneckAdvice, sample_ms
from streamgan.data.loader import Loader

from .grid import labelled_grid
from .history import cut_history

_HPARAM_METRICS = ("val/psnr", "val/ssim", "val/loss", "perf/images_per_s")


class Interval:
    """What happened since the last log line: means of device scalars over steps and ranks, and speed.

    Scalars stay on the device; the host reads them once an interval, in `read`.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, loader: Loader, *, start_step: int):
        self._batch_size, self._accelerator, self._loader = config.data.batch, accelerator, loader
        device = "GPU" if accelerator.device.type == "cuda" else "CPU"
        self._advice = BottleneckAdvice(workers=config.data.workers, device=device)
        self.restart(start_step)

    def restart(self, step: int) -> None:
        """Begin a new interval after `step`; what was validated and saved in between is not counted."""
        self._step, self._started, self._waited_s = step, time.monotonic(), 0.0
        self._stats = self._loader.stats
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is time that the step waits for data."""
        asked = time.monotonic()
        yield
        self._waited_s += time.monotonic() - asked

    def add(self, scalars: dict[str, Tensor]) -> None:
        known = [tag for tag in scalars if tag in self._sums]
        if known:
            sums, values = ([by_tag[tag] for tag in known] for by_tag in (self._sums, scalars))
            torch._foreach_add_(sums, values)  # pyright: ignore[reportPrivateImportUsage]  (one kernel)
        self._sums |= {tag: value.clone() for tag, value in scalars.items() if tag not in self._sums}
        for tag in scalars:
            self._counts[tag] = self._counts.get(tag, 0) + 1

    def read(self, step: int) -> dict[str, float]:
        """Means by tag over the ranks (`grad/skipped`: a count), and `perf/*` and `data/*` of this rank.

        `data/bad` and `data/retries` count since this process began, `data/cache_hit` is the share of the
        samples that were on this machine when they were asked for.
        """
        tags = sorted(self._sums)
        means = torch.stack(
            [self._sums[tag] / (1 if tag == "grad/skipped" else self._counts[tag]) for tag in tags]
        )
        means = self._accelerator.reduce(means, "mean")
        values: dict[str, float] = dict(zip(tags, means.tolist(), strict=True))  # type: ignore[union-attr]
        seconds, steps = time.monotonic() - self._started, step - self._step
        values["perf/images_per_s"] = steps * self._batch_size / seconds
        values["perf/step_ms"] = 1000 * seconds / steps
        values["perf/data_wait_ms"] = 1000 * self._waited_s / steps
        stats = self._loader.stats - self._stats
        values["data/read_ms"], values["data/decode_ms"] = sample_ms(stats)
        values["data/read_MBps"] = stats.bytes / 1e6 / seconds
        values["data/cache_hit"] = stats.hits / max(1, stats.samples)
        values["data/retries"], values["data/bad"] = num_retries(), self._loader.replaced
        device = self._accelerator.device
        # reserved: what CUDA graphs hold counts as allocated in no figure of PyTorch's
        peak_bytes = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
        values["perf/gpu_mem_gb"] = peak_bytes / 1e9
        return {"grad/scale": 1.0} | values  # only fp16 scales its losses

    def advise(self, step: int) -> None:
        """Say what is new of data and computation."""
        news = self._advice.add(
            seconds=time.monotonic() - self._started,
            waited_s=self._waited_s,
            images=(step - self._step) * self._batch_size // self._accelerator.num_processes,
            stats=self._loader.stats - self._stats,
        )
        if news:
            say(news)


class RunReport:
    """The main process's writers; on other ranks every method does nothing.

    Lines of metrics.jsonl and TensorBoard points after `start_step` belong to work that was lost and is
    done again: they are dropped; and if `start_step` is validated `again`, what that gave.
    """

    def __init__(self, config: TrainConfig, *, start_step: int, total_steps: int, active: bool, again: bool):
        self._run, self.active = Path(config.run.dir), active
        if not active:
            return
        run = self._run
        with atomic_write(run / CONFIG) as file:
            file.write(dump_yaml(config).encode())
        self._jsonl = run / METRICS
        cut_history(run, start_step, again=again)
        (run / SAMPLES).mkdir(exist_ok=True)  # what is in its way is found before the work
        self._excepthook, threading.excepthook = threading.excepthook, self._of_a_thread
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start_step + 1)
        # Elsewhere than on a terminal the line of every interval tells the same.
        self._bar = progress(
            total=total_steps, unit="step", label="train", start=start_step, hidden=not sys.stderr.isatty()
        )
        self._started, self._start_step, self._total = time.monotonic(), start_step, total_steps
        self._settings(config)

    def _settings(self, config: TrainConfig) -> None:
        """The configuration on TensorBoard: as text, and as a row of the HPARAMS page."""
        self._board.add_text("config", "```\n" + dump_yaml(config) + "\n```", 0)
        flat = {f"{section}.{key}": value for section, one in config for key, value in one}
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in flat.items()}
        for summary in hparams(plain, dict.fromkeys(_HPARAM_METRICS, 0)):  # it takes the names alone
            self._board._get_file_writer().add_summary(summary)

    def advance(self) -> None:
        if self.active:
            self._bar.update(1)

    def figures(self, step: int, values: dict[str, float]) -> None:
        """Show scalars everywhere; in metrics.jsonl non-finite ones are strings, JSON has no other."""
        if not self.active:
            return
        for tag, value in values.items():
            self._board.add_scalar(tag, value, step)
        row: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        row.update({tag: v if abs(v) != float("inf") and v == v else str(v) for tag, v in values.items()})
        with open(self._jsonl, "a") as file:
            file.write(json.dumps(row) + "\n")
        done = step - self._start_step
        left = (time.monotonic() - self._started) / max(1, done) * (self._total - step)
        say(f"step {step}/{self._total} eta {_clock(left)} {format_values(values)}")

    def grid(self, step: int, tag: str, rows: dict[str, Tensor]) -> None:
        """Rows of images ((B, 3, H, W), [0, 1]) by name under one another, to TensorBoard and RUN/samples."""
        if not self.active:
            return
        from torchvision.utils import save_image  # a second of importing

        grid = labelled_grid(rows)
        self._board.add_image(tag, grid, step)
        with atomic_write(self._run / SAMPLES / f"{step_name(step)}.png") as file:
            save_image(grid, file, format="png")

    def __enter__(self) -> "RunReport":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.active:
            return
        self._bar.close()
        writer = self._board._get_file_writer()
        try:
            self._board.close()
        except OSError:  # a full disk
            with suppress(OSError):
                writer.close()
            if kind is None:  # else what ended the run is told
                raise
        finally:
            threading.excepthook = self._excepthook

    def _of_a_thread(self, failed: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread hands its error on at the next scalar, so its traceback tells nothing."""
        if not issubclass(failed.exc_type, OSError):
            self._excepthook(failed)


_SHORT = {
    "loss/g_total": "g_loss",
    "loss/g_rec": "rec",
    "loss/g_adv": "adv",
    "loss/d_total": "d_loss",
    "loss/d_real": "real",
    "loss/d_fake": "fake",
    "val/loss": "val_loss",
    "val/psnr": "psnr",
    "val/ssim": "ssim",
    "val/cf": "cf",
    "val/gray_psnr": "gray_psnr",
    "perf/images_per_s": "img/s",
    "perf/data_wait_ms": "wait_ms",
    "grad/skipped": "skipped",
}


def format_values(values: dict[str, float]) -> str:
    """The console's share of the scalars, with short names."""
    return " ".join(f"{name} {values[tag]:.4g}" for tag, name in _SHORT.items() if tag in values)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
