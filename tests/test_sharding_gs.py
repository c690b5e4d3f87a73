"""`gs://` as source and as `--out`, on a server of Google's protocol."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gs_fixtures import BUCKET, gs_server
from parquet_fixtures import tree

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage import store as clients
from streamgan.core.storage.place import ObjectPath
from streamgan.sharding.folder import bucket_lease
from streamgan.sharding.folder.parts import Part
from streamgan.sharding.run import ShardOptions, finish, shard, shard_part
from streamgan.sharding.verify import verify

pytest_plugins = ["sharding_fixtures"]
OPTIONS = ShardOptions(samples_per_shard=5, splits="train=1")
SOURCE = {"files": 1, "rows": 10}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server():
    with gs_server() as store:
        yield store


@pytest.fixture
def store(server):
    yield server
    server.fault = lambda method, path: None
    server.requests.clear()


@pytest.fixture
def prefix():
    return f"gs-sets/{next(_numbers)}"  # moto keeps what other tests have put into the bucket


def make(source, prefix, **options):
    given = {"options": OPTIONS, "num_workers": 0, **options}
    return shard([str(source)], f"gs://{BUCKET}/{prefix}", **given)


def test_a_bucket_gets_the_bytes_of_a_folder(source, wanted, store, prefix):
    assert not make(source, f"{prefix}/").nothing_to_do
    assert store.tree(prefix) == wanted
    store.requests.clear()
    assert make(source, prefix).nothing_to_do
    assert {method for method, _ in store.requests} == {"GET"}
    assert not verify(f"gs://{BUCKET}/{prefix}", full=True).findings


def test_a_flipped_bit_in_the_bucket_is_found(source, store, prefix):
    make(source, prefix)
    name = f"{prefix}/train-000000.tar"
    data = bytearray(store.read(name))
    data[600] ^= 1
    ObjectPath(f"gs://{BUCKET}/{name}").write_bytes(bytes(data))
    assert {one.file for one in verify(f"gs://{BUCKET}/{prefix}").findings} == {"train-000000.tar"}


def test_large_objects_go_up_in_parts(source, wanted, store, prefix, monkeypatch):
    monkeypatch.setattr(clients, "PART_BYTES", 5 << 20)  # the least that Google takes
    big = os.urandom(11 << 20)
    with ObjectPath(f"gs://{BUCKET}/{prefix}/big").writing() as file:
        file.write(big)
    assert store.read(f"{prefix}/big") == big
    assert sum("partNumber" in path for _, path in store.requests) == 3


def test_an_object_is_created_once(store, prefix):
    path = ObjectPath(f"gs://{BUCKET}/{prefix}/one")
    assert path.create(b"first")
    assert not path.create(b"second")
    assert path.read_bytes() == b"first"
    assert path.modified() is not None
    path.unlink()
    assert not path.exists()


def test_the_source_may_lie_in_a_bucket(source, wanted, store, prefix, tmp_path):
    for path in Path(source).iterdir():
        ObjectPath(f"gs://{BUCKET}/{prefix}/{path.name}").write_bytes(path.read_bytes())
    for given in (f"gs://{BUCKET}/{prefix}", f"gs://{BUCKET}/{prefix}/*.parquet"):
        out = tmp_path / str(len(given))
        shard([given], out, options=OPTIONS, num_workers=0)
        assert tree(out) == wanted


def test_parts_make_the_set_of_one_run(source, wanted, store, prefix):
    out = f"gs://{BUCKET}/{prefix}"
    shard_part([str(source)], out, part=Part(1, 2), options=OPTIONS, num_workers=0)
    with pytest.raises(DataError, match=r"1 of 2 units are missing"):
        finish(out)
    shard_part([str(source)], out, part=Part(2, 2), options=OPTIONS, num_workers=0)
    finish(out)
    assert store.tree(prefix) == wanted


def test_a_second_sharder_is_refused_and_a_killed_one_followed(source, wanted, store, prefix, monkeypatch):
    work = ObjectPath(f"gs://{BUCKET}/{prefix}/.work")
    held = bucket_lease.leased(work, bucket_lease.WHOLE, conflicts=lambda label: "another sharder")
    with held, pytest.raises(ConfigError, match=rf"process {os.getpid()}"):
        make(source, prefix)
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        dead.wait()
    with monkeypatch.context() as patch:
        patch.setattr(bucket_lease.os, "getpid", lambda: dead.pid)
        lease = bucket_lease.BucketLease(work, bucket_lease.WHOLE, 1)
    assert lease.take()  # and nobody lives to renew it
    make(source, prefix)
    assert store.tree(prefix) == wanted


def test_a_bucket_that_is_not_there_is_named(source, store):
    with pytest.raises(DataError, match=r"^gs://nowhere/set: cannot be read"):
        shard([str(source)], "gs://nowhere/set", options=OPTIONS, num_workers=0)
