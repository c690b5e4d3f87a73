"""Shard sets at an address: whatever the network does, the batches are those of the local set."""

import base64
import json
import os
import re
import shutil
import threading
from collections import Counter

import pytest
import torch
from click.testing import CliRunner
from fault_fixtures import KINDS, Faults, impatient, tar_bytes
from parquet_fixtures import encode, hub, picture, write_rows
from remote_fixtures import website
from s3_fixtures import BUCKET, answer, reset, s3_server
from training import losses, tiny_config

from streamgan.cli.main import streamgan
from streamgan.core.errors import ConfigError, DataError
from streamgan.core.seeding import hash64
from streamgan.core.storage import download, retry
from streamgan.core.storage.address import join
from streamgan.core.storage.download import read_range, read_whole, size_of
from streamgan.core.storage.locks import close_descriptor
from streamgan.data.format import idx_name, read_idx, read_manifest
from streamgan.data.loader import build_eval_loader, build_loader
from streamgan.data.prefetch import downloads
from streamgan.data.reading import Reading, Source, Weighted
from streamgan.data.shards.reader import ShardReader
from streamgan.data.shards.remote import NotArrived
from streamgan.inference.weights import find_weights, load_weights
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.verify import verify
from streamgan.train.evaluate import Photos, evaluate_weights
from streamgan.train.loop import train

