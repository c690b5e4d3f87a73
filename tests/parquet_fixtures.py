"""Small parquet sources made of generated images, in the schemas of the Hub."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from streamgan.core.seeding import hash64
from streamgan.sharding.run import ShardOptions, shard

HUB_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(seed: int, *, size: tuple[int, int] = (24, 16), mode: str = "RGB") -> Image.Image:
    """An image of smooth colours that no other seed gives."""
    corners = hash64(seed, np.arange(12)).view(np.uint8)[:12].reshape(2, 2, 3)
    image = Image.fromarray(np.ascontiguousarray(corners)).resize(size, Image.Resampling.BILINEAR)
    return image.convert(mode)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hub(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def pair(seed: int, *, kind: str = "JPEG") -> dict[str, Any]:
    """A good row: colour, gray twin, caption."""
    color = picture(seed)
    return {
        "image": hub(encode(color, kind)),
        "conditioning_image": hub(encode(color.convert("L"), kind)),
        "text": f"picture {seed}",
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]], *, group: int = 5) -> Path:
    """Rows as a parquet file; dict values with `bytes` become the Hub's image struct, bytes plain binary."""
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        first = next((value for value in values if value is not None), None)
        kind = HUB_IMAGE if isinstance(first, dict) else pa.binary() if isinstance(first, bytes) else None
        columns[name] = pa.array(values, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def write_source(folder: Path, *, files: int = 3, rows: int = 20, group: int = 5) -> Path:
    """A good source of `files` x `rows` pairs."""
    for number in range(files):
        name = f"train-{number:05d}-of-{files:05d}.parquet"
        write_rows(folder / name, [pair(number * rows + i) for i in range(rows)], group=group)
    return folder


def write_small_shards(folder: Path, *, samples: int, each: int = 4) -> Path:
    """A set of train shards with `each` samples."""
    rows = [{"image": hub(encode(picture(seed)))} for seed in range(samples)]
    write_rows(folder / "a.parquet", rows, group=each)
    options = ShardOptions(samples_per_shard=each, splits="train=1")
    shard([str(folder / "a.parquet")], folder / "set", options=options, num_workers=0)
    return folder / "set"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
