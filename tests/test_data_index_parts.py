"""The index of a large set at an address: the parts that the plan needs, once a machine, no byte unseen."""

import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fault_fixtures import impatient
from marks import slow
from parquet_fixtures import write_small_shards
from remote_fixtures import website
from s3_fixtures import BUCKET, s3_server

from streamgan.cli.bench import bench
from streamgan.core.errors import DataError
from streamgan.data.format import MANIFEST, idx_name, read_manifest
from streamgan.data.inspect import inspect
from streamgan.data.loader import build_eval_loader, build_loader
from streamgan.data.order.canonical import Order
from streamgan.data.reading import Weighted
from streamgan.data.shards import index_parts
from streamgan.data.shards.reader import ShardReader
from streamgan.data.shards.remote import NotArrived

NUM_SHARDS, EACH = 24, 4
SETTINGS = {"batch": 4, "size": 16, "lanes": 1, "window": 2, "workers": 0}
CHILD = """
import sys
from streamgan.data.shards import index_parts
index_parts.WHOLE_BYTES = 0
"""
READ_ALL = (
    CHILD
    + """
from streamgan.data.shards.reader import ShardReader
reader = ShardReader(sys.argv[1], "train", cache=sys.argv[2])
for sample in range(len(reader)):
    reader.read(sample)
reader.close()
"""
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """24 train shards of four samples."""
    return write_small_shards(tmp_path_factory.mktemp("parts"), samples=NUM_SHARDS * EACH, each=EACH)


@pytest.fixture(autouse=True)
def in_parts(monkeypatch):
    """Any index is a large one."""
    monkeypatch.setattr(index_parts, "WHOLE_BYTES", 0)


@pytest.fixture
def site(root, monkeypatch):
    impatient(monkeypatch)
    with website(root) as server:
        yield server


def parts_of(site) -> Counter[int]:
    """How often the part of each shard was asked for; of the whole index nobody did."""
    assert not any(request.startswith("/train.index") for request in site.requests)
    found = (re.match(r"/train-(\d+)\.idx", request) for request in site.requests)
    return Counter(int(one[1]) for one in found if one)


def in_order(root) -> list[int]:
    """Shards as the first epoch of SETTINGS meets them."""
    order = Order([EACH] * NUM_SHARDS, seed=0, batch=4, lanes=1, window=2)
    return list(dict.fromkeys(order.uses(0)[0].tolist()))


def ids(batches) -> list[list[int]]:
    return [batch.ids_B.tolist() for batch in batches]


def assert_same(batches, expected) -> None:
    batches = list(batches)
    assert ids(batches) == ids(expected) != []
    assert all(torch.equal(a.color_B3HW, b.color_B3HW) for a, b in zip(batches, expected, strict=True))


def rows_memory(reader: ShardReader) -> int:
    """Bytes of memory that the known parts take."""
    return os.fstat(reader.files.parts._memory._descriptor).st_blocks * 512


@pytest.mark.parametrize("cache", ["folder", "none"])
@pytest.mark.parametrize("workers", [0, slow(2)])
def test_the_batches_are_those_of_the_disk_and_an_epoch_fetches_each_part_once(
    root, site, tmp_path, workers, cache
):
    expected = list(build_loader(root, epochs=2, **SETTINGS))
    where = tmp_path if cache == "folder" else cache
    settings = {**SETTINGS, "workers": workers}
    assert_same(build_loader(site.url, cache=where, epochs=2, **settings), expected)
    asked = parts_of(site)
    assert set(asked) == set(range(NUM_SHARDS))
    if cache == "folder":
        assert set(asked.values()) == {1}


@pytest.mark.parametrize("cache", ["folder", "none"])
def test_a_first_batch_fetches_the_parts_of_its_windows_alone(root, site, tmp_path, cache):
    batches = iter(build_loader(site.url, cache=tmp_path if cache == "folder" else cache, **SETTINGS))
    next(batches)
    batches.close()
    asked, near = parts_of(site), in_order(root)[:6]  # this window of two shards, the next, and their edges
    assert set(asked) <= {0, *near}  # the first tells whether the set has twins
    assert set(asked.values()) == {1}


def test_a_run_that_resumes_near_the_end_fetches_what_it_needs(root, site, tmp_path):
    expected = list(build_loader(root, epochs=1, start_step=22, **SETTINGS))
    assert len(expected) == 2
    assert_same(build_loader(site.url, cache=tmp_path, epochs=1, start_step=22, **SETTINGS), expected)
    assert len(parts_of(site)) <= 5


def test_ranks_of_two_machines_fetch_the_parts_of_their_lanes(root, tmp_path, monkeypatch):
    settings = {**SETTINGS, "lanes": 2, "epochs": 1, "world": 2, "node_ranks": 1}
    impatient(monkeypatch)
    for rank in range(2):
        expected = list(build_loader(root, rank=rank, **settings))
        with website(root) as site:
            assert_same(build_loader(site.url, cache=tmp_path / str(rank), rank=rank, **settings), expected)
            assert len(parts_of(site)) <= NUM_SHARDS / 2 + 3


def test_a_mixture_of_a_large_set_and_one_on_the_disk_is_that_of_two_on_the_disk(root, site, tmp_path):
    def of(address) -> list[Weighted]:
        return [Weighted(str(address), 2), Weighted(str(root), 1)]

    settings = {"batch": 4, "size": 16, "workers": 0, "stop_step": 8}
    expected = list(build_loader(of(root), **settings))
    assert_same(build_loader(of(site.url), cache=tmp_path, **settings), expected)
    assert_same(build_loader(of(site.url), cache="none", **settings), expected)
    assert parts_of(site)


def test_an_evaluation_fetches_the_parts_of_its_images(root, site, tmp_path):
    options = {"batch": 4, "size": 16, "num_images": 12}
    expected = list(build_eval_loader(root, "train", **options))
    assert_same(build_eval_loader(site.url, "train", cache=tmp_path, **options), expected)
    assert set(parts_of(site)) == {0, 1, 2}


@pytest.mark.parametrize("workers", [0, slow(1)])
def test_a_full_cache_serves_while_the_server_is_down(root, tmp_path, monkeypatch, workers):
    impatient(monkeypatch)
    settings = {**SETTINGS, "cache": tmp_path, "epochs": 1}
    with website(root) as site:
        expected = list(build_loader(site.url, **settings))
    assert_same(build_loader(site.url, **{**settings, "workers": workers}), expected)


def test_two_machines_of_a_bucket_ask_for_no_more(root, tmp_path, monkeypatch):
    asked: Counter[str] = Counter()
    impatient(monkeypatch)
    with s3_server() as store:
        for path in root.iterdir():
            store.write(f"set/{path.name}", path.read_bytes())

        def count(environ):
            asked[Path(environ["PATH_INFO"]).name] += environ["REQUEST_METHOD"] == "GET"

        store.fault = count
        expected = list(build_loader(root, epochs=1, **SETTINGS))
        loader = build_loader(f"s3://{BUCKET}/set", cache=tmp_path, epochs=1, **SETTINGS)
        batches = iter(loader)
        got = [next(batches)]
        assert sum(name.endswith(".idx") for name in asked) < NUM_SHARDS / 2
        assert_same([*got, *batches], expected)
    assert {asked[f"train-{n:06d}.idx"] for n in range(NUM_SHARDS)} == {1}
    assert "train.index" not in asked


@pytest.mark.slow
def test_two_processes_share_every_part(root, site, tmp_path):
    children = [subprocess.Popen([sys.executable, "-c", READ_ALL, site.url, str(tmp_path)]) for _ in range(2)]
    assert [child.wait(120) for child in children] == [0, 0]
    assert parts_of(site) == Counter(range(NUM_SHARDS))


def send(handler, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def damaged(data: bytes) -> bytes:
    """One digit of a place is another one: still an index, and a wrong one."""
    place = data.index(b'"color.jpg": [') + len(b'"color.jpg": [')
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("cache", ["folder", "none"])
def test_a_part_that_is_damaged_on_the_way_is_fetched_again(root, site, tmp_path, cache):
    def flip(handler, attempt) -> bool:
        if not handler.path.endswith(".idx") or attempt > 1:
            return False
        send(handler, damaged((root / handler.path[1:]).read_bytes()))
        return True

    site.fault = flip
    expected = list(build_loader(root, epochs=1, **SETTINGS))
    where = tmp_path if cache == "folder" else cache
    assert_same(build_loader(site.url, cache=where, epochs=1, **SETTINGS), expected)
    assert set(parts_of(site).values()) == {2}


def test_a_part_that_is_damaged_in_the_cache_is_fetched_again(root, site, tmp_path):
    settings = {**SETTINGS, "cache": tmp_path, "epochs": 1}
    expected = list(build_loader(site.url, **settings))
    site.requests.clear()
    shards = read_manifest(root).splits["train"].shards
    for number in (0, 7):
        path = tmp_path / "blobs" / shards[number].idx_sha256
        path.write_bytes(damaged(path.read_bytes()))
    path = tmp_path / "blobs" / shards[9].idx_sha256
    path.write_bytes(path.read_bytes()[:50])
    assert_same(build_loader(site.url, **settings), expected)
    assert parts_of(site) == {0: 1, 7: 1, 9: 1}


@pytest.mark.parametrize("cache", ["folder", "none"])
@pytest.mark.parametrize("workers", [0, slow(1)])
def test_a_part_that_is_another_one_ends_the_run_and_no_sample_stands_in(
    root, tmp_path, monkeypatch, cache, workers
):
    impatient(monkeypatch)
    copy = shutil.copytree(root, tmp_path / "set")
    name = idx_name(read_manifest(root).splits["train"].shards[in_order(root)[5]].name)
    (copy / name).write_bytes(damaged((copy / name).read_bytes()))
    settings = {**SETTINGS, "workers": workers, "on_bad": "substitute"}
    with website(copy) as site:
        loader = build_loader(site.url, cache=tmp_path / "c" if cache == "folder" else cache, **settings)
        with pytest.raises((DataError, NotArrived), match=rf"{name}: is not what the manifest says \(sha256"):
            list(loader)
    assert loader.replaced == 0


def test_a_set_whose_first_part_is_another_one_is_refused_at_once(root, tmp_path, monkeypatch):
    impatient(monkeypatch)
    copy = shutil.copytree(root, tmp_path / "set")
    (copy / "train-000000.idx").write_bytes(damaged((copy / "train-000000.idx").read_bytes()))
    with (
        website(copy) as site,
        pytest.raises(DataError, match=r"train-000000\.idx: is not what the manifest says"),
    ):
        ShardReader(site.url, "train", cache=tmp_path / "cache")


def test_a_part_that_lists_other_samples_than_the_manifest_says_is_an_error(root, site, tmp_path):
    reader = ShardReader(site.url, "train", cache=tmp_path)
    vars(reader.entry.shards[3])["samples"] = 5
    with pytest.raises(NotArrived, match=r"train-000003\.idx: does not list the samples that the manifest"):
        reader.read(3 * EACH)
    reader.close()


@pytest.mark.parametrize("cache", ["folder", "none"])
def test_a_set_without_idx_files_is_read_by_its_whole_index(root, tmp_path, monkeypatch, cache):
    """Readers of the format need them for messages alone."""
    impatient(monkeypatch)
    copy = shutil.copytree(root, tmp_path / "set", ignore=shutil.ignore_patterns("*.idx"))
    expected = list(build_loader(root, epochs=1, **SETTINGS))
    with website(copy) as site:
        where = tmp_path / "c" if cache == "folder" else cache
        assert_same(build_loader(site.url, cache=where, epochs=1, **SETTINGS), expected)
        assert sum(request.startswith("/train.index") for request in site.requests) >= 1


def test_a_damaged_sample_gets_the_same_substitute_as_on_the_disk(root, tmp_path, monkeypatch):
    impatient(monkeypatch)
    copy = shutil.copytree(root, tmp_path / "set")
    for number in (2, 11):
        path = copy / f"train-{number:06d}.tar"
        data = bytearray(path.read_bytes())
        data[int(ShardReader(root, "train").index[number * EACH]["color_offset"]) + 20] ^= 1
        path.write_bytes(data)
    manifest = json.loads((root / MANIFEST).read_text())
    assert manifest["splits"]["train"]["shards"][2]["samples"] == EACH
    settings = {**SETTINGS, "epochs": 1, "on_bad": "substitute"}
    expected = build_loader(copy, **settings)
    batches = list(expected)
    assert expected.replaced == 2
    with website(copy) as site:
        assert_same(build_loader(site.url, cache="none", **settings), batches)


def test_a_part_cut_by_sigkill_is_fetched_by_the_next_run(root, site, tmp_path):
    stalled, ended = threading.Event(), threading.Event()

    def stall(handler, attempt) -> bool:
        if handler.path != "/train-000003.idx" or stalled.is_set():
            return False
        data = (root / "train-000003.idx").read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:100])
        handler.wfile.flush()
        stalled.set()
        ended.wait(60)
        return True

    site.fault = stall
    child = subprocess.Popen([sys.executable, "-c", READ_ALL, site.url, str(tmp_path)])
    assert stalled.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    ended.set()
    site.requests.clear()
    expected = list(build_loader(root, epochs=1, **SETTINGS))
    assert_same(build_loader(site.url, cache=tmp_path, epochs=1, **SETTINGS), expected)
    assert parts_of(site) == Counter(range(3, NUM_SHARDS))
    assert not list((tmp_path / "blobs").glob("*.part"))


