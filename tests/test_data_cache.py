"""The node cache: a hard cap, shared downloads, nothing lost or stuck whatever is killed or damaged."""

import errno
import fcntl
import importlib
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from fault_fixtures import impatient
from marks import slow
from parquet_fixtures import write_small_shards
from remote_fixtures import website
from worker_fixtures import loader_workers

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage import locks
from streamgan.core.storage.locks import close_descriptor, is_open, open_descriptor
from streamgan.data.format import read_manifest
from streamgan.data.loader import build_loader
from streamgan.data.order.canonical import Order
from streamgan.data.prefetch import downloads
from streamgan.data.shards import node_cache as cache_module
from streamgan.data.shards import verified_download as fill_module
from streamgan.data.shards.node_cache import Blob, Deleted, NodeCache
from streamgan.data.shards.reader import ShardReader
from streamgan.data.workers.processes import Workers

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SIZE = 20_480  # of a shard: five requests
SETTINGS = {"batch": 4, "size": 16, "lanes": 1, "window": 1, "workers": 0}
READ_ALL = """
import sys
from streamgan.core.storage import client, download
from streamgan.data.shards.reader import ShardReader
download.CHUNK_BYTES, download.PIECE_BYTES = 4096, 512
reader = ShardReader(sys.argv[1], "train", cache=sys.argv[2])
for sample in range(len(reader)):
    reader.read(sample)
reader.close()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """16 train shards of four samples."""
    root = write_small_shards(tmp_path_factory.mktemp("cached"), samples=64)
    assert {path.stat().st_size for path in root.glob("*.tar")} == {SIZE}
    return root


@pytest.fixture
def site(root, monkeypatch):
    impatient(monkeypatch)
    with website(root) as server:
        yield server


def used(folder: Path) -> int:
    """Bytes in a cache, while threads give some files other names."""
    total = 0
    for path in (folder / "blobs").iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def blob(number: int, size: int = 100) -> Blob:
    return Blob(f"{number:064x}", size, "none")


def put(cache: NodeCache, lease, one: Blob, next_use=lambda sha256: 0.0) -> str:
    """Claim a blob and write it, as a download would."""
    claim = cache.claim(one, lease, next_use)
    if claim.state == "mine":
        os.pwrite(claim.descriptor, bytes(one.bytes), 0)
        cache.commit(one, claim.descriptor)
    return claim.state


def kept(cache: NodeCache) -> set[int]:
    return {int(path.name.partition(".")[0], 16) for path in cache.blobs.iterdir()}


def ids(batches) -> list[list[int]]:
    return [batch.ids_B.tolist() for batch in batches]


def test_what_is_needed_furthest_ahead_is_evicted_first(tmp_path):
    cache = NodeCache(tmp_path, 400)
    lease = cache.lease()
    for number in range(4):
        assert put(cache, lease, blob(number)) == "mine"
    assert put(cache, lease, blob(9)) == "full"
    lease.drop([blob(number).sha256 for number in range(4)])
    uses = {blob(0).sha256: 7.0, blob(1).sha256: 90.0, blob(2).sha256: 8.0, blob(3).sha256: math.inf}
    assert put(cache, lease, blob(4), uses.__getitem__) == "mine"
    assert kept(cache) == {0, 1, 2, 4}
    assert put(cache, lease, blob(5), uses.__getitem__) == "mine"
    assert kept(cache) == {0, 2, 4, 5}
    assert put(cache, lease, blob(0), uses.__getitem__) == "there"
    lease.close()


def test_of_what_is_never_needed_the_longest_unused_goes_first(tmp_path):
    cache = NodeCache(tmp_path, 300)
    lease = cache.lease()
    for number in range(3):
        put(cache, lease, blob(number))
        os.utime(cache.path(blob(number).sha256), (number, number))
    assert put(cache, lease, blob(0)) == "there"  # used now
    lease.drop([blob(number).sha256 for number in range(3)])
    put(cache, lease, blob(3), lambda sha256: math.inf)
    assert kept(cache) == {0, 2, 3}
    lease.close()


def test_a_download_counts_with_its_whole_size_from_the_start(tmp_path):
    cache = NodeCache(tmp_path, 300)
    lease = cache.lease()
    claim = cache.claim(blob(1, 250), lease, lambda sha256: 0)
    assert claim.state == "mine"
    assert (used(tmp_path), cache.usage()) == (0, 250)
    assert cache.claim(blob(2), lease, lambda sha256: 0).state == "full"
    assert cache.claim(blob(1, 250), lease, lambda sha256: 0).state == "busy"
    locks.close_descriptor(claim.descriptor)
    lease.close()


def test_a_lease_that_is_closed_twice_closes_nothing_else(tmp_path):
    lease = NodeCache(tmp_path, 300).lease()
    number = lease._descriptor
    lease.close()
    others = [open_descriptor(tmp_path / "other", os.O_CREAT | os.O_RDWR)]
    while others[-1] < number:  # the lowest that is free comes first
        others.append(open_descriptor(tmp_path / "other", os.O_RDWR))
    assert not lease.valid
    lease.close()
    assert all(map(is_open, others))
    assert others[-1] == number
    for other in others:
        close_descriptor(other)


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    def no_locks(*_) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(DataError, match=rf"^{tmp_path}: cannot be used \(Function not implemented\); choose"):
        NodeCache(tmp_path, 300)
    assert not locks._descriptors


def test_a_lower_cap_than_last_time_makes_room_at_once(tmp_path):
    cache = NodeCache(tmp_path, 500)
    lease = cache.lease()
    for number in range(5):
        put(cache, lease, blob(number))
    lease.drop([blob(number).sha256 for number in range(1, 5)])
    NodeCache(tmp_path, 250)
    assert used(tmp_path) == 200
    assert 0 in kept(cache)
    lease.close()


@pytest.mark.slow
def test_what_a_killed_process_held_is_free(tmp_path):
    script = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_data_cache import NodeCache, blob, put
cache = NodeCache(Path(sys.argv[1]), 200)
lease = cache.lease()
put(cache, lease, blob(1))
claim = cache.claim(blob(2), lease, lambda sha256: 0)
print("ready", flush=True)
time.sleep(60)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    cache = NodeCache(tmp_path, 200)
    lease = cache.lease()
    assert put(cache, lease, blob(3)) == "full"
    assert put(cache, lease, blob(2)) == "busy"
    child.kill()
    child.wait()
    child.stdout.close()
    assert put(cache, lease, blob(2)) == "mine"
    assert put(cache, lease, blob(3)) == "mine"
    assert kept(cache) == {2, 3}
    assert len(list((tmp_path / "users").iterdir())) == 1
    lease.close()


def test_a_child_of_a_fork_holds_no_lock(tmp_path):
    cache = NodeCache(tmp_path, 200)
    lease = cache.lease()
    claim = cache.claim(blob(1), lease, lambda sha256: 0)
    reading, writing = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(tell, b".")
        os.read(reading, 1)  # lives on until the parent has looked
        os._exit(0 if not locks._descriptors and not lease.valid else 1)
    os.read(told, 1)
    other = os.open(tmp_path / "blobs" / f"{blob(1).sha256}.100.part", os.O_RDWR)
    descriptor = claim.descriptor
    locks._descriptors.discard(descriptor)
    os.close(descriptor)  # without the unlocking of close_descriptor, as a kill would
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    os.close(writing)
    for descriptor in (reading, told, tell):
        os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0
    lease.close()


def test_a_lease_outlives_a_folder_that_is_deleted_while_it_is_renewed(tmp_path, monkeypatch):
    cache = NodeCache(tmp_path / "cache", 200)
    lease = cache.lease()
    shutil.rmtree(tmp_path / "cache")

    def delete_first(path, flags):
        if path.suffix == ".lease":
            shutil.rmtree(tmp_path / "cache")
        return locks.open_descriptor(path, flags)

    monkeypatch.setattr(cache_module, "open_descriptor", delete_first)
    with pytest.raises(Deleted):
        put(cache, lease, blob(1))
    monkeypatch.undo()
    assert lease.valid
    assert put(cache, lease, blob(1)) == "mine"
    assert cache._leased() == {blob(1).sha256}
    lease.close()


def test_a_folder_that_cannot_be_used_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be used \(Not a directory\); choose another data.cache"):
        NodeCache(tmp_path / "file" / "cache", 100)


def test_a_lock_that_is_never_released_is_an_error_not_a_hang(tmp_path, monkeypatch):
    cache = NodeCache(tmp_path, 100)
    monkeypatch.setattr(cache_module, "LOCK_TIMEOUT_S", 0.05)
    with open(tmp_path / "lock", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"lock: locked by another process for 0 s; end that process"):
            cache.lease()


@pytest.fixture
def need_gb(site, tmp_path) -> float:
    """The number that the error names."""
    with pytest.raises(ConfigError, match="hold less than the shards in reach") as failure:
        build_loader(site.url, cache=tmp_path / "probe", cache_gb=4e-6, **SETTINGS)
    return float(failure.value.todo.split("cache_gb=")[1].split()[0])


def test_a_cap_below_the_working_set_is_refused_with_the_number_that_does(site, tmp_path, need_gb):
    loader = build_loader(site.url, cache=tmp_path / "a", cache_gb=need_gb, stop_step=3, **SETTINGS)
    assert len(ids(loader)) == 3
    assert loader._supply is not None
    exact = loader._supply.need_bytes
    assert exact == 2 * SIZE + len(read_manifest_index(loader))
    build_loader(site.url, cache=tmp_path / "b", cache_gb=exact / 1e9, **SETTINGS)
    with pytest.raises(ConfigError, match="hold less"):
        build_loader(site.url, cache=tmp_path / "b", cache_gb=(exact - 1) / 1e9, **SETTINGS)


def read_manifest_index(loader) -> bytes:
    files = loader._samples.reader.files
    return files.cache.path(files.entry.index_sha256).read_bytes()


def test_the_cap_holds_at_every_write_while_shards_come_and_go(root, site, tmp_path, monkeypatch):
    most, original = [0], fill_module.download

    def watched(address, begin, end, write, **options):
        def write_and_look(offset, data):
            write(offset, data)
            most[0] = max(most[0], used(tmp_path))

        original(address, begin, end, write_and_look, **options)

    monkeypatch.setattr(fill_module, "download", watched)
    expected = ids(build_loader(root, epochs=2, **SETTINGS))
    cap = build_loader(site.url, cache=tmp_path, **SETTINGS)._supply.need_bytes
    assert cap < sum(shard.bytes for shard in read_manifest(root).splits["train"].shards) / 2
    got = ids(build_loader(site.url, cache=tmp_path, cache_gb=cap / 1e9, epochs=2, **SETTINGS))
    assert got == expected
    assert 30_000 < most[0] <= cap


def test_shards_are_fetched_before_they_are_needed_and_kept_for_the_next_epoch(root, site, tmp_path):
    loader = iter(build_loader(site.url, cache=tmp_path, epochs=2, **SETTINGS))
    first = next(loader)
    shards = read_manifest(root).splits["train"].shards
    sizes = [one.samples for one in shards]
    order = Order(sizes, seed=0, batch=4, lanes=1, window=1)
    coming = {shards[number].sha256 for number in order.uses(0)[0][:2].tolist()}
    deadline = time.monotonic() + 20
    while not all((tmp_path / "blobs" / sha256).exists() for sha256 in coming):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    rest = [first, *loader]
    assert len(rest) == 32
    assert sum(request.startswith("/train-") for request in site.requests) == 16 * 5


@pytest.mark.parametrize("workers", [0, slow(2)])
def test_a_run_begins_before_its_first_shards_have_arrived(root, site, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(downloads, "WAITED_BYTES", 2 * SIZE - 1)
    settings = {**SETTINGS, "lanes": 2, "workers": workers, "epochs": 2}
    expected = list(build_loader(root, **settings))
    arrive = threading.Event()

    def hold_shards(handler, attempt) -> bool:
        if ".tar" in handler.path and _length(handler.headers["Range"]) > 2000:  # an image has fewer
            arrive.wait(60)
        return False

    site.fault = hold_shards
    loader = build_loader(site.url, cache=tmp_path, **settings)
    batches = iter(loader)
    got = [next(batches)]
    assert not arrive.is_set()
    assert not any(loader._supply.parts[0][0].is_here(shard) for shard in range(16))
    arrive.set()
    got += batches
    assert ids(got) == ids(expected)
    assert all(bool((a.color_B3HW == b.color_B3HW).all()) for a, b in zip(got, expected, strict=True))
    small = [request for request in site.requests if ".tar" in request and _length(request) < 2000]
    numbers, _, first, _ = Order([4] * 16, seed=0, batch=4, lanes=2, window=1).uses(0)
    begun = {f"/train-{number:06d}.tar" for number in numbers[first == 0].tolist()}
    assert {request.split()[0] for request in small} <= begun
    assert 4 <= len(small) == len(set(small)) <= 4 * len(begun)  # each image once at most


def _length(request: str) -> int:
    begin, end = request.partition("bytes=")[2].split("-")
    return int(end) - int(begin) + 1


def test_what_arrives_soon_is_waited_for(root, site, tmp_path):
    ids(build_loader(site.url, cache=tmp_path, epochs=1, **SETTINGS))
    tars = [request for request in site.requests if ".tar" in request]
    assert len(tars) == 16 * 5
    assert min(map(_length, tars)) == 4096


@pytest.mark.slow
def test_two_processes_share_every_download(root, site, tmp_path):
    children = [subprocess.Popen([sys.executable, "-c", READ_ALL, site.url, str(tmp_path)]) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    tars = [request for request in site.requests if ".tar" in request]
    assert len(tars) == len(set(tars)) == 16 * 5


def test_a_download_cut_by_sigkill_is_continued_where_it_was(root, site, tmp_path):
    name = read_manifest(root).splits["train"].shards[0].name
    stalled, ended = threading.Event(), threading.Event()

    def stall(handler, attempt) -> bool:
        if handler.path != f"/{name}" or handler.headers["Range"] != "bytes=4096-8191" or attempt > 1:
            return False
        data = (root / name).read_bytes()
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 4096-8191/{len(data)}")
        handler.send_header("Content-Length", "4096")
        handler.end_headers()
        handler.wfile.write(data[4096:5096])
        handler.wfile.flush()
        stalled.set()
        ended.wait(30)
        return True

    site.fault = stall
    child = subprocess.Popen([sys.executable, "-c", READ_ALL, site.url, str(tmp_path)])
    assert stalled.wait(30)
    (part,) = (tmp_path / "blobs").glob("*.part")
    while part.stat().st_size < 5096:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    ended.set()
    site.requests.clear()
    reader, local = ShardReader(site.url, "train", cache=tmp_path), ShardReader(root, "train")
    assert reader.read(0) == local.read(0)
    assert [request for request in site.requests if ".tar" in request] == [
        f"/{name} bytes=5096-9191",
        f"/{name} bytes=9192-13287",
        f"/{name} bytes=13288-17383",
        f"/{name} bytes=17384-20479",
    ]
    reader.close()
    local.close()


def test_a_partial_download_with_wrong_bytes_is_found_and_fetched_anew(root, site, tmp_path):
    reader, local = ShardReader(site.url, "train", cache=tmp_path), ShardReader(root, "train")
    first, second, third = map(reader.files.blob, range(3))
    good = (root / read_manifest(root).splits["train"].shards[1].name).read_bytes()
    for one, data in [
        (first, bytes(5000)),
        (second, good[:4000] + b"!" + good[4001:]),
        (third, bytes(99999)),
    ]:
        (tmp_path / "blobs" / f"{one.sha256}.{one.bytes}.part").write_bytes(data)
    assert [reader.read(i) for i in range(12)] == [local.read(i) for i in range(12)]
    assert [reader.files.cache.path(one.sha256).exists() for one in (first, second, third)] == [True] * 3
    reader.close()
    local.close()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["flipped", pytest.param("cut", marks=pytest.mark.slow)])
def test_a_damaged_file_of_the_cache_is_repaired(root, site, tmp_path, workers, how):
    settings = {**SETTINGS, "workers": workers, "epochs": 1, "cache": tmp_path}
    expected = ids(build_loader(site.url, **settings))
    site.requests.clear()
    shards = read_manifest(root).splits["train"].shards
    for one in shards[:3]:
        path = tmp_path / "blobs" / one.sha256
        data = bytearray(path.read_bytes())
        offset = ShardReader(root, "train").index[sum(s.samples for s in shards[: shards.index(one)])]
        data[int(offset["color_offset"]) + 7] ^= 1
        path.write_bytes(data if how == "flipped" else data[:3000])
    before = site.sent
    batches = list(build_loader(site.url, **settings))
    assert ids(batches) == expected
    local = list(build_loader(root, **{**settings, "workers": 0}))
    assert all(bool((a.color_B3HW == b.color_B3HW).all()) for a, b in zip(batches, local, strict=True))
    assert {request.split()[0] for request in site.requests if ".tar" in request} == {
        f"/{one.name}" for one in shards[:3]
    }
    missing = 0 if how == "flipped" else SIZE - 3000
    most = 3 * (missing + 1000) + (root / "manifest.json").stat().st_size  # an image has fewer
    assert site.sent - before <= most


def test_a_damaged_index_in_the_cache_is_fetched_again(root, site, tmp_path):
    ShardReader(site.url, "train", cache=tmp_path).close()
    path = tmp_path / "blobs" / read_manifest(root).splits["train"].index_sha256
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    reader, local = ShardReader(site.url, "train", cache=tmp_path), ShardReader(root, "train")
    assert np.array_equal(reader.index, local.index)
    reader.close()


@pytest.mark.parametrize("workers", [0, slow(2)])
def test_an_index_that_is_damaged_while_it_is_read_is_fetched_again(root, site, tmp_path, workers):
    settings = {**SETTINGS, "workers": workers, "epochs": 2}
    expected = list(build_loader(root, **settings))
    batches = iter(build_loader(site.url, cache=tmp_path, **settings))
    got = [next(batches)]
    path = tmp_path / "blobs" / read_manifest(root).splits["train"].index_sha256
    with open(path, "r+b") as file:  # as a disk does it: the same file, other bytes
        for offset in range(0, path.stat().st_size - 8, 200):
            file.seek(offset)
            file.write(b"damage")
    got += batches
    assert ids(got) == ids(expected)
    assert all(bool((a.color_B3HW == b.color_B3HW).all()) for a, b in zip(got, expected, strict=True))
    assert np.array_equal(
        ShardReader(site.url, "train", cache=tmp_path).index, ShardReader(root, "train").index
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_where_other_jobs_hold_all_space_images_are_read_by_range(root, site, tmp_path, workers):
    settings = {**SETTINGS, "workers": workers, "epochs": 1, "cache": tmp_path}
    expected = ids(build_loader(root, **settings))
    need = build_loader(site.url, **settings)._supply.need_bytes
    cache = NodeCache(tmp_path, need)
    lease = cache.lease()
    while put(cache, lease, blob(used(tmp_path), 5000)) == "mine":  # another job's
        pass
    assert ids(build_loader(site.url, cache_gb=need / 1e9, **settings)) == expected
    assert used(tmp_path) <= need
    lease.close()


def test_a_reader_alone_lets_go_of_its_oldest_shards_at_the_cap(root, site, tmp_path):
    reader = ShardReader(site.url, "train", cache=tmp_path, cache_gb=55_000 / 1e9)
    local = ShardReader(root, "train")
    assert [reader.read(i) for i in range(64)] == [local.read(i) for i in range(64)]
    assert used(tmp_path) <= 55_000
    reader.close()
    local.close()


@pytest.mark.parametrize(("step", "workers"), [(0, 0), (9, 0), slow(0, 1), slow(9, 1)])
def test_a_cache_that_is_deleted_in_mid_run_is_made_again(
    root, site, tmp_path, capfd, need_gb, workers, step
):
    settings = {**SETTINGS, "workers": workers, "epochs": 2}
    expected = ids(build_loader(root, **settings))
    folder, got = tmp_path / "cache", []
    for batch in build_loader(site.url, cache=folder, cache_gb=need_gb, **settings):
        if len(got) == step:
            shutil.rmtree(folder, ignore_errors=True)
        got += ids([batch])
    assert got == expected
    assert used(folder) <= need_gb * 1e9
    assert not list((folder / "users").iterdir())
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if not line.startswith("cache: ")] in (
        [],  # only a part of it was gone when it was needed next
        [f"{folder}: deleted while in use; made again, shards are fetched anew"],
    )


def test_a_cache_that_is_deleted_before_workers_start_is_made_again(root, site, tmp_path, need_gb):
    settings = {**SETTINGS, "workers": 1, "epochs": 1}
    loader = build_loader(site.url, cache=tmp_path / "cache", cache_gb=need_gb, **settings)
    shutil.rmtree(tmp_path / "cache")
    assert ids(loader) == ids(build_loader(root, **settings))


def test_a_loader_that_fails_before_its_first_batch_leaves_nothing(
    root, site, tmp_path, need_gb, monkeypatch
):
    loader = build_loader(site.url, cache=tmp_path, cache_gb=need_gb, **{**SETTINGS, "workers": 1})

    def fail(cache: NodeCache) -> int:
        raise DataError("cache", "cannot be used", "choose another")

    ended, end = [], Workers.end
    monkeypatch.setattr(Workers, "end", lambda self: (ended.append(self), end(self)))
    monkeypatch.setattr(NodeCache, "usage", fail)
    with pytest.raises(DataError, match="cache: cannot be used"):
        next(iter(loader))
    assert len(ended) == 1  # not left to PyTorch, which waits five seconds for each
    assert psutil.wait_procs(loader_workers(), timeout=5)[1] == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_that_can_be_made_no_more_is_one_error(site, tmp_path, capfd, need_gb, workers):
    folder = tmp_path / "cache"
    settings = {**SETTINGS, "workers": workers, "epochs": 2, "cache": folder, "cache_gb": need_gb}

    def read() -> None:
        for _ in build_loader(site.url, **settings):
            while not folder.is_file():
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(IsADirectoryError):  # a worker has just made it again
                    folder.touch()

    with pytest.raises(DataError, match=r": cannot be (used|read) \(Not a directory\); "):
        read()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_loader_that_is_left_early_ends_its_downloads(site, tmp_path):
    site.fault = lambda handler, attempt: time.sleep(0.2) or False
    batches = iter(build_loader(site.url, cache=tmp_path, **{**SETTINGS, "workers": 1}))
    next(batches)
    began = time.monotonic()
    batches.close()
    assert time.monotonic() - began < 4
    names = {thread.name for thread in threading.enumerate()}
    assert "shards ahead" not in names
    assert not list((tmp_path / "users").iterdir())


@pytest.mark.slow
def test_processes_that_fight_for_the_cache_never_exceed_the_cap_or_stop(root, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        cache_stress = importlib.import_module("cache_stress")
        seen = cache_stress.stress(root, tmp_path, seconds=12, kill_every_s=4)
    assert seen.failures == []
    assert seen.wrong == 0
    assert seen.batches > 50
    assert seen.kills >= 2
    assert seen.most_bytes <= seen.cap_bytes
