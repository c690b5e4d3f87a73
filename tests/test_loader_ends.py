"""A program that has a loader open may end in any way: at once, leaving no process and no shared memory."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import psutil
import pytest
from shared import has_ended

START = """
import gc, os, psutil, signal, sys, threading
from streamgan.data import build_loader

def build(workers=2, **options):
    return build_loader(sys.argv[1], batch=4, size=16, workers=workers, **options)

def workers():
    return [worker for server in psutil.Process().children() for worker in server.children()]

def tell():
    children = psutil.Process().children(recursive=True)
    for one in (psutil.Process(), *children):
        assert not [area.path for area in one.memory_maps() if area.path.startswith("/dev/shm")]
    print("processes", *[child.pid for child in children], flush=True)

def begin(loader):
    batches = iter(loader)
    next(batches)
    tell()
    return batches
"""

# In place of a card: what PyTorch asks before it starts the thread that pins memory, and what that does.
PINNED = """
import torch
torch.accelerator.is_available = lambda: True
torch.accelerator.current_accelerator = lambda *_: torch.device("cpu")
torch.accelerator.current_device_index = lambda *_: 0
torch.accelerator.set_device_index = lambda *_: None
torch.utils.data._utils.pin_memory.pin_memory = lambda data, device=None: data
batches = begin(build(pin_memory=True))
assert any("pin_memory" in str(thread) for thread in threading.enumerate())
"""

IN_A_THREAD = """
ready = threading.Event()
def work():
    for batch in begin(build({workers})):
        ready.set()
        threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
ready.wait()
"""

INTERRUPTED = """
from streamgan.data.workers import processes
def interrupt(*_):
    tell()
    raise KeyboardInterrupt
"""

# ending: (exit code, the program from `START` on)
ENDINGS = {
    "left open": (0, "batches = begin(build())"),
    "left open without workers": (0, "batches = begin(build(0))"),
    "left open with pinned memory": (0, PINNED),
    "two left open": (0, "one, other = begin(build()), begin(build())"),
    "left in a function": (0, "def work():\n    batches = begin(build())\nwork()"),
    "left in a cycle": (0, "box = [begin(build())]\nbox.append(box)\ndel box"),
    "collected as garbage": (0, "box = [begin(build())]\nbox.append(box)\ndel box\ngc.collect()"),
    "open in a thread": (0, IN_A_THREAD.format(workers=2)),
    "open in a thread without workers": (0, IN_A_THREAD.format(workers=0)),
    "left by a thread": (
        0,
        "kept = []\nthread = threading.Thread(target=lambda: kept.append(begin(build())))\n"
        "thread.start()\nthread.join()",
    ),
    "an error in the loop": (1, "for batch in begin(build()):\n    raise ValueError"),
    "an error while it is held": (1, "batches = begin(build())\nraise ValueError"),
    "sys.exit in the loop": (3, "for batch in begin(build()):\n    sys.exit(3)"),
    "sys.exit while it is held": (3, "batches = begin(build())\nsys.exit(3)"),
    "Ctrl-C": (-signal.SIGINT, "for batch in begin(build()):\n    os.killpg(0, signal.SIGINT)"),
    "Ctrl-C while it is held": (
        -signal.SIGINT,
        "batches = begin(build())\nos.killpg(0, signal.SIGINT)\nfor batch in batches:\n    pass",
    ),
    "Ctrl-C again and again": (
        -signal.SIGINT,
        "def press():\n    for _ in range(20):\n        os.killpg(0, signal.SIGINT)\n"
        "batches = begin(build())\nthreading.Thread(target=press).start()\nfor batch in batches:\n    pass",
    ),
    "Ctrl-C while the server starts": (
        -signal.SIGINT,
        "from streamgan.data.workers.processes import SERVER\n"
        "SERVER.start()\ntell()\nos.killpg(0, signal.SIGINT)\nbegin(build())",
    ),
    "Ctrl-C while a worker starts": (
        -signal.SIGINT,
        INTERRUPTED + "processes._Started._begun = interrupt\nfor batch in build():\n    pass",
    ),
    "Ctrl-C while a worker starts, caught": (
        0,
        INTERRUPTED + "processes._Started._begun = interrupt\n"
        "try:\n    next(iter(build()))\nexcept KeyboardInterrupt:\n    pass\n",
    ),
    "Ctrl-C when workers have started": (
        -signal.SIGINT,
        INTERRUPTED + "import torch\n"
        "torch.utils.data._utils.signal_handling._set_SIGCHLD_handler = interrupt\n"
        "for batch in build():\n    pass",
    ),
    "SIGTERM": (-signal.SIGTERM, "batches = begin(build())\nos.kill(os.getpid(), signal.SIGTERM)"),
    "SIGKILL": (-signal.SIGKILL, "batches = begin(build())\nos.kill(os.getpid(), signal.SIGKILL)"),
    "os._exit": (5, "batches = begin(build())\nos._exit(5)"),
    "after a worker was killed": (0, "batches = begin(build())\nworkers()[0].kill()"),
    "while a worker is stopped": (0, "batches = begin(build())\nworkers()[0].suspend()"),
    "after the server was killed": (0, "batches = begin(build())\npsutil.Process().children()[0].kill()"),
    "never iterated": (0, "loader = build()\ntell()"),
}
UNTOLD = {"SIGTERM", "SIGKILL", "os._exit", "after the server was killed"}  # nobody tells the workers
GONE_S = 2.0  # until they have noticed
FAST = {"left open", "left open without workers", "Ctrl-C", "SIGKILL"}


def some_slow(names: Iterable[str], fast: set[str]) -> list[Any]:
    return [pytest.param(one, marks=[] if one in fast else pytest.mark.slow) for one in names]


def run(command: list[str], **how: Any) -> tuple[int, str, str, list[int]]:
    """Exit code, stdout and stderr of a program in a group of its own, and the processes that it told of."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes, **how) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    told = [int(pid) for line in re.findall(r"processes(.*)", out) for pid in line.split()]
    return process.returncode, out, err, told


