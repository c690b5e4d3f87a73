"""What all tests share: one thread, nothing left behind, and a small shard set of structured photos."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import psutil
import pytest
import torch
from hypothesis import settings
from parquet_fixtures import encode, hub, write_rows
from PIL import Image, ImageDraw
from warm import Template

from streamgan.cli.main import streamgan
from streamgan.cli.output import run_command
from streamgan.core import logs
from streamgan.core.seeding import hash64, uniform
from streamgan.data.workers.processes import SERVER
from streamgan.sharding.run import ShardOptions, shard

torch.set_num_threads(1)  # many small tests on few cores, and bit-exact sums
settings.register_profile("streamgan", deadline=None, derandomize=True)
settings.load_profile("streamgan")

# What a shell starts in the background ignores Ctrl-C, under nohup SIGHUP: tests of them would wait for ever.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

GRACE_S = 5.0  # for what has been told to end and is ending
# Threads and processes that a library keeps for the life of the interpreter.
LASTING_THREADS = {"TMonitor"}  # tqdm's
# That of requests; those of a test's own server, which last as long as a client's connection
LASTING_NAMES = ("storage", "(process_request_thread)")
LASTING_PROCESSES = {"multiprocessing.resource_tracker"}  # of the `spawn` start method
SHARED_MEMORY = Path("/dev/shm")


def _descendants() -> list[psutil.Process]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # none, as in most tests: no need to look through all processes
        return []
    return psutil.Process().children(recursive=True)


def has_ended(process: psutil.Process) -> bool:
    """Also if whoever has taken over an orphan (init, in a container any program) has yet to ask how."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _children() -> set[psutil.Process]:
    found = set()
    for child in _descendants():
        try:
            line = " ".join(child.cmdline())
            lasting = child.pid == SERVER.pid or any(name in line for name in LASTING_PROCESSES)
            if not has_ended(child) and not lasting:
                found.add(child)
        except psutil.NoSuchProcess:
            continue
    return found


def _threads() -> set[threading.Thread]:
    return {
        thread
        for thread in threading.enumerate()
        if type(thread).__name__ not in LASTING_THREADS
        and not any(name in thread.name for name in LASTING_NAMES)
    }


def _shared_memory() -> set[str]:
    """Segments made by torch (named after their process) or Python, without those of other live programs."""
    if not SHARED_MEMORY.is_dir():
        return set()
    names = [name for name in os.listdir(SHARED_MEMORY) if name.startswith(("torch_", "psm_"))]
    ours = {os.getpid(), *(child.pid for child in _descendants())} if names else set()
    found = set()
    for name in names:
        if name.startswith("torch_"):
            owner = int(name.split("_")[1]) if name.split("_")[1].isdigit() else os.getpid()
            if owner in ours or not psutil.pid_exists(owner):
                found.add(name)
        else:
            found.add(name)
    return found


def signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    """To those that are still there: the end of one may be that of others."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _kill(processes: list[psutil.Process]) -> None:
    signal_all(processes, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=GRACE_S)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fails a test that leaves threads, child processes or shared memory."""
    threads, children, memory = _threads(), _children(), _shared_memory()
    yield
    left_threads, left_children = _threads() - threads, _children() - children
    if left_threads or left_children:
        gc.collect()  # an exception that the test caught keeps its frames, and what they hold, until then
    for thread in left_threads:
        thread.join(GRACE_S)
    left_threads = {thread for thread in left_threads if thread.is_alive()}
    left_children = psutil.wait_procs(left_children, timeout=GRACE_S)[1]
    left_memory = _shared_memory() - memory
    _kill(left_children)  # the next test is not to blame
    assert not left_threads, f"threads left behind: {left_threads}"
    assert not left_children, f"processes left behind: {left_children}"
    assert not left_memory, f"shared memory left behind: {left_memory}"


