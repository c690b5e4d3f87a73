"""Images by range, a batch at once: the same bytes in the same order, in few requests, whatever fails."""

import itertools
import threading

import numpy as np
import pytest
from fault_fixtures import Faults, impatient
from hypothesis import given
from hypothesis import strategies as st
from remote_fixtures import website
from test_loader import assert_equal

from streamgan.core.errors import DataError
from streamgan.core.storage import download
from streamgan.data import Weighted, build_loader
from streamgan.data.format import read_manifest
from streamgan.data.loader import build_eval_loader
from streamgan.data.shards import coalesce as pieces_module
from streamgan.data.shards.coalesce import MAX_BYTES, MAX_GAP, NUM_REQUESTS, ByteRange, Coming, merged
from streamgan.data.shards.reader import ShardReader
from streamgan.data.shards.remote import NotArrived

SETTINGS = {"batch": 16, "size": 16, "epochs": 1, "workers": 0}


@pytest.fixture
def site(shard_set, monkeypatch):
    impatient(monkeypatch)
    with website(shard_set) as server:
        yield server


def tar_requests(site) -> int:
    return sum(".tar " in request for request in site.requests)


pieces = st.builds(ByteRange, st.integers(0, 3), st.integers(0, 3 * MAX_GAP), st.integers(0, MAX_GAP))


@given(
    st.lists(
        pieces | st.builds(ByteRange, st.just(9), st.integers(0, 10 * MAX_BYTES), st.integers(1, 99)),
        max_size=40,
    )
)
def test_every_piece_is_in_one_request_and_no_request_is_wasteful(wanted):
    groups = merged(wanted)
    assert sorted(piece for group in groups for piece in group) == sorted(set(wanted))
    for group in groups:
        assert len({piece.shard for piece in group}) == 1
        if len(group) > 1:
            assert max(piece.end for piece in group) - group[0].offset <= MAX_BYTES
        for one, other in itertools.pairwise(group):
            assert 0 <= other.offset - one.end <= MAX_GAP


@given(st.lists(pieces, max_size=40))
def test_pieces_are_the_bytes_of_their_place(wanted):
    shards = np.random.default_rng(0).integers(0, 256, (4, 5 * MAX_GAP), np.uint8)
    coming = Coming(wanted, lambda shard, size, offset: shards[shard, offset : offset + size].tobytes())
    for piece in dict.fromkeys(wanted):
        expected = shards[piece.shard, piece.offset : piece.end].tobytes()
        assert coming.take(piece) == expected
        assert coming.take(piece) is None  # damaged? it is asked for again
    coming.close()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("gray", ["derive", "twin"])
def test_a_batch_by_range_is_that_of_the_disk(shard_set, site, monkeypatch, gray, workers):
    monkeypatch.setattr(download, "CHUNK_BYTES", 8 << 20)
    options = {**SETTINGS, "gray": gray, "workers": workers}
    expected = list(build_loader(shard_set, **options))
    assert_equal(list(build_loader(site.url, cache="none", **options)), expected)
    assert tar_requests(site) <= sum(len(batch.ids_B) for batch in expected)  # a twin costs no request


@pytest.mark.parametrize("kinds", [("503", "reset", "cut"), ("flip",), ("stall", "other_range")])
def test_faults_change_no_batch(shard_set, site, monkeypatch, kinds):
    faults = Faults(site, kinds, monkeypatch, share=0.4)
    rows = ShardReader(shard_set, "train").index
    ends = np.cumsum([shard.samples for shard in read_manifest(shard_set).splits["train"].shards])
    for number, row in enumerate(rows):
        name = (
            read_manifest(shard_set).splits["train"].shards[int(np.searchsorted(ends, number, "right"))].name
        )
        span = int(row["color_offset"]), int(row["color_offset"]) + int(row["color_size"])
        faults.flips.setdefault(name, []).append(span)
    assert_equal(
        list(build_loader(site.url, cache="none", **SETTINGS)), list(build_loader(shard_set, **SETTINGS))
    )
    assert sum(faults.served.values()) >= 5


@pytest.mark.parametrize("most", [NUM_REQUESTS, 4])
def test_the_images_of_a_batch_are_under_way_together(shard_set, site, monkeypatch, most):
    """The server answers only when so many requests are there at once; and no more ever are."""
    monkeypatch.setattr(pieces_module, "NUM_REQUESTS", most)
    monkeypatch.setattr(pieces_module, "MAX_GAP", -1)  # a request an image
    monkeypatch.setattr(download, "CHUNK_BYTES", 8 << 20)
    barrier, lock, now, seen = threading.Barrier(most), threading.Lock(), [0], []

    def wait_for_the_others(handler, attempt) -> bool:
        if handler.path.endswith(".tar"):
            with lock:
                now[0] += 1
                seen.append(now[0])
            barrier.wait(timeout=10)
            with lock:
                now[0] -= 1
        return False

    site.fault = wait_for_the_others
    options = {**SETTINGS, "stop_step": 2}
    assert_equal(
        list(build_loader(site.url, cache="none", **options)), list(build_loader(shard_set, **options))
    )
    assert len(seen) == 32
    assert max(seen) == most


def test_neighbours_come_in_one_request(shard_set, site, monkeypatch):
    monkeypatch.setattr(download, "CHUNK_BYTES", 8 << 20)
    expected = list(build_eval_loader(shard_set, "val", batch=16, size=16))
    assert_equal(list(build_eval_loader(site.url, "val", batch=16, size=16, cache="none")), expected)
    shards = len(read_manifest(shard_set).splits["val"].shards)
    assert tar_requests(site) == shards


def test_sets_of_a_mixture_are_asked_at_once_too(shard_set, site):
    sets = [Weighted(str(shard_set), 1.0), Weighted(site.url, 1.0)]
    local = [Weighted(str(shard_set), 1.0)] * 2
    options = {**SETTINGS, "stop_step": 3, "epochs": None}
    assert_equal(list(build_loader(sets, cache="none", **options)), list(build_loader(local, **options)))


def test_a_shard_that_is_missing_is_named_and_no_thread_is_left(shard_set, site):
    name = read_manifest(shard_set).splits["train"].shards[1].name
    site.fault = lambda handler, attempt: handler.path == f"/{name}" and (handler.send_error(404) or True)
    with pytest.raises(NotArrived, match=rf"{name}: cannot be read at byte \d+ \(HTTP 404\)"):
        list(build_loader(site.url, cache="none", **SETTINGS))
    assert not [thread for thread in threading.enumerate() if "images by range" in thread.name]


def test_a_damaged_image_is_named_and_may_be_substituted(shard_set, site):
    shard = read_manifest(shard_set).splits["train"].shards[0]
    row = ShardReader(shard_set, "train").index[2]
    offset, size = int(row["color_offset"]), int(row["color_size"])
    damaged = bytearray((shard_set / shard.name).read_bytes())
    damaged[offset + size // 2] ^= 1

    def lie(handler, attempt) -> bool:
        first, _, last = handler.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if handler.path != f"/{shard.name}":
            return False
        body = bytes(damaged[int(first) : int(last) + 1])
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(damaged)}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    site.fault = lie
    with pytest.raises(DataError, match=rf"{shard.name}, key \S+: the color image is damaged \(CRC\)"):
        list(build_loader(site.url, cache="none", **SETTINGS))
    loader = build_loader(site.url, cache="none", on_bad="substitute", **SETTINGS)
    assert 2 not in {int(id_) for batch in loader for id_ in batch.ids_B}
    assert loader.replaced == 1
