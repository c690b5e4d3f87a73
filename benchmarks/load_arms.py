"""The ways to read that `load.py` compares: `load_arms.py ARM DATA IMAGES REPORT`, each in its own process.

DATA holds the same photos in every format. An arm is an endless iterator of uint8 batches (B, 256, 256, 3)
or (B, 3, 256, 256): short side resized to 256, cropped and mirrored at random. The first batches are not
counted.
"""

import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import load_engines
import numpy as np
from load_engines import BATCH, PHOTO, SIZE, Batches

WARM = 4
_random = np.random.default_rng(0)


def fast(data: bytes) -> np.ndarray:
    """Our decoder, for the peers too."""
    from streamgan.data.workers.decode import Crop, decode

    draw = _random.random(2)
    return decode(data, "RGB", size=SIZE, crop=Crop(draw[0], draw[1] < 0.5))


def usual(image: Any) -> np.ndarray:
    """What the pages of these libraries do with a Pillow image: resize, crop, mirror."""
    from PIL import Image

    image = image.convert("RGB")
    scale = SIZE / min(image.size)
    width, height = (max(SIZE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (int(_random.random() * (side - SIZE + 1)) for side in (width, height))
    image = image.crop((left, top, left + SIZE, top + SIZE))
    if _random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def usual_bytes(data: bytes) -> np.ndarray:
    from PIL import Image

    return usual(Image.open(io.BytesIO(data)))


def batched(images: Iterator[np.ndarray]) -> Batches:
    while True:
        yield np.stack([next(images) for _ in range(BATCH)])


def bare(data: Path) -> Batches:
    """simplejpeg at the scale that is needed, and nothing else."""
    import simplejpeg

    photos = load_engines.in_memory(data)
    decode = partial(simplejpeg.decode_jpeg, colorspace="RGB", min_height=SIZE, min_width=SIZE, min_factor=1)
    while True:
        for _ in range(BATCH - 1):
            decode(next(photos))  # not kept, so that the next one is written to the same memory
        yield [decode(next(photos))] * BATCH


def ceiling(data: Path, *, gray: bool) -> Batches:
    """The decoder alone on bytes in memory, with crop and mirroring, and Pillow's gray of each image."""
    from PIL import Image

    from streamgan.data.workers.decode import Crop, decode

    photos = load_engines.in_memory(data)
    out, grays = np.empty((BATCH, SIZE, SIZE, 3), np.uint8), np.empty((BATCH, SIZE, SIZE), np.uint8)
    while True:
        for row in range(BATCH):
            draw = _random.random(2)
            decode(next(photos), "RGB", size=SIZE, crop=Crop(draw[0], draw[1] < 0.5), out=out[row])
            if gray:
                grays[row] = np.asarray(Image.fromarray(out[row]).convert("L"))
        yield out


def streamgan(data: Path, *, workers: int, gray: Literal["derive"] | None = None) -> Batches:
    from streamgan.data import build_loader

    for batch in build_loader(data / "streamgan", "train", BATCH, SIZE, workers, gray=gray):
        yield batch.color_B3HW.numpy()


def webdataset(data: Path, *, decode: Callable[[Any], np.ndarray], pil: bool) -> Batches:
    import webdataset as wds

    shards = sorted(str(path) for path in (data / "streamgan").glob("train-*.tar"))
    pipeline = wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False).shuffle(1000)  # pyright: ignore
    if pil:
        pipeline = pipeline.decode("pil")
    yield from batched(decode(sample[PHOTO]) for sample in pipeline.repeat())


def mosaicml(data: Path, *, decode: Callable[[bytes], np.ndarray]) -> Batches:
    import streaming  # pyright: ignore[reportMissingImports]
    from torch.utils.data import DataLoader

    class Photos(streaming.StreamingDataset):
        def __getitem__(self, index: int) -> np.ndarray:
            return decode(super().__getitem__(index)["color"])

    streaming.base.util.clean_stale_shared_memory()
    photos = Photos(local=str(data / "mosaicml"), batch_size=BATCH, shuffle=True)
    while True:
        for batch in DataLoader(photos, BATCH, num_workers=0, drop_last=True):
            yield batch.numpy()


def litdata(data: Path, *, decode: Callable[[bytes], np.ndarray]) -> Batches:
    import litdata as lit  # pyright: ignore[reportMissingImports]

    class Photos(lit.StreamingDataset):
        def __getitem__(self, index: Any) -> np.ndarray:
            return decode(super().__getitem__(index)["color"])

    photos = Photos(str(data / "litdata"), shuffle=True, drop_last=True)
    while True:
        for batch in lit.StreamingDataLoader(photos, batch_size=BATCH, num_workers=0):
            yield batch.numpy()


def datasets(data: Path, *, decode: Callable[[Any], np.ndarray], pil: bool) -> Batches:
    import datasets as hf

    files = sorted(str(path) for path in (data / "parquet").glob("*.parquet"))
    rows = hf.load_dataset("parquet", data_files=files, split="train", streaming=True, columns=["image"])
    rows = rows.cast_column("image", hf.Image(decode=pil)).shuffle(buffer_size=1000)
    images = (row["image"] if pil else row["image"]["bytes"] for _ in iter(int, 1) for row in rows)
    yield from batched(decode(image) for image in images)


OPTIONAL: dict[str, Callable[[Path], Batches]] = {
    "torchvision's decoder alone": load_engines.torchvision,
    "nvImageCodec's CPU decoder alone": load_engines.nvimagecodec,
    "SPDL": load_engines.spdl,
    "SPDL, our decoder": partial(load_engines.spdl, decode=fast),
    "DALI, CPU": load_engines.dali,
    "FFCV, JPEG": load_engines.ffcv,
}
ARMS: dict[str, Callable[[Path], Batches]] = {
    "bare decode, bytes in memory": bare,
    "decoder alone, bytes in memory": partial(ceiling, gray=False),
    "the same and Pillow's gray": partial(ceiling, gray=True),
    "streamgan, no workers": partial(streamgan, workers=0),
    "streamgan, no workers, gray derived": partial(streamgan, workers=0, gray="derive"),
    "streamgan, 1 worker": partial(streamgan, workers=1),
    "streamgan, 2 workers": partial(streamgan, workers=2),
    "webdataset": partial(webdataset, decode=usual, pil=True),
    "webdataset, our decoder": partial(webdataset, decode=fast, pil=False),
    "mosaicml-streaming": partial(mosaicml, decode=usual_bytes),
    "mosaicml-streaming, our decoder": partial(mosaicml, decode=fast),
    "litdata": partial(litdata, decode=usual_bytes),
    "litdata, our decoder": partial(litdata, decode=fast),
    "datasets": partial(datasets, decode=usual, pil=True),
    "datasets, our decoder": partial(datasets, decode=fast, pil=False),
} | OPTIONAL


def _cpu_s() -> float:
    """User and system seconds of this process and of its children, running ones included."""
    import psutil

    children = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + sum(times.user + times.system for times in children)


def main(name: str, data: str, num_images: str, report: str) -> None:
    import torch

    torch.set_num_threads(1)
    batches = ARMS[name](Path(data))
    for _ in range(WARM):
        next(batches)
    before, began, images, largest = _cpu_s(), time.monotonic(), 0, 0
    while images < int(num_images):
        batch = next(batches)
        images, largest = images + len(batch), max(largest, int(batch[0].max()))
    cost = {"cpu_s": _cpu_s() - before, "wall_s": time.monotonic() - began, "images": images}
    assert largest > 32, "black images"
    Path(report).write_text(json.dumps(cost))
    sys.stdout.flush()
    os._exit(0)  # prefetching threads of the peers would be waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