def test_a_loader_that_is_left_early_waits_for_no_part(root, site, tmp_path):
    held, leave, late = threading.Event(), threading.Event(), threading.Event()

    def hold(handler, attempt) -> bool:
        if handler.path.endswith(".idx") and int(handler.path[7:13]) not in (0, *in_order(root)[:2]):
            held.set()
            if not leave.wait(20):
                late.set()
        return False

    site.fault = hold
    batches = iter(build_loader(site.url, cache=tmp_path, **SETTINGS))
    next(batches)
    assert held.wait(60)
    batches.close()
    assert not late.is_set()
    leave.set()


def test_the_memory_of_parts_is_given_back_when_their_window_is_past(root, site, tmp_path):
    loader = build_loader(site.url, cache=tmp_path, epochs=3, **SETTINGS)
    reader, batches = loader._samples.reader, iter(loader)
    for _ in range(30):
        next(batches)
    deadline = time.monotonic() + 20
    while rows_memory(reader) > 9 * mmap.PAGESIZE:  # two windows, their edges, the first shard, the flags
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 0 < sum(map(reader.files.parts.known, range(NUM_SHARDS))) < 9
    batches.close()


def test_where_the_cache_has_no_space_for_parts_they_are_read_all_the_same(root, site, tmp_path):
    settings = {**SETTINGS, "cache": tmp_path, "epochs": 2}
    need = build_loader(site.url, **settings)._supply.need_bytes
    expected = list(build_loader(root, epochs=2, **SETTINGS))
    assert_same(build_loader(site.url, cache_gb=(need + 1) / 1e9, **settings), expected)
    assert sum(path.stat().st_size for path in (tmp_path / "blobs").iterdir()) <= need + 1


