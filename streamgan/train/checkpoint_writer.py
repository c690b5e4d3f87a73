"""Writing checkpoints beside the training: the state is copied first, a thread does the rest.

The loop pays for the copy alone. One write is under way at a time; the next one, and the end of the run, wait
for it, and what went wrong in it is raised there. A process killed at any instant leaves the checkpoint
before: the folder gets its name when it is whole.
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from streamgan import __version__
from streamgan.core.errors import CheckpointError, file_error
from streamgan.core.run_folder import (
    FORMAT,
    META,
    VERSION,
    best_first,
    checkpoint_folder,
    checkpoint_path,
    list_checkpoints,
    read_checkpoint,
    score_of,
    sealed,
    set_aside,
)
from streamgan.core.settings import TrainConfig
from streamgan.core.storage.files import sha256_file, write_json
from streamgan.core.storage.local import sync_directory

from .build import generator_spec
from .checkpoint import Progress
from .networks import Networks
from .schedule import Lengths

_UNFINISHED = ".tmp"  # ends the names of folders that are being written or removed


@dataclass(frozen=True)
class Snapshot:
    """Copies on the CPU of all that a checkpoint holds, and what is said about it."""

    weights: dict[str, dict[str, Tensor]]
    trainer: dict[str, Any]
    about: dict[str, str]
    meta: dict[str, Any]


class CheckpointWriter:
    """Saves the checkpoints of one run, from the main process; on other ranks every method does nothing."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        networks: Networks,
        progress: Progress,
        lengths: Lengths,
        digest: str,
        num_photos: int,
        saved: int,
    ):
        self._run, self._config, self._accelerator = Path(config.run.dir), config, accelerator
        self._networks, self._progress, self._lengths = networks, progress, lengths
        self._digest, self._num_photos = digest, num_photos  # of the training set
        self._thread: ThreadPoolExecutor | None = None
        if accelerator.is_main_process:
            checkpoint_folder(self._run).mkdir(exist_ok=True)  # what is in its way is found before the work
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._saved = saved  # the step of the newest checkpoint, 0 if there is none

    def save(self, step: int, validation: dict[str, float] | None = None) -> None:
        """Copy the state; it is on the disk at the next `wait`, which also comes first here.

        A step that has been saved gets the new figures and nothing else: they come after a validation.
        """
        if self._thread is None:
            return
        self.wait()
        progress, validation = self._progress, validation or {}
        about = {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "finished": step == self._lengths.total or progress.out_of_patience,
            "shards_digest": self._digest,
            "num_photos": self._num_photos,
            "validation": validation,
            "score": score_of(validation, progress.metric),
            "progress": {"best": progress.best, "stale": progress.stale},
            "lengths": self._lengths.to_json(),
            "mixed_precision": self._accelerator.mixed_precision,
            "made_with": {
                "streamgan": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "device": f"{self._accelerator.num_processes} x {self._accelerator.device.type}",
            },
            "config": self._config.model_dump(mode="json"),
        }
        if self._saved == step:
            self._writing = self._thread.submit(self._write, step, about)
            return
        self._saved = step
        snapshot = take_snapshot(about, self._config, self._networks, self._accelerator)
        self._writing = self._thread.submit(self._write, step, snapshot)

    @contextmanager
    def saving_first(self, step: int) -> Iterator[None]:
        """What fails inside costs no step: it is saved before the error goes on."""
        try:
            yield
        except Exception:
            if self._saved != step:
                self.save(step)
            raise

    def wait(self) -> None:
        """Return when nothing is being written; the error, if writing failed."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, step: int, content: Snapshot | dict[str, Any]) -> None:
        try:
            if isinstance(content, Snapshot):
                write_checkpoint(self._run, step, content)
            else:
                rewrite_meta(self._run, step, content)
            run = self._config.run
            prune(self._run, run.keep, run.keep_every, run.best_metric)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(_unfinished(checkpoint_path(self._run, step)), ignore_errors=True)
            reason = _os_error(error)
            if reason is None or (reason is error and not self._run.is_dir()):
                raise
            what, then = "a checkpoint cannot be written", "run the same command again"
            raise file_error(reason, self._run, what=what, then=then, kind=CheckpointError) from error

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown(wait=True)


def take_snapshot(
    meta: dict[str, Any], config: TrainConfig, networks: Networks, accelerator: Accelerator
) -> Snapshot:
    """A copy of everything that the next step changes."""
    modules = {"generator": networks.plain_generator, "ema": networks.ema}
    if networks.plain_discriminator is not None:
        modules["discriminator"] = networks.plain_discriminator
    trainer = {
        "optimizer_g": networks.optimizer_g.state_dict(),
        "optimizer_d": None if networks.optimizer_d is None else networks.optimizer_d.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
    }
    about = {
        "format": FORMAT,
        "step": str(meta["step"]),
        "model": json.dumps(generator_spec(config)),
        "config": config.model_dump_json(),
        "shards_digest": meta["shards_digest"],
        "num_photos": str(meta["num_photos"]),
    }
    weights = {name: _copy(dict(module.state_dict())) for name, module in modules.items()}
    trainer = _copy(trainer)
    if accelerator.device.type != "cpu":
        torch.accelerator.synchronize(accelerator.device)
    return Snapshot(weights, trainer, about, meta)


def _copy(value: Any) -> Any:
    """The same structure with every tensor copied to the CPU, in its own memory order.

    The fused optimizer walks weights and moments by address: both have to come back in the order they had.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", non_blocking=True, copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    return value


