"""Photos per second of the colorizer, CPU beside card: 1 and 12 megapixels, batch 1 and 16; through ONNX."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import markdown
from PIL import Image

from streamgan.core.errors import ConfigError
from streamgan.data.loader import build_eval_loader
from streamgan.inference.colorizer import Colorizer
from streamgan.inference.export import export_onnx
from streamgan.inference.weights import find_weights, load_weights

from .task import SMALL, Result, Task, on_gpu, precision, recipe, train_lines

SIZES = {"1 MP": (1024, 1024), "12 MP": (4000, 3000)}
BATCHES = (1, 16)


def measure(task: Task) -> Iterator[Result]:
    run, result = task.scratch / "run", {"rows": [], "onnx": []}
    config = recipe(
        task, "default", f"run.dir={run}", "run.steps=2", "run.validate_images=2", "run.sample_images=2",
        *task.choose(["data.batch=8"], [*SMALL, "data.batch=2", "data.size=32"]),
    )  # fmt: skip
    with precision("no"):
        train_lines(config)
    for device in ("cuda", "cpu") if on_gpu() else ("cpu",):
        for name, (width, height) in task.choose(SIZES, {"1 MP": (96, 64)}).items():
            for batch in BATCHES if device == "cuda" else BATCHES[:1]:
                colorizer = Colorizer.load(run, device=device, batch=batch)
                photos = _photos(task, width, height, count=task.choose(batch if device == "cuda" else 1, 2))
                colorizer(photos[:1])
                began, done = time.perf_counter(), 0
                while done == 0 or time.perf_counter() - began < task.choose(1.5, 0.01):
                    done += len(colorizer(photos))
                took = time.perf_counter() - began
                result["rows"].append(
                    {"device": device, "size": name, "batch": batch, "photos_per_s": done / took}
                )
                yield result
    yield from _onnx(task, run, result)


def _photos(task: Task, width: int, height: int, *, count: int) -> list[Image.Image]:
    loader = build_eval_loader(
        str(task.photos), "train", batch=count, size=task.choose(512, 32), num_images=count
    )
    colors = next(iter(loader)).color_B3HW.permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(color).convert("L").resize((width, height)) for color in colors]


def _onnx(task: Task, run: Path, result: Result) -> Iterator[Result]:
    side = task.choose(256, 32)
    path = task.scratch / "model.onnx"
    try:
        export_onnx(load_weights(find_weights(run)), path)
    except ConfigError as error:  # the extra is not installed
        result["onnx"].append({"provider": "-", "error": error.what})
        yield result
        return
    import onnxruntime

    given = np.random.default_rng(0).random((1, 1, side, side), np.float32)
    for provider in ("CUDAExecutionProvider", "CPUExecutionProvider"):
        if provider not in onnxruntime.get_available_providers():
            result["onnx"].append({"provider": provider, "error": "not in this onnxruntime"})
            continue
        session = onnxruntime.InferenceSession(str(path), providers=[provider])
        feed = {session.get_inputs()[0].name: given}
        session.run(None, feed)
        began, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - began < task.choose(1.0, 0.01):
            session.run(None, feed)
            done += 1
        result["onnx"].append({"provider": provider, "runs_per_s": done / (time.perf_counter() - began)})
    yield result


def report(result: Result) -> str:
    rows = [
        [row["device"], row["size"], str(row["batch"]), f"{row['photos_per_s']:.2f}"]
        for row in result["rows"]
    ]
    text = f"Generator of `default.yaml`.\n\n{markdown(['', 'photo', 'batch', 'photos/s'], rows)}"
    if result["onnx"]:
        rows = [
            [row["provider"], f"{row['runs_per_s']:.1f}" if "runs_per_s" in row else row["error"]]
            for row in result["onnx"]
        ]
        text += f"\n\n{markdown(['ONNX, one photo at its work size', 'runs/s'], rows)}"
    return text