def test_rows_that_were_dropped_are_not_taken_for_rows(root):
    entry = read_manifest(root).splits["train"]
    rows = np.array(ShardReader(root, "train").index)
    parts = index_parts.IndexParts(entry)
    shards, numbers = np.array([1, 1, 5]), np.array([0, 3, 2])
    assert parts.rows(shards, numbers) is None
    for number in (1, 5):
        parts.put(number, rows[number * EACH : (number + 1) * EACH])
    assert np.array_equal(parts.rows(shards, numbers), rows[shards * EACH + numbers])
    parts.drop(5)
    assert parts.rows(shards, numbers) is None
    assert np.array_equal(parts.rows(shards[:2], numbers[:2]), rows[[4, 7]])
    parts._memory.map[parts._flags + 5] = 1  # as where a process puts what another drops
    assert parts.rows(shards, numbers) is None


def test_a_small_index_is_fetched_whole(root, site, tmp_path, monkeypatch):
    monkeypatch.undo()
    impatient(monkeypatch)
    ids(build_loader(site.url, cache=tmp_path, epochs=1, **SETTINGS))
    assert sum(request.startswith("/train.index") for request in site.requests) == 1
    assert not any(".idx" in request for request in site.requests)


def test_inspect_and_the_plan_of_a_large_set_say_what_they_say_of_a_folder(root, site, tmp_path):
    assert inspect(site.url) == inspect(root)
    words = ["--batch", "8", "--step-ms", "50", "--json", "--cache", str(tmp_path)]
    site.requests.clear()
    found, expected = (
        json.loads(CliRunner().invoke(bench, ["plan", str(one), *words]).stdout) for one in (site.url, root)
    )
    assert found == expected
    assert parts_of(site)
