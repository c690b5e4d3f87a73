"""The ways to read over the network that `remote.py` compares, each in its own process.

    remote_arms.py ARM SERVER PORT FOLDER SHARDS IMAGES PEERS

SERVER is "s3", "moto" (S3 too) or "http", at PORT of this machine; FOLDER is to be made, for a cache; PEERS
is where more packages are. An arm imports what it needs, yields, and then gives the batches of one epoch,
each image decoded by our decoder in one of two loader processes. Prints, as JSON, what that took, or which
package is missing.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from load_arms import BATCH, SIZE, fast

BUCKET = "photos"
WORKERS = 2
Batches = Iterator[Any]


class Place(NamedTuple):
    """Where the sets are, and an empty folder for what is fetched."""

    server: str
    port: int
    folder: str
    shards: int

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.port}/{BUCKET}"

    @property
    def address(self) -> str:
        return self.web if self.server == "http" else f"s3://{BUCKET}"


def streamgan(place: Place, *, cached: bool, started: bool = False) -> Batches:
    """`started`: the fork server runs already, as it does after the first loader of a program."""
    from streamgan.data import build_loader

    if started:
        from streamgan.data.workers.processes import _Worker

        process = _Worker(target=int)
        process.start()
        process.join()
    yield
    cache = place.folder if cached else "none"
    root = f"{place.address}/streamgan"
    for batch in build_loader(root, "train", BATCH, SIZE, WORKERS, gray=None, epochs=1, cache=cache):
        yield batch.color_B3HW


def webdataset(place: Place) -> Batches:
    """`pipe:curl` is what it makes of an address of a website; an object of S3 is asked for likewise."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    yield
    urls = [f"{place.web}/streamgan/train-{number:06d}.tar" for number in range(place.shards)]
    photos = wds.WebDataset(urls, shardshuffle=len(urls), empty_check=False).shuffle(1000)  # pyright: ignore
    photos = photos.map(lambda sample: fast(sample["color.jpg"]))
    yield from DataLoader(photos, BATCH, num_workers=WORKERS)


def mosaicml(place: Place) -> Batches:
    import streaming  # pyright: ignore[reportMissingImports]
    from torch.utils.data import DataLoader

    class Photos(streaming.StreamingDataset):
        def __getitem__(self, index: int) -> Any:
            return fast(super().__getitem__(index)["color"])

    streaming.base.util.clean_stale_shared_memory()
    yield
    photos = Photos(remote=f"{place.address}/mosaicml", local=place.folder, batch_size=BATCH, shuffle=True)
    for stream in photos.streams:  # forks with one connection to the server would get each other's bytes
        stream._downloader.clean_up()
    yield from DataLoader(photos, BATCH, num_workers=WORKERS)


def litdata(place: Place) -> Batches:
    import litdata as lit  # pyright: ignore[reportMissingImports]
    from litdata.streaming import downloader  # pyright: ignore[reportMissingImports]

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # it would refuse a server without TLS

    class Photos(lit.StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            return fast(super().__getitem__(index)["color"])

    yield
    photos = Photos(
        f"{place.address}/litdata",
        cache_dir=place.folder,
        shuffle=True,
        drop_last=False,
        max_cache_size="50GB",
    )
    yield from lit.StreamingDataLoader(photos, batch_size=BATCH, num_workers=WORKERS)


CACHED, RANGES = (f"streamgan, data.cache={cache}" for cache in ("FOLDER", "none"))
STARTED, RANGES_STARTED = (f"{arm}, fork server ran before" for arm in (CACHED, RANGES))
PEERS: dict[str, Callable[[Place], Batches]] = {
    "mosaicml-streaming": mosaicml,
    "litdata": litdata,
    "webdataset, curl": webdataset,
}
ARMS: dict[str, Callable[[Place], Batches]] = {
    CACHED: partial(streamgan, cached=True),
    STARTED: partial(streamgan, cached=True, started=True),
    RANGES: partial(streamgan, cached=False),
    RANGES_STARTED: partial(streamgan, cached=False, started=True),
    **PEERS,
}
OF_SERVER = {  # who can read from it
    "s3": tuple(ARMS),
    "http": (CACHED, STARTED, RANGES, RANGES_STARTED, "webdataset, curl"),
    "moto": tuple(ARMS),
}


def _cpu_s() -> float:
    """User and system seconds of this process and of all below it, whether they have ended or not."""
    import psutil

    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        own = resource.getrusage(who)
        total += own.ru_utime + own.ru_stime
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def measured(batches: Batches, num_images: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    next(batches)  # imports
    before, began, images, largest = _cpu_s(), time.monotonic(), 0, 0
    first = {}
    while images < num_images:
        batch = next(batches)
        if not images:
            first = {"first_s": time.monotonic() - began, "first_cpu_s": _cpu_s() - before}
        images, largest = images + len(batch), max(largest, int(batch[0].max()))
    cost = {"wall_s": time.monotonic() - began, "cpu_s": _cpu_s() - before, "images": images, **first}
    assert largest > 32, "black images"
    assert next(batches, None) is None, "more than one epoch"
    return cost


def main(name: str, server: str, port: str, folder: str, shards: str, images: str, peers: str) -> None:
    sys.path += [peers] if peers else []
    try:
        place = Place(server, int(port), folder, int(shards))
        found: dict[str, Any] = measured(ARMS[name](place), int(images))
    except ModuleNotFoundError as error:
        found = {"missing": f"no module {error.name!r}"}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