def left(pids: list[int], timeout: float = 0) -> list[psutil.Process]:
    there = [process for process in psutil.process_iter() if process.pid in pids]
    return [process for process in psutil.wait_procs(there, timeout)[1] if not has_ended(process)]


@pytest.mark.parametrize("ending", some_slow(ENDINGS, FAST))
def test_a_program_with_an_open_loader_ends_and_leaves_nothing(shard_set, ending):
    code, text = ENDINGS[ending]
    returned, _, err, told = run([sys.executable, "-c", START + text, str(shard_set)])
    assert returned == code, err
    assert code or not err
    assert err.count("Traceback") <= 1  # its own
    assert bool(told) == ("without workers" not in ending)
    assert not left(told, timeout=GONE_S if ending in UNTOLD else 0)


UNGUARDED = """
begun = [batch.ids_B.tolist() for batch in build(stop_step=3)]
os.environ["LATER"] = "1"
batches = begin(build())
print("once", len(begun))
"""
WAYS = ("a file", "stdin", "a package", "runpy", "a thread")


@pytest.mark.parametrize("way", some_slow(WAYS, {"stdin"}))
def test_a_program_needs_no_main_guard(shard_set, tmp_path, way):
    script = tmp_path / "program" / "__main__.py"
    script.parent.mkdir()
    script.write_text(START + UNGUARDED)
    words, stdin = [str(script), str(shard_set)], None
    if way == "stdin":
        words, stdin = ["-", str(shard_set)], script.open()
    elif way == "a package":
        (script.parent / "__init__.py").write_text("")
        words = ["-m", "program", str(shard_set)]
    elif way == "runpy":
        code = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
        words = ["-c", code, str(script), str(shard_set)]
    elif way == "a thread":
        indented = (START + UNGUARDED).replace("\n", "\n    ")
        script.write_text(
            f"import threading\ndef work():\n    {indented}\n"
            "thread = threading.Thread(target=work)\nthread.start()\nthread.join()"
        )
    returned, out, err, told = run([sys.executable, *words], cwd=tmp_path, stdin=stdin)
    if stdin:
        stdin.close()
    assert (returned, err) == (0, "")
    assert out.count("once 3") == 1
    assert len(told) == 3
    assert not left(told)