def make_photo(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A colour picture with structure: a smooth two-way gradient and a few shapes, another one each seed."""
    corners = hash64(seed, np.arange(12)).view(np.uint8)[:12].reshape(2, 2, 3)
    photo = Image.fromarray(np.ascontiguousarray(corners)).resize(size, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(photo)
    for shape in range(3):
        x, y, side = (uniform(seed, 1, shape, axis) for axis in range(3))
        left, top, width = x * size[0] * 0.7, y * size[1] * 0.7, 6 + side * min(size) * 0.3
        color = tuple(int(uniform(seed, 2, shape, channel) * 256) for channel in range(3))
        drawing = draw.ellipse if shape % 2 else draw.rectangle
        drawing((left, top, left + width, top + width), fill=color)
    return photo


def write_pairs_parquet(
    path: Path, n: int, *, first: int = 0, group: int = 4, size: tuple[int, int] = (96, 80)
) -> Path:
    """`n` rows in the Hub's schema: JPEG photo, gray JPEG twin, caption. `first` is the seed of the first."""
    rows = []
    for seed in range(first, first + n):
        photo = make_photo(seed, size)
        twin = {
            "image": hub(encode(photo, quality=90)),
            "conditioning_image": hub(encode(photo.convert("L"))),
        }
        rows.append({**twin, "text": f"photo {seed}"})
    return write_rows(path, rows, group=group)


@dataclass
class Result:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_as_program(capfd, monkeypatch):
    """`run_as_program("verify", folder)` as the `streamgan` script would, in this process."""
    monkeypatch.setattr(logs, "LINE_INTERVAL_S", 3600.0)  # however slow the machine, the same lines

    def call(*arguments: object, command: click.Command = streamgan) -> Result:
        monkeypatch.setattr(sys, "argv", ["streamgan", *map(str, arguments)])
        monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # of `python -m pytest`
        with pytest.raises(SystemExit) as caught:
            run_command(command)
        return Result(caught.value.code, *capfd.readouterr())

    return call


@pytest.fixture
def fresh_accelerator():
    """Accelerate reads its environment once per process, unless it is told to forget."""
    from accelerate.state import AcceleratorState, GradientState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield
    forget()


@pytest.fixture(scope="session")
def photo():
    """`photo(seed, size)` makes a structured picture."""
    return make_photo


@pytest.fixture(scope="session")
def pairs_parquet():
    """`pairs_parquet(path, n, ...)` writes a source of structured pairs."""
    return write_pairs_parquet


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory) -> Path:
    """Parquet files of 64 training, 16 validation and 12 test pairs of 96 x 80 pixels; not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    write_pairs_parquet(folder / "train-00000-of-00001.parquet", 64)
    write_pairs_parquet(folder / "val-00000-of-00001.parquet", 16, first=1000)
    write_pairs_parquet(folder / "test-00000-of-00001.parquet", 12, first=2000)
    return folder


@pytest.fixture(scope="session")
def shard_set(source_folder, tmp_path_factory) -> Path:
    """The shard set of `source_folder`, several train shards with gray twins; copy it to damage it."""
    out = tmp_path_factory.mktemp("shards") / "set"
    shard(
        [str(source_folder)], out, options=ShardOptions(samples_per_shard=20, splits="source"), num_workers=0
    )
    return out


@pytest.fixture(scope="session")
def whole_run(shard_set, tmp_path_factory) -> Path:
    """A run of ten steps without a break: 64 training images, 8 steps per epoch."""
    from training import tiny_config

    from streamgan.train.loop import train

    run = tmp_path_factory.mktemp("runs") / "whole"
    result = train(tiny_config(shard_set, run, "run.steps=10", "run.checkpoint_every=3", "run.keep=9"))
    assert result["steps"] == 10
    assert not result["stopped"]
    return run


@pytest.fixture(scope="session")
def template() -> Iterator[Template]:
    """What starts training processes at once."""
    template = Template()
    yield template
    template.close()
