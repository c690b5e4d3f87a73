"""The machine: card, driver, versions, cores, bandwidth of a copy, rate of a bf16 matrix product."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch
from common import machine, markdown

from streamgan.core.machine import usable_cores

from .task import Result, Task, card, on_gpu, seconds_per_call

PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "torchmetrics",
    "triton",
    "numpy",
    "simplejpeg",
    "onnxruntime",
)


def measure(task: Task) -> Iterator[Result]:
    device = torch.device("cuda" if on_gpu() else "cpu")
    found: Result = {"machine": machine(), "cores": usable_cores(), "versions": {}}
    for name in PACKAGES:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    found["versions"]["python"] = platform.python_version()
    found["card"] = card() if on_gpu() else "none: a rehearsal on the CPU"
    if on_gpu():
        properties = torch.cuda.get_device_properties(0)
        found |= {"memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
        found["multiprocessors"] = properties.multi_processor_count
    if tool := shutil.which("nvidia-smi"):
        asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
        found["driver"] = done.stdout.strip()
    yield found

    source = torch.empty(task.choose(2**30, 2**20), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = seconds_per_call(lambda: target.copy_(source), at_least_s=task.choose(0.5, 0.05))
    found["copy_gb_per_s"] = 2 * source.numel() / seconds / 1e9  # read and written
    side = task.choose(8192, 256)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = seconds_per_call(lambda: a @ b, at_least_s=task.choose(1.0, 0.05))
    found["bf16_tflops"] = 2 * side**3 / seconds / 1e12
    host = torch.empty(task.choose(2**28, 2**20), dtype=torch.uint8, pin_memory=on_gpu())
    seconds = seconds_per_call(
        lambda: host.to(device, non_blocking=True, copy=True), at_least_s=task.choose(0.5, 0.05)
    )
    found["host_to_card_gb_per_s"] = host.numel() / seconds / 1e9
    yield found


def report(result: Result) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    rows = [
        ["card", f"{result['card']}, driver {result.get('driver', '-')}, CUDA {result.get('cuda', '-')}"],
        ["machine", result["machine"]],
        ["versions", versions],
    ]
    for key, text in (
        ("memory_gb", "memory of the card, GB"),
        ("copy_gb_per_s", "copy within the card, GB/s read and written"),
        ("host_to_card_gb_per_s", "copy from pinned memory to the card, GB/s"),
        ("bf16_tflops", "bf16 matrix product, TFLOP/s"),
    ):
        if key in result:
            rows.append([text, f"{result[key]:.3g}"])
    return markdown(["", ""], rows)