SOME = ["429", "reset", "flip"]
REST = [kind for kind in KINDS if kind not in SOME]
SETTINGS = {"batch": 4, "size": 16, "lanes": 2, "window": 2, "epochs": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """24 train shards or so of four samples, some val and test shards."""
    folder = tmp_path_factory.mktemp("many")
    write_rows(folder / "a.parquet", [{"image": hub(encode(picture(seed)))} for seed in range(90)], group=4)
    options = ShardOptions(samples_per_shard=5, splits="train=0.8,val=0.2")
    shard([str(folder / "a.parquet")], folder / "set", options=options, num_workers=0)
    return folder / "set"


@pytest.fixture(scope="module")
def expected(root):
    return list(build_loader(root, workers=0, **SETTINGS))


@pytest.fixture
def site(root, monkeypatch):
    impatient(monkeypatch)
    with website(root) as server:
        yield server


def assert_same(batches, expected) -> None:
    batches = list(batches)
    assert len(batches) == len(expected) > 0
    for one, other in zip(batches, expected, strict=True):
        assert one.ids_B.tolist() == other.ids_B.tolist()
        assert torch.equal(one.color_B3HW, other.color_B3HW)


def members(root) -> dict[str, list[tuple[int, int]]]:
    """Where the images of each shard lie."""
    return {
        path.name: [
            (member.offset, member.offset + member.size)
            for sample in read_idx(root / idx_name(path.name))
            for member in sample.members
            if member.suffix.startswith("color")
        ]
        for path in root.glob("*.tar")
    }


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_set_on_the_web_gives_the_batches_of_the_disk(root, site, expected, tmp_path, monkeypatch, workers):
    assert_same(build_loader(site.url, workers=workers, cache=tmp_path, **SETTINGS), expected)
    shards = read_manifest(root).splits["train"].shards
    assert {path.name for path in (tmp_path / "blobs").iterdir()} == {
        *(one.sha256 for one in shards),
        read_manifest(root).splits["train"].index_sha256,
    }
    assert len(site.requests) == len(set(site.requests))  # two epochs, and nothing was asked for twice


@pytest.mark.parametrize("kind", SOME + [pytest.param(kind, marks=pytest.mark.slow) for kind in REST])
def test_a_fault_of_the_network_leaves_the_batches_as_they_are(
    root, site, expected, tmp_path, monkeypatch, kind
):
    faults = Faults(site, (kind,), monkeypatch, share=0.2)
    faults.flips = members(root)
    assert_same(build_loader(site.url, workers=0, cache=tmp_path, **SETTINGS), expected)
    assert faults.served[kind] >= 3
    whole = sum(shard.bytes for shard in read_manifest(root).splits["train"].shards)
    small = sum((root / name).stat().st_size for name in ("manifest.json", "train.index")) + 1
    assert site.sent - whole - small <= faults.served[kind] * download.CHUNK_BYTES


@pytest.mark.slow
def test_all_faults_at_once_leave_the_batches_as_they_are(root, site, expected, tmp_path, monkeypatch):
    faults = Faults(site, KINDS, monkeypatch, share=0.5, seed=1)
    faults.flips = members(root)
    assert_same(build_loader(site.url, workers=2, cache=tmp_path, **SETTINGS), expected)
    assert len(faults.served) >= 6


@pytest.mark.slow
def test_a_damaged_header_is_fetched_again_with_its_shard(root, site, expected, tmp_path, monkeypatch):
    faults = Faults(site, ("flip",), monkeypatch, share=0.2)
    faults.flips = {name: [(0, 100)] for name in members(root)}  # the name in the first header
    assert_same(build_loader(site.url, workers=0, cache=tmp_path, **SETTINGS), expected)
    assert faults.served["flip"] >= 2


@pytest.mark.parametrize("name", ["manifest.json", "train.index"])
def test_a_damaged_manifest_or_index_is_fetched_again(root, site, expected, tmp_path, name):
    data = (root / name).read_bytes()

    def flip(handler, attempt) -> bool:
        if handler.path != f"/{name}" or attempt > 1 or "0-0" in handler.headers.get("Range", ""):
            return False
        wrong = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        handler.send_response(206 if "Range" in handler.headers else 200)
        handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(wrong)
        return True

    site.fault = flip
    assert_same(build_loader(site.url, workers=0, cache=tmp_path, **SETTINGS), expected)
    assert sum(request.startswith(f"/{name}") for request in site.requests) >= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_cache_images_are_read_by_range(root, site, expected, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("HOME", str(tmp_path))
    Faults(site, ("503", "cut"), monkeypatch, share=0.2)
    loader = build_loader(site.url, workers=workers, cache="none", **{**SETTINGS, "epochs": 1})
    assert_same(loader, expected[: len(loader)])
    assert site.sent < tar_bytes(root)  # no headers, no padding
    assert not list(tmp_path.iterdir())


def test_a_flipped_byte_without_a_cache_is_read_again(root, site, monkeypatch):
    faults = Faults(site, ("flip",), monkeypatch, share=0.5)
    faults.flips = members(root)
    reader, local = (ShardReader(place, "train", cache=None) for place in (site.url, root))
    assert [reader.read(i) for i in range(12)] == [local.read(i) for i in range(12)]
    assert faults.served["flip"] >= 3
    local.close()


def test_a_position_and_ranks_do_not_depend_on_the_cache(root, site, expected, tmp_path):
    for rank in (0, 1):
        loader = build_loader(
            site.url, workers=0, cache=tmp_path, start_step=7, rank=rank, world=2, **SETTINGS
        )
        half = [batch.ids_B[2 * rank : 2 * rank + 2].tolist() for batch in expected[7:]]
        assert [batch.ids_B.tolist() for batch in loader] == half


@pytest.mark.slow
def test_reads_that_waited_for_the_network_and_requests_made_again_are_counted(root, site, tmp_path):
    by_range = build_loader(site.url, workers=0, cache="none", **SETTINGS)
    assert len(list(by_range)) > 0
    assert by_range.stats.hits == 0 < by_range.stats.samples
    local = build_loader(root, workers=1, **SETTINGS)
    assert len(list(local)) > 0
    assert local.stats.hits == local.stats.samples == by_range.stats.samples
    before = retry.num_retries()
    site.fault = lambda handler, attempt: attempt == 1 and (handler.send_error(503) or True)
    cached = build_loader(site.url, workers=2, cache=tmp_path / "cache", **SETTINGS)
    assert len(list(cached)) > 0
    assert retry.num_retries() - before >= 10  # the manifest, the index, every shard
    assert 0 < cached.stats.hits < cached.stats.samples == by_range.stats.samples


def test_evaluation_and_the_val_split_work_from_an_address(root, site, tmp_path):
    local = list(build_eval_loader(root, "val", batch=3, size=16))
    assert_same(build_eval_loader(site.url, "val", batch=3, size=16, cache=tmp_path), local)
    first = list(build_eval_loader(root, "train", batch=3, size=16, num_images=5))
    few = build_eval_loader(site.url, "train", batch=3, size=16, num_images=5, cache=tmp_path, workers=1)
    assert_same(few, first)


@pytest.mark.slow
def test_a_mixture_of_a_local_and_a_remote_set_is_that_of_two_local_ones(root, site, tmp_path):
    options = {"batch": 4, "size": 16, "workers": 0, "epochs": 2}
    local = list(build_loader([Weighted(str(root), 3), Weighted(str(root), 1)], **options))
    mixed = build_loader([Weighted(site.url, 3), Weighted(str(root), 1)], cache=tmp_path, **options)
    assert_same(mixed, local)
    later = build_loader(
        [Weighted(site.url, 3), Weighted(str(root), 1)], cache=tmp_path, start_step=17, **options
    )
    assert_same(later, local[17:])


def test_giving_up_names_address_byte_and_attempts_but_no_token(root, site, tmp_path, monkeypatch):
    shards = read_manifest(root).splits["train"].shards
    site.fault = lambda handler, attempt: (
        handler.path.split("?")[0] == f"/{shards[0].name}"
        and "bytes=4096-" in handler.headers.get("Range", "")
        and (handler.send_error(503) or True)
    )
    reader = ShardReader(f"{site.url}?token=secret", "train", cache=tmp_path)
    with pytest.raises(DataError) as failure:
        reader.read(0)
    message = str(failure.value)
    assert message.startswith(
        f"{site.url}/{shards[0].name}: cannot be read at byte 4096 (HTTP 503, 5 attempts)"
    )
    assert "secret" not in message
    assert reader.read(int(reader.starts[1]))  # others are not concerned
    reader.close()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_shard_that_is_missing_ends_the_run_naming_it(root, site, tmp_path, workers):
    name = read_manifest(root).splits["train"].shards[5].name
    site.fault = lambda handler, attempt: handler.path == f"/{name}" and (handler.send_error(404) or True)
    with pytest.raises(DataError, match=rf"^{site.url}/{name}: cannot be read at byte 0 \(HTTP 404\); check"):
        list(build_loader(site.url, workers=workers, cache=tmp_path, on_bad="substitute", **SETTINGS))
    with pytest.raises(NotArrived, match=rf"^{site.url}/{name}: cannot be read at byte \d+ \(HTTP 404\)"):
        list(build_loader(site.url, workers=workers, cache="none", on_bad="substitute", **SETTINGS))


def test_a_shard_that_is_another_one_is_an_error_after_a_few_downloads(root, site, tmp_path):
    damaged = shutil.copytree(root, tmp_path / "damaged")
    name = read_manifest(root).splits["train"].shards[0].name
    data = bytearray((damaged / name).read_bytes())
    data[700] ^= 1
    (damaged / name).write_bytes(data)
    site.root = damaged
    reader = ShardReader(site.url, "train", cache=tmp_path / "cache")
    with pytest.raises(DataError, match=rf"{name}: is not what the manifest says \(sha256, 4 downloads\)"):
        reader.read(0)
    reader.close()


@pytest.mark.slow
def test_nobody_waits_for_ever_for_somebody_elses_download(root, site, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "SILENCE_S", 1.0)
    reader = ShardReader(site.url, "train", cache=tmp_path)
    lease = reader.files.cache.lease()
    claims = [
        reader.files.cache.claim(reader.files.blob(shard), lease, lambda sha256: 0)
        for shard in range(len(reader.files.shards))
    ]
    assert {claim.state for claim in claims} == {"mine"}
    with pytest.raises(DataError, match=rf"^{site.url}/train-.*tar: no byte has arrived for 1 s; see which"):
        list(build_loader(site.url, workers=1, cache=tmp_path, **SETTINGS))
    for claim in claims:
        close_descriptor(claim.descriptor)
    reader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_of_two_iterators_of_a_loader_one_may_end_before_the_other(root, site, expected, tmp_path, workers):
    loader = build_loader(site.url, workers=workers, cache=tmp_path, **SETTINGS)
    first, second = iter(loader), iter(loader)
    next(first)
    begun = [next(second)]
    first.close()
    assert_same([*begun, *second], expected)


@pytest.mark.parametrize("name", ["train.index", "more photos/Käse, 5%.index"])
def test_retry_after_is_honoured(root, site, name, tmp_path):
    pauses = []

    class Recorder(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return False

    def busy(handler, attempt) -> bool:
        if attempt > 2:
            return False
        handler.send_response(429)
        handler.send_header("Retry-After", "17" if attempt == 1 else "100000")
        handler.end_headers()
        return True

    site.fault = busy
    got = bytearray()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copy(root / "train.index", tmp_path / name)
    site.root = tmp_path
    address = f"{site.url}/{name.replace('%', '%25')}"
    download.download(address, 0, 100, lambda at, data: got.extend(data), stop=Recorder())
    assert bytes(got) == (root / "train.index").read_bytes()[:100]
    assert pauses == [17.0, retry.MAX_PAUSE_S]


@pytest.mark.parametrize("said", ["\u00b2", "-5", "soon", "", f"Mon, {'9' * 20} Jan 2020 00:00:00 GMT"])
def test_a_retry_after_that_makes_no_sense_asks_for_nothing(said):
    assert retry.seconds_until(said) == 0


def test_a_server_without_ranges_is_refused(root, site, tmp_path):
    site.ranges = False
    with pytest.raises(
        DataError,
        match=r"train\.index: the server does not answer requests for a part of a file",
    ):
        build_loader(site.url, workers=0, cache=tmp_path, **SETTINGS)


@pytest.mark.parametrize("page", [b"\n<!DOCTYPE html><p>Sign in</p>", b"<?xml version='1.0'?><Error/>"])
def test_a_web_page_in_the_place_of_the_manifest_is_called_one(tmp_path, monkeypatch, page):
    impatient(monkeypatch)
    (tmp_path / "manifest.json").write_bytes(page)
    told = r"manifest\.json: is a page of HTML or XML, not JSON; "
    with website(tmp_path) as server:
        with pytest.raises(DataError, match=rf"^{server.url}/{told}check the address"):
            build_loader(server.url, cache=tmp_path / "cache")
        (finding,) = verify(server.url).findings
    assert finding.what == "is a page of HTML or XML, not JSON"
    with pytest.raises(DataError, match=rf"^{tmp_path}/{told}run the `streamgan shard` command"):
        read_manifest(tmp_path)


def test_a_warm_cache_serves_while_the_server_is_down(root, expected, tmp_path, monkeypatch, capfd):
    impatient(monkeypatch)
    cache = tmp_path / "cache"
    with website(root) as site:
        warm = {"cache": cache, **SETTINGS}
        assert_same(build_loader(site.url, workers=0, **warm), expected)
    for workers in (0, 1):
        assert_same(build_loader(site.url, workers=workers, **warm), expected)
    said = re.findall(r"^http.*cannot be reached.*$", capfd.readouterr().err, re.MULTILINE)
    digest = read_manifest(root).digest[:12]
    assert said == [f"{site.url}: cannot be reached (no connection); the cache goes on with set {digest}"]


@pytest.mark.parametrize("damage", ["none", "flipped", "not a manifest"])
def test_a_cache_without_a_whole_manifest_serves_no_set_that_is_down(root, tmp_path, monkeypatch, damage):
    impatient(monkeypatch)
    with website(root) as site:
        ShardReader(site.url, "train", cache=tmp_path).close()
    (copy,) = (tmp_path / "sets").iterdir()
    if damage == "none":
        copy.unlink()
    else:
        text = copy.read_text()
        copy.write_text(text.replace('"samples": 4', '"samples": 5', 1) if damage == "flipped" else "[]")
    with pytest.raises(DataError, match=rf"^{site.url}/manifest.json: cannot be read \(no connection, 5"):
        ShardReader(site.url, "train", cache=tmp_path)


def test_a_set_that_is_gone_is_not_served_from_the_cache(root, tmp_path, monkeypatch):
    """An answer that there is nothing is no failure of the network."""
    with website(root) as site:
        ShardReader(site.url, "train", cache=tmp_path).close()
        site.root = tmp_path
        with pytest.raises(DataError, match="HTTP 404"):
            ShardReader(site.url, "train", cache=tmp_path)


def test_what_is_no_set_is_one_error(site, tmp_path):
    with pytest.raises(DataError, match=r"/none/manifest.json: cannot be read \(HTTP 404\)"):
        build_loader(f"{site.url}/none", cache=tmp_path)
    with pytest.raises(DataError, match="no samples in split 'test'"):
        ShardReader(site.url, "test", cache=tmp_path)
    with pytest.raises(ConfigError, match="plain http"):
        build_loader("http://example.org/set", cache=tmp_path)
    with pytest.raises(
        ConfigError, match=r"^data\.cache: names an unknown user's home \(got ~nobody here/a\)"
    ):
        build_loader(site.url, cache="~nobody here/a")


def test_a_damaged_image_is_named_by_address_and_key(root, site, tmp_path):
    damaged = shutil.copytree(root, tmp_path / "damaged")
    name = read_manifest(root).splits["train"].shards[0].name
    sample = read_idx(root / idx_name(name))[0]
    data = bytearray((damaged / name).read_bytes())
    data[sample.members[0].offset + 9] ^= 1
    (damaged / name).write_bytes(data)
    site.root = damaged
    reader = ShardReader(site.url, "train", cache=None)
    with pytest.raises(DataError) as failure:
        reader.read(0)
    assert failure.value.where == f"{site.url}/{name}, key {sample.key}"


def test_a_fork_of_a_process_that_has_read_says_so_instead_of_waiting_for_ever(site):
    address = f"{site.url}/train.index"
    assert read_range(address, 0, 10)
    receive, send = os.pipe()
    if not (child := os.fork()):
        try:
            read_range(address, 0, 10)
        except ConfigError as error:
            os.write(send, str(error).encode())
        finally:
            os._exit(0)
    os.close(send)
    os.waitpid(child, 0)
    with open(receive) as file:
        said = file.read()
    assert said.startswith(f"process {child}: is a fork of one that has read from an address"), said


def test_a_name_and_a_password_in_an_address_go_along_and_are_not_shown(root, site, monkeypatch):
    impatient(monkeypatch)
    seen = []

    def note(handler, attempt) -> bool:
        seen.append(handler.headers.get("Authorization"))
        if busy:
            handler.send_error(503)
        return busy

    site.fault, busy = note, False
    address = f"{site.url}/train.index".replace("http://", "http://me:a%3Ab@")
    data = (root / "train.index").read_bytes()
    assert (read_whole(address), read_range(address, 5, 9), size_of(address)) == (data, data[5:9], len(data))
    busy = True
    with pytest.raises(DataError, match=rf"^{site.url}/train.index: cannot be read ") as failure:
        read_whole(address)
    assert "a%3Ab" not in str(failure.value)
    assert set(seen) == {"Basic " + base64.b64encode(b"me:a:b").decode()}  # asking for Retry-After included


def test_pieces_of_files_arrive_as_they_are(root, site):
    data = (root / "train.index").read_bytes()
    address = f"{site.url}/train.index?a=b"
    assert read_whole(address) == data
    assert size_of(address) == len(data)
    assert read_range(address, 10, 1010) == data[10:1010]


def test_addresses_are_joined_before_their_query():
    assert join("https://a.org/set/?t=1", "x.tar") == "https://a.org/set/x.tar?t=1"
    assert join("s3://bucket/set/", "x.tar") == "s3://bucket/set/x.tar"
    assert join("hf://datasets/a/b@main/set", "x.tar") == "hf://datasets/a/b@main/set/x.tar"


@pytest.fixture(scope="module")
def bucket(root):
    """s3://shards/set on a server of its own."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="shards")
        for path in root.iterdir():
            client.upload_file(str(path), "shards", f"set/{path.name}")
        yield "s3://shards/set"
        client.close()
    server.stop()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_set_in_a_bucket_gives_the_batches_of_the_disk(bucket, expected, tmp_path, workers):
    assert_same(build_loader(bucket, workers=workers, cache=tmp_path, **SETTINGS), expected)


@pytest.mark.slow
def test_a_bucket_is_read_by_range_too(bucket, expected):
    loader = build_loader(bucket, workers=1, cache="none", **{**SETTINGS, "stop_step": 4})
    assert_same(loader, expected[:4])


def test_what_a_bucket_does_not_hold_is_one_error(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_DELAYS_S", (0.0,) * 4)
    for address in ("s3://shards/none", "s3://none/set"):
        with pytest.raises(DataError, match=rf"^{address}/manifest.json: cannot be read \("):
            build_loader(address, cache=tmp_path)


@pytest.mark.parametrize("cache", ["folder", "none"])
def test_a_run_asks_for_the_table_of_contents_once_however_often_it_validates(shard_set, tmp_path, cache):
    cache = "none" if cache == "none" else tmp_path
    more = ["run.steps=3", "run.validate_every=1", f"data.cache={cache}"]
    with website(shard_set) as site:
        train(tiny_config(site.url, tmp_path / "run", *more))
        weights = load_weights(find_weights(str(tmp_path / "run"), "last"))
        asked, site.requests = site.requests, []
        photos = Photos(Reading(Source(site.url, cache), 48, workers=0), "test", 4)
        evaluate_weights(weights.generator, weights.head, photos)
    for requests in (asked, site.requests):
        paths = [one.split()[0] for one in requests if not one.split()[0].endswith(".tar")]
        assert "/manifest.json" in paths
        assert len(paths) == len(set(paths)), paths


@pytest.mark.slow
def test_a_run_and_its_scores_are_those_of_the_local_set(shard_set, tmp_path):
    more = ("run.steps=3", f"data.cache={tmp_path / 'cache'}", "data.workers=1")
    with website(shard_set) as site:
        train(tiny_config(site.url, tmp_path / "remote", *more))
        again = ("run.steps=5", "data.cache=none", "data.workers=1")  # which is no other run
        train(tiny_config(f"{site.url}/", tmp_path / "remote", *again))
        arguments = [
            "evaluate",
            str(tmp_path / "remote"),
            "--shards",
            site.url,
            "--json",
            "--max-images",
            "6",
        ]
        cache = ["--cache", str(tmp_path / "cache"), "--cache-gb", "1"]
        scored = CliRunner().invoke(streamgan, [*arguments, *cache])
    train(tiny_config(shard_set, tmp_path / "local", "run.steps=5"))
    assert losses(tmp_path / "remote") == losses(tmp_path / "local")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout.splitlines()[-1])["num_images"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["folder", "none"])
def test_faults_of_a_bucket_leave_the_batches_as_they_are(root, expected, tmp_path, monkeypatch, cache):
    """Of moto's server, each once for some ranges: busy, broken, reset, other bytes, too few."""
    impatient(monkeypatch)
    served = Counter()

    def other_bytes(share: float):
        def lie(environ) -> str:
            begin, end = map(int, re.findall(r"\d+", environ["HTTP_RANGE"]))
            return "206 Partial Content\n" + "x" * int((end + 1 - begin) * share)

        return lie

    kinds = {
        "slow down": answer("503 Slow Down", "SlowDown"),
        "too many": answer("429 Too Many Requests", "TooManyRequests"),
        "broken": answer("500 Internal Server Error", "InternalError"),
        "reset": reset,
        "flipped": other_bytes(1.0),
        "short": other_bytes(0.5),
    }

    def fault(environ):
        request = environ["PATH_INFO"] + environ.get("HTTP_RANGE", "")
        draw = int(hash64(3, *request.encode()))
        if not environ["PATH_INFO"].endswith(".tar") or draw % 3 or request in seen:
            return None
        seen.add(request)
        name = list(kinds)[draw // 3 % len(kinds)]
        served[name] += 1
        return kinds[name]

    seen: set[str] = set()
    with s3_server() as store:
        for path in root.iterdir():
            store.write(f"set/{path.name}", path.read_bytes())
        store.fault = fault
        address = f"s3://{BUCKET}/set"
        where = tmp_path if cache == "folder" else "none"
        assert_same(build_loader(address, workers=0, cache=where, **SETTINGS), expected)
    assert served.keys() == kinds.keys(), served
