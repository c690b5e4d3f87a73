"""A program that has a loader open may end in any way: at once, leaving no process and no shared memory."""

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

START = """
import gc, os, psutil, signal, sys, threading
from streamgan.data import build_loader

def build(workers=2, **options):
    return build_loader(sys.argv[1], batch=4, size=16, workers=workers, **options)

def begin(loader):
    batches = iter(loader)
    next(batches)
    print("workers", *[child.pid for child in psutil.Process().children()], flush=True)
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
    "Ctrl-C while workers start": (
        -signal.SIGINT,
        "import torch\n"
        "def interrupt():\n"
        "    print('workers', *[child.pid for child in psutil.Process().children()], flush=True)\n"
        "    raise KeyboardInterrupt\n"
        "torch.utils.data._utils.signal_handling._set_SIGCHLD_handler = interrupt\n"
        "for batch in build():\n    pass",
    ),
    "SIGTERM": (-signal.SIGTERM, "batches = begin(build())\nos.kill(os.getpid(), signal.SIGTERM)"),
    "SIGKILL": (-signal.SIGKILL, "batches = begin(build())\nos.kill(os.getpid(), signal.SIGKILL)"),
    "os._exit": (5, "batches = begin(build())\nos._exit(5)"),
    "after a worker was killed": (0, "batches = begin(build())\npsutil.Process().children()[0].kill()"),
    "while a worker is stopped": (0, "batches = begin(build())\npsutil.Process().children()[0].suspend()"),
}
UNTOLD = {-signal.SIGTERM, -signal.SIGKILL, 5}  # the program cannot tell its workers
GONE_S = 15.0  # PyTorch's workers look for their parent every five seconds


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_with_an_open_loader_ends_and_leaves_nothing(shard_set, ending):
    code, text = ENDINGS[ending]
    command = [sys.executable, "-c", START + text, str(shard_set)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == code, err
    assert code or not err
    workers = [int(pid) for line in re.findall(r"workers(.*)", out) for pid in line.split()]
    assert bool(workers) == ("without workers" not in ending)
    left = [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)]
    assert not psutil.wait_procs(left, timeout=GONE_S if code in UNTOLD else 0)[1]
