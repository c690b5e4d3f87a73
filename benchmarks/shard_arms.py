"""The ways to shard that `shard.py` compares: `shard_arms.py ARM SOURCE OUT REPORT`, each in its own process.

An arm imports what it needs, yields, and does the work: only the second part is timed.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

Arm = Iterator[None]
SAMPLES_PER_SHARD = 1000
CHUNK_BYTES = 1 << 26  # what mosaicml-streaming takes by default


def _rows(path: str) -> Iterator[dict[str, bytes]]:
    """Undecoded pairs of a parquet file, in bounded memory."""
    import pyarrow.parquet as pq

    columns = ["image.bytes", "conditioning_image.bytes"]
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as parquet:
        for batch in parquet.iter_batches(16, columns=columns, use_threads=False):
            colors, grays = (batch.column(name).field("bytes") for name in ("image", "conditioning_image"))
            for color, gray in zip(colors, grays, strict=True):
                yield {"color": color.as_py(), "gray": gray.as_py()}


def _files(source: Path) -> list[str]:
    return sorted(str(path) for path in source.glob("*.parquet"))


def streamgan(source: Path, out: Path, *, workers: int) -> Arm:
    from streamgan.sharding.run import shard

    yield
    shard([str(source)], out, num_workers=workers)


def idiom(source: Path, out: Path) -> Arm:
    """What the pages of `datasets` and `webdataset` show: stream, decode, write."""
    import webdataset
    from datasets import Image, load_dataset

    yield
    out.mkdir(parents=True)
    rows = load_dataset("parquet", data_files=_files(source), split="train", streaming=True)
    rows = rows.cast_column("image", Image()).cast_column("conditioning_image", Image())
    pattern = str(out / "train-%06d.tar")
    shards = webdataset.ShardWriter  # pyright: ignore[reportAttributeAccessIssue]
    with shards(pattern, maxcount=SAMPLES_PER_SHARD, verbose=0) as writer:
        for number, row in enumerate(rows):
            images = {"color.jpg": row["image"], "gray.jpg": row["conditioning_image"]}
            writer.write({"__key__": f"{number:09d}", **images})


def mosaicml(source: Path, out: Path, *, hashes: tuple[str, ...], chunk_bytes: int = CHUNK_BYTES) -> Arm:
    from streaming import MDSWriter  # pyright: ignore[reportMissingImports]

    yield
    columns = {"color": "bytes", "gray": "bytes"}
    with MDSWriter(out=str(out), columns=columns, hashes=list(hashes), size_limit=chunk_bytes) as writer:
        for path in _files(source):
            for row in _rows(path):
                writer.write(row)


def litdata(source: Path, out: Path, *, chunk_bytes: int = CHUNK_BYTES) -> Arm:
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(out) + ".cache"
    from litdata import optimize  # pyright: ignore[reportMissingImports]

    yield
    optimize(fn=_rows, inputs=_files(source), output_dir=str(out), chunk_bytes=chunk_bytes, num_workers=1)


def copy(source: Path, out: Path) -> Arm:
    yield
    subprocess.run(["cp", "-r", source, out], check=True)
    subprocess.run(["sync", *map(str, out.iterdir())], check=True)


ARMS: dict[str, Callable[[Path, Path], Arm]] = {
    "streamgan shard, 1 worker": partial(streamgan, workers=1),
    "streamgan shard, 2 workers": partial(streamgan, workers=2),
    "datasets + webdataset.ShardWriter": idiom,
    "mosaicml MDSWriter": partial(mosaicml, hashes=()),
    "mosaicml MDSWriter, sha256": partial(mosaicml, hashes=("sha256",)),
    "litdata optimize": litdata,
    "cp, then fsync": copy,
}


def _cpu_s() -> float:
    """User and system seconds of this process and of the children that have ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


def main(name: str, source: str, out: str, report: str) -> None:
    arm = ARMS[name](Path(source), Path(out))
    next(arm)  # imports
    before, began = _cpu_s(), time.monotonic()
    next(arm, None)
    cost = {"cpu_s": _cpu_s() - before, "wall_s": time.monotonic() - began, "imports_cpu_s": before}
    Path(report).write_text(json.dumps(cost))


if __name__ == "__main__":
    main(*sys.argv[1:])
