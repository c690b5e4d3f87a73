"""`az://` and `abfs://` as source, as `--out` and to read from, on a server of Azure's protocol."""

import itertools
import os
from pathlib import Path

import pytest
from az_fixtures import ACCOUNT, CONTAINER, az_server
from parquet_fixtures import tree

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage import store as clients
from streamgan.core.storage.place import ObjectPath, place
from streamgan.data import build_loader
from streamgan.sharding.folder import bucket_lease
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.verify import verify

pytest_plugins = ["sharding_fixtures"]
OPTIONS = ShardOptions(samples_per_shard=5, splits="train=1")
SOURCE = {"files": 1, "rows": 10}
_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def server():
    with az_server():
        yield


@pytest.fixture
def prefix():
    return f"az://{CONTAINER}/sets/{next(_numbers)}"


def contents(prefix: str) -> dict[str, bytes]:
    root = ObjectPath(prefix)
    return {name: (root / name).read_bytes() for name in root.tree()}


def test_a_container_gets_the_bytes_of_a_folder(source, wanted, prefix):
    shard([str(source)], prefix, options=OPTIONS, num_workers=0)
    assert contents(prefix) == wanted
    assert not verify(prefix, full=True).findings
    assert shard([str(source)], prefix, options=OPTIONS, num_workers=0).nothing_to_do


@pytest.mark.parametrize("cache", ["folder", "none"])
def test_a_container_gives_the_batches_of_the_disk(wanted, prefix, tmp_path, cache):
    for name, data in wanted.items():
        ObjectPath(f"{prefix}/{name}").write_bytes(data)
        (tmp_path / name).write_bytes(data)
    address = prefix.replace(f"az://{CONTAINER}", f"abfs://{CONTAINER}@{ACCOUNT}.dfs.core.windows.net")
    settings = {"batch": 4, "size": 16, "workers": 0, "epochs": 2}
    where = tmp_path / "cache" if cache == "folder" else "none"
    ours, theirs = build_loader(address, cache=where, **settings), build_loader(tmp_path, **settings)
    for one, other in zip(ours, theirs, strict=True):
        assert one.color_B3HW.equal(other.color_B3HW)


def test_large_objects_go_up_in_parts(prefix, monkeypatch):
    monkeypatch.setattr(clients, "PART_BYTES", 1 << 20)
    big = os.urandom(2_500_000)
    with ObjectPath(f"{prefix}/big").writing() as file:
        file.write(big)
    assert ObjectPath(f"{prefix}/big").read_bytes() == big


def test_an_object_is_created_once(prefix):
    path = ObjectPath(f"{prefix}/one")
    assert path.create(b"first")
    assert not path.create(b"second")
    assert path.read_bytes() == b"first"
    assert path.modified() is not None
    path.unlink()
    assert not path.exists()


def test_the_source_may_lie_in_a_container(source, wanted, prefix, tmp_path):
    for path in Path(source).iterdir():
        ObjectPath(f"{prefix}/{path.name}").write_bytes(path.read_bytes())
    for given in (prefix, f"{prefix}/*.parquet"):
        out = tmp_path / str(len(given))
        shard([given], out, options=OPTIONS, num_workers=0)
        assert tree(out) == wanted


def test_a_second_sharder_is_refused(source, prefix):
    work = ObjectPath(f"{prefix}/.work")
    held = bucket_lease.leased(work, bucket_lease.WHOLE, conflicts=lambda label: "another sharder")
    with held, pytest.raises(ConfigError, match=rf"process {os.getpid()}"):
        shard([str(source)], prefix, options=OPTIONS, num_workers=0)


def test_a_container_that_is_not_there_is_named(source):
    with pytest.raises(DataError, match=r"^az://nowhere/set: cannot be read \(ContainerNotFound, HTTP 404\)"):
        shard([str(source)], "az://nowhere/set", options=OPTIONS, num_workers=0)


def test_an_account_that_nobody_names_is_asked_for(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    with pytest.raises(ConfigError, match=r"^az://c: cannot be used as it is set up \(.*Account must be"):
        place("az://c/x").read_bytes()
