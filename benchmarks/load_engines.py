"""More arms for `load_arms.py`: loaders with decoders of their own, used as documented; other decoders alone.

`load.py` says which of them the environment lacks, and why. All decode the whole picture: none asks libjpeg
for a smaller one. What they need:

- SPDL: `pip install spdl`, and shared libraries of FFmpeg
- DALI: `pip install nvidia-dali-cuda120`; no GPU
- FFCV: `pip install ffcv numba opencv-python-headless`; compiled with headers of OpenCV and libturbojpeg
- nvImageCodec: `pip install nvidia-nvimgcodec-cu12`, and a driver of NVIDIA's even to decode on the CPU
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Batches = Iterator[np.ndarray | list[np.ndarray]]
SIZE, BATCH, BUFFER = 256, 32, 1000
PHOTO = "color.jpg"


def in_memory(data: Path) -> Iterator[bytes]:
    """The photos of the shards in turn, for ever."""
    from streamgan.data.shards.reader import ShardReader

    reader = ShardReader(data / "streamgan", "train")
    return itertools.cycle([reader.read(i).color for i in range(len(reader))])


def torchvision(data: Path) -> Batches:
    """Its decoder alone."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    photos = in_memory(data)
    while True:
        encoded = [torch.frombuffer(bytearray(next(photos)), dtype=torch.uint8) for _ in range(BATCH)]
        yield [np.asarray(decode_jpeg(one, ImageReadMode.RGB)) for one in encoded]


def nvimagecodec(data: Path) -> Batches:
    """Its CPU decoder alone."""
    from nvidia import nvimgcodec  # pyright: ignore[reportAttributeAccessIssue]

    cpu = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY
    decoder = nvimgcodec.Decoder(device_id=cpu, max_num_cpu_threads=1)
    photos = in_memory(data)
    while True:
        images = [decoder.decode(next(photos)) for _ in range(BATCH)]
        if images[0] is None:
            raise SystemExit("decodes nothing on a machine without a driver of NVIDIA's")
        yield [np.asarray(image) for image in images]


def _shards(data: Path) -> list[str]:
    return sorted(str(path) for path in (data / "streamgan").glob("train-*.tar"))


def _encoded(data: Path) -> Iterator[bytes]:
    """Photos of the shards in random order, through a buffer, as read by SPDL."""
    import spdl.io  # pyright: ignore[reportMissingImports]

    buffer: list[bytes] = []
    while True:
        for path in random.sample(_shards(data), len(_shards(data))):
            with open(path, "rb") as file:
                for name, content in spdl.io.iter_tarfile(file):
                    if name.endswith(PHOTO):
                        buffer.append(content)
                    if len(buffer) >= BUFFER:
                        yield buffer.pop(random.randrange(BUFFER))


def _ffmpeg(encoded: bytes) -> Any:
    import spdl.io  # pyright: ignore[reportMissingImports]

    steps = [
        f"scale={SIZE}:{SIZE}:force_original_aspect_ratio=increase:flags=bilinear",
        f"crop={SIZE}:{SIZE}:x=(iw-ow)*{random.random():.6f}:y=(ih-oh)*{random.random():.6f}",
        *(["hflip"] if random.random() < 0.5 else []),
        "format=rgb24",
    ]
    return spdl.io.decode_packets(spdl.io.demux_image(encoded), filter_desc=",".join(steps))


def spdl(data: Path, *, decode: Callable[[bytes], np.ndarray] | None = None) -> Batches:
    """One thread that decodes, by FFmpeg or `decode`."""
    import spdl.io  # pyright: ignore[reportMissingImports]
    from spdl.pipeline import PipelineBuilder  # pyright: ignore[reportMissingImports]

    def together(frames: list[Any]) -> np.ndarray:
        return np.stack(frames) if decode else spdl.io.to_numpy(spdl.io.convert_frames(frames))

    steps = PipelineBuilder().add_source(_encoded(data)).pipe(decode or _ffmpeg)
    pipeline = steps.aggregate(BATCH).pipe(together).add_sink(3).build(num_threads=1)
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


def dali(data: Path) -> Batches:
    """Its CPU operators, one thread."""
    from nvidia.dali import fn, pipeline_def, types  # pyright: ignore[reportMissingImports]

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None)
    def photos() -> Any:
        files, _ = fn.readers.webdataset(
            paths=_shards(data), ext=[PHOTO, "gray.jpg"], random_shuffle=True, initial_fill=BUFFER
        )
        images = fn.resize(fn.decoders.image(files, device="cpu"), resize_shorter=SIZE)
        x, y = (fn.random.uniform(range=(0.0, 1.0)) for _ in range(2))
        return fn.crop_mirror_normalize(
            images, crop=(SIZE, SIZE), crop_pos_x=x, crop_pos_y=y, mirror=fn.random.coin_flip(),
            dtype=types.UINT8, output_layout="HWC",
        )  # fmt: skip

    pipeline = photos()
    pipeline.build()
    while True:
        yield np.array(pipeline.run()[0].as_array())


class _Photos:
    """The photos as FFCV's writer wants them, decoded; `encoded` are the bytes of the last one."""

    def __init__(self, data: Path):
        from streamgan.data.shards.reader import ShardReader

        self.reader, self.encoded = ShardReader(data / "streamgan", "train"), b""

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        from streamgan.data.image import to_pixels

        self.encoded = self.reader.read(index).color
        return (to_pixels(self.encoded, "RGB", short=1 << 16),)


def _write_beton(data: Path, path: Path) -> None:
    """The same bytes as in the shards: FFCV would encode the pixels anew."""
    from ffcv.fields import RGBImageField, rgb_image  # pyright: ignore[reportMissingImports]
    from ffcv.writer import DatasetWriter  # pyright: ignore[reportMissingImports]

    photos = _Photos(data)
    rgb_image.encode_jpeg = lambda image, quality: np.frombuffer(photos.encoded, np.uint8)
    writer = DatasetWriter(str(path), {"image": RGBImageField(write_mode="jpg")}, num_workers=1)
    writer.from_indexed_dataset(photos)


def ffcv(data: Path) -> Batches:
    """JPEG mode, one thread; the whole photo resized, as all of ours are square."""
    import torch
    from ffcv.fields.decoders import (  # pyright: ignore[reportMissingImports]
        RandomResizedCropRGBImageDecoder,
    )
    from ffcv.loader import Loader, OrderOption  # pyright: ignore[reportMissingImports]
    from ffcv.transforms import RandomHorizontalFlip, ToTensor  # pyright: ignore[reportMissingImports]

    path = data / "ffcv.beton"
    if not path.exists():
        _write_beton(data, path)
    torch.set_num_threads(1)
    crop = RandomResizedCropRGBImageDecoder((SIZE, SIZE), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    loader = Loader(
        str(path), BATCH, num_workers=1, os_cache=True, order=OrderOption.RANDOM,
        pipelines={"image": [crop, RandomHorizontalFlip(), ToTensor()]},
    )  # fmt: skip
    while True:
        for (batch,) in loader:
            yield batch.numpy()
