"""Is a decoder on the card worth it: nvJPEG and nvImageCodec beside a core, alone and with training.

All arms make 256-pixel RGB of JPEG files of 512 pixels that lie in memory. The decoders of the card give all
pixels, which it then makes smaller; a CPU decodes at half size. Training is the step of `default.yaml` in
bf16 on a batch that is there, alone and in turn with the decoding of a new one.
"""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import torch
from common import markdown, spread
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from streamgan.data.bottleneck import decode_ceiling
from streamgan.data.reading import Reading, Source
from streamgan.data.shards.joint import open_reader

from .arms import config_of, our_step
from .step import WARM_CALLS
from .task import Result, Task, on_gpu, seconds_per_call

SIZE, BATCH, PHOTOS, ROUNDS = 256, 32, 256, 3
CORES = (4, 8, 16, 32)
CPU, STEP = "CPU, one core (libjpeg-turbo, half size)", "step alone"
Decode = Callable[[list[torch.Tensor]], list[torch.Tensor]]


def measure(task: Task) -> Iterator[Result]:
    size, batch = task.choose((SIZE, BATCH), (32, 2))
    reader = open_reader(Source(str(task.photos)), "train")
    files = [
        torch.from_numpy(np.frombuffer(reader.read(i).color, np.uint8).copy())
        for i in range(min(PHOTOS, len(reader)))
    ]
    reader.close()
    batches = cycle([files[i : i + batch] for i in range(0, len(files) - batch + 1, batch)])
    result: Result = {"images_per_s": {}, "step_ms": {}, "errors": {}, "batch": batch}
    rates, times = result["images_per_s"], result["step_ms"]
    step = our_step(config_of(task, "default", f"data.batch={batch}"))
    for _ in range(task.choose(WARM_CALLS, 1)):
        step()
    calls: dict[str, Callable[[], Any]] = {}
    for name, make in DECODERS.items():
        try:
            decode = make()
            calls[name] = _smaller(decode, batches, size)
            calls[name]()
        except Exception as error:  # it is not here, or not for this card: that is the answer
            calls.pop(name, None)
            result["errors"][name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    yield result
    window = task.choose(0.5, 0.01)
    for _ in range(task.choose(ROUNDS, 1)):
        ceiling = decode_ceiling(Reading(Source(str(task.photos)), size), "train", seconds=window)
        rates.setdefault(CPU, []).append(ceiling)
        times.setdefault(STEP, []).append(1e3 * seconds_per_call(step, at_least_s=window))
        for name, call in calls.items():
            rates.setdefault(name, []).append(batch / seconds_per_call(call, at_least_s=window))
            both = seconds_per_call(lambda call=call: (call(), step()), at_least_s=window)
            times.setdefault(name, []).append(1e3 * both)
        yield result


def _smaller(decode: Decode, batches: Iterator[list[torch.Tensor]], size: int) -> Callable[[], torch.Tensor]:
    def call() -> torch.Tensor:
        images = torch.stack(decode(next(batches)))
        return interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)

    return call


def _torchvision() -> Decode:
    device = "cuda" if on_gpu() else "cpu"
    return lambda files: list(decode_jpeg(files, mode=ImageReadMode.RGB, device=device))


def _nvimagecodec() -> Decode:
    from nvidia import nvimgcodec  # pyright: ignore

    decoder = nvimgcodec.Decoder(device_id=0 if on_gpu() else nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY)

    def decode(files: list[torch.Tensor]) -> list[torch.Tensor]:
        images = decoder.decode([file.numpy().tobytes() for file in files])
        return [torch.from_dlpack(image).permute(2, 0, 1) for image in images]

    return decode


DECODERS = {"nvJPEG (torchvision)": _torchvision, "nvImageCodec": _nvimagecodec}


def report(result: Result) -> str:
    rows, alone = [], result["step_ms"].get(STEP, [])
    for name, rates in result["images_per_s"].items():
        times = result["step_ms"].get(name)
        slower = [both / one for both, one in zip(times, alone, strict=False)] if times else []
        rows.append(
            [name, spread(rates, 0), spread(times, 1) if times else "-", spread(slower) if slower else "-"]
        )
    rows += [[name, error, "-", "-"] for name, error in result["errors"].items()]
    text = markdown(["", "images/s", "decoding and step, ms", "step alone = 1"], rows)
    if not alone:
        return text
    middle = sorted(alone)[len(alone) // 2]
    core = sorted(result["images_per_s"][CPU])[len(alone) // 2]
    needed = 1e3 * result["batch"] / middle
    text += (
        f"\n\nThe step alone takes {spread(alone, 1)} ms for a batch of {result['batch']}: "
        f"{needed:.0f} images/s, or {needed / core:.1f} cores that decode.\n\n"
    )
    return text + markdown(
        ["cores per card", "images/s that they decode", "share of what the step takes"],
        [[str(cores), f"{cores * core:.0f}", f"{cores * core / needed:.0%}"] for cores in CORES],
    )