def rewrite_meta(run: Path, step: int, meta: dict[str, Any]) -> None:
    """Say something new about the files of a checkpoint."""
    folder = checkpoint_path(run, step)
    write_json(folder / META, sealed({**meta, "files": read_checkpoint(folder).meta["files"]}))


def write_checkpoint(run: Path, step: int, snapshot: Snapshot) -> None:
    """Write and commit a checkpoint; one of this step that is whole already stays."""
    final = checkpoint_path(run, step)
    if (final / META).exists():
        return
    temporary = _unfinished(final)
    shutil.rmtree(temporary, ignore_errors=True)
    checkpoint_folder(run).mkdir(exist_ok=True)  # but not `run`, which somebody may have removed
    temporary.mkdir()
    for name, weights in snapshot.weights.items():
        contiguous = {key: value.contiguous() for key, value in weights.items()}
        save_file(contiguous, temporary / f"{name}.safetensors", metadata=snapshot.about)
    with open(temporary / "trainer.pt", "wb") as file:  # by its path, torch does not say what is wrong
        torch.save(snapshot.trainer, file)
    files = {}
    for path in sorted(temporary.iterdir()):
        shutil.copymode(temporary / "trainer.pt", path)  # safetensors leaves others no right to read
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    write_json(temporary / META, sealed({**snapshot.meta, "files": files}))
    os.replace(temporary, final)
    sync_directory(final.parent)


def prune(run: Path, keep: int, keep_every: int, metric: str) -> None:
    """Remove all but the newest `keep` checkpoints, the best one and those of every `keep_every` steps.

    And what a process that was killed has left unfinished.
    """
    for leftover in checkpoint_folder(run).glob(f"step-*{_UNFINISHED}"):
        shutil.rmtree(leftover)
    checkpoints = list_checkpoints(run, when_damaged=set_aside)
    best = best_first(checkpoints, metric)[0]
    for checkpoint in checkpoints[:-keep]:
        milestone = keep_every and checkpoint.step % keep_every == 0
        if not milestone and checkpoint.step != best.step:
            going = _unfinished(checkpoint.path)
            os.replace(checkpoint.path, going)  # a half-deleted folder must not look whole
            shutil.rmtree(going)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + _UNFINISHED)


def _os_error(error: BaseException) -> OSError | None:
    """The error of the file system that safetensors or torch wrap; None if there is none."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        if number := re.search(r"\(os error (\d+)\)", str(found)):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        found = found.__cause__ or found.__context__
    return found
