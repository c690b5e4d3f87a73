"""A training process among others: who owns the run folder, and how it is asked to stop."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from streamgan.core.errors import CheckpointError, ConfigError, StreamganError, file_error, is_of_file_system
from streamgan.core.run_folder import LOCK
from streamgan.core.storage.hub import BUNDLED
from streamgan.core.storage.locks import close_descriptor, is_at, lock_or_warn, open_descriptor
from streamgan.data.format import MANIFEST

from .output import noticing_a_closed_console

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
SAME_S = 1.0

_AS_THE_SETTINGS_SAY = ("false", "no", "fp16", "bf16", "1")  # values of the launcher's options


def refuse_launcher_options() -> None:
    """ConfigError where `accelerate launch` was told to train in another way than the settings say."""
    whole = "leave it out: every process holds the networks whole"
    asked = {
        "fsdp": (os.environ.get("ACCELERATE_USE_FSDP", "no"), whole),
        "deepspeed": (os.environ.get("ACCELERATE_USE_DEEPSPEED", "no"), whole),
        "megatron_lm": (os.environ.get("ACCELERATE_USE_MEGATRON_LM", "no"), whole),
        "parallelism_config": (os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "no"), whole),
        "dynamo_backend": (os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no"), "set run.compile=true instead"),
        "gradient_accumulation_steps": (
            os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
            "set optim.accumulate instead",
        ),
        "mixed_precision": (os.environ.get("ACCELERATE_MIXED_PRECISION", "no"), "choose bf16, fp16 or no"),
    }
    for option, (value, todo) in asked.items():
        if value.lower() not in _AS_THE_SETTINGS_SAY:
            raise ConfigError("launcher", f"asks for {option}={value}, which streamgan does not take", todo)


@contextmanager
def run_lock(run: Path, *, active: bool) -> Iterator[None]:
    """Hold the run folder (made if need be); CheckpointError if another process trains in it.

    The kernel releases the lock when the process ends, however it ends: its loader processes, which may live
    on for seconds, do not hold it.
    """
    if not active:
        yield
        return
    try:
        for name, what in ((MANIFEST, "a shard set"), (BUNDLED, "an exported model")):
            if (run / name).exists():
                raise ConfigError(
                    "run.dir", f"is {what} (got {run})", "choose a folder of its own for the run"
                )
        run.mkdir(parents=True, exist_ok=True)
        lock = open_descriptor(run / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        what = "cannot be the folder of a run"
        raise file_error(error, run, what=what, kind=ConfigError) from error
    try:
        if not lock_or_warn(lock, run):
            what = "another process trains here"
            raise CheckpointError(run, what, "wait for it, or choose another run.dir")
        yield
        if not is_at(lock, run / LOCK):
            what = "was removed, or another folder put in its place, while the run wrote to it"
            raise CheckpointError(run, what, "start the run again with a folder of its own")
    finally:
        close_descriptor(lock)


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for the next step. Without glibc it does nothing.

    Otherwise large tensors go back to the system and are zeroed again page by page, many times per step: 6%
    of the time of a U-Net step on 2 cores.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
        mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)  # what is smaller comes from the heap


def stop_with_launcher() -> None:
    """Let the kernel send SIGTERM when the process that started this one ends: no orphan trains on.

    Of several processes the launcher tells each; of one, `accelerate launch` just ends. Linux only.
    """
    launched = any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"))
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def join_processes(*, timeout_s: float) -> None:
    """Connect to the other processes of the launch; one that waits longer than `timeout_s` for them fails.

    The Accelerator takes over the connection that it finds. ConfigError where the launcher was asked for
    several CPU processes and starts one, which nothing else would say: it leaves an address and no ranks; and
    without a port, for which the processes would wait out the time.
    """
    alone = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    if alone and not {"WORLD_SIZE", "RANK", "LOCAL_RANK"} & set(os.environ):
        what = "several processes were asked for, but `accelerate launch` starts only one on the CPU"
        raise ConfigError(
            "launcher", what, "use launch/accelerate/cpu_two_processes.yaml as its first lines say"
        )
    if os.environ.get("MASTER_PORT") == "0":  # torchrun hands on what it was given
        what = "no port to meet the other processes at (got MASTER_PORT=0)"
        raise ConfigError("launcher", what, "give a free port, or torchrun --standalone")
    on_cpu, timeout = parse_flag_from_env("ACCELERATE_USE_CPU"), timedelta(seconds=timeout_s)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if restarts and os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps its store over restarts (torch 2.14): without a name of its own for each attempt, the
        # processes of this one wait for those of the last. Launchers on several machines may count apart.
        store, rank, world = next(rendezvous("env://", timeout=timeout))
        torch.distributed.init_process_group(
            "gloo" if on_cpu else "nccl",
            store=PrefixStore(f"restart-{restarts}", store),
            rank=rank,
            world_size=world,
            timeout=timeout,
        )
    PartialState(cpu=on_cpu, timeout=timeout)


@contextmanager
def naming_lost_processes(run: str) -> Iterator[None]:
    """Turn what a broken connection to another process raises into one line."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "/gloo/" not in str(error):
            raise
        late = any(word in str(error).lower() for word in ("timed out", "timeout"))
        reason = "it did not answer in time" if late else "its connection broke"
        todo = "the error of the process that ended first says why; run the same command to continue"
        raise StreamganError(run, f"another process is lost ({reason})", todo) from error


@contextmanager
def naming_file_errors(run: Path) -> Iterator[None]:
    """Turn what the file system refuses in mid-run (a full disk, a folder that is gone) into one line."""
    try:
        yield
    except OSError as error:
        if not is_of_file_system(error):
            raise
        if not run.is_dir():
            todo = "start the run again, and do not remove its folder while it runs"
            raise CheckpointError(run, "was removed while the run wrote to it", todo) from error
        where, then = error.filename or run, "run the same command again"
        raise file_error(error, where, then=then, kind=CheckpointError) from error


class StopRequest:
    """SIGTERM, SIGUSR1, SIGHUP and Ctrl-C ask the run to finish its step and save; a second Ctrl-C kills.

    One that follows within a second is the same: the terminal and the launcher may both have sent it. So does
    a console that goes away, but `nohup` is respected.
    """

    def __init__(self) -> None:
        self.asked = False
        self._asked_at = 0.0
        self._votes: Any = None
        self._undo = ExitStack()

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._undo.callback(signal.signal, number, signal.signal(number, self._ask))
        self._undo.enter_context(noticing_a_closed_console(self._ask))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether to stop now, the same answer on every rank; to be called by all of them after every step.

        Of several ranks it is what they said after the step before: the votes are long counted, nobody waits.
        """
        if accelerator.num_processes == 1:
            return self.asked
        mine = torch.full((), float(self.asked), device=accelerator.device)
        counted, self._votes = self._votes, accelerator.reduce(mine, "sum")
        return counted is not None and bool(counted.item() > 0)

    def _ask(self, number: int | None = None, frame: FrameType | None = None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._asked_at = True, now
        elif number == signal.SIGINT and now - self._asked_at > SAME_S:
            raise KeyboardInterrupt
