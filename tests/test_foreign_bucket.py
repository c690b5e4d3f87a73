"""`streamgan index s3://...`: tars of other programs in a bucket become a set there."""

import json

import pytest
from click.testing import CliRunner
from parquet_fixtures import tree
from s3_fixtures import BUCKET, s3_server
from test_foreign import write_tar, write_tars

from streamgan.cli.main import streamgan
from streamgan.core.errors import ConfigError, DataError
from streamgan.data import build_loader
from streamgan.sharding.foreign.build import index
from streamgan.sharding.verify import verify

PREFIX = "foreign"
ADDRESS = f"s3://{BUCKET}/{PREFIX}"


@pytest.fixture
def store(tmp_path):
    """A bucket with the tars of the folder `tars`."""
    write_tars(tmp_path / "tars")
    with s3_server() as server:
        for key in server.tree(PREFIX):  # the server's memory outlives it
            server.client.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/{key}")
        for path in (tmp_path / "tars").iterdir():
            server.write(f"{PREFIX}/{path.name}", path.read_bytes())
        yield server


def test_a_bucket_gets_the_indexes_of_a_folder_beside_its_tars(store, tmp_path):
    fetched = []
    store.fault = lambda environ: (
        fetched.append(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "GET" else None
    )
    done = CliRunner().invoke(streamgan, ["index", ADDRESS, "--gray", "edge.png", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["out"] == ADDRESS
    assert sorted(path for path in fetched if path.endswith(".tar")) == [
        f"/{BUCKET}/{PREFIX}/{name}" for name in ("set-test-0.tar", "set-train-0.tar", "set-train-1.tar")
    ]  # each once
    store.fault = lambda environ: None
    manifest = index(tmp_path / "tars", gray=("edge.png",)).manifest
    assert store.tree(PREFIX) == tree(tmp_path / "tars")
    assert not verify(ADDRESS, full=True).findings
    assert index(ADDRESS, gray=("edge.png",)).nothing_to_do
    loader = build_loader(ADDRESS, batch=4, size=16, workers=0, epochs=1, cache="none", gray="twin")
    assert loader.digest == manifest.digest
    assert sum(len(batch.ids_B) for batch in loader) == 12


def test_tars_that_came_or_went_are_followed(store, tmp_path):
    index(ADDRESS)
    store.client.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/set-train-1.tar")
    assert index(ADDRESS).manifest.splits["train"].samples == 6
    assert f"{PREFIX}/set-train-1.idx" not in store.tree(PREFIX)
    assert not verify(ADDRESS).findings


def test_what_is_no_tar_of_this_folder_is_refused_and_nothing_written(store, tmp_path):
    before = store.tree(PREFIX)
    store.write(f"{PREFIX}/below/x.tar", write_tar(tmp_path / "x.tar", {}).read_bytes())
    with pytest.raises(
        DataError, match=rf"^{ADDRESS}: 1 tars in sub-folders would be left out .below/x.tar."
    ):
        index(ADDRESS)
    store.client.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/below/x.tar")
    store.write(f"{PREFIX}/y.tar.gz", b"")
    with pytest.raises(DataError, match=rf"^{ADDRESS}: 1 tars are compressed .y.tar.gz."):
        index(ADDRESS)
    store.client.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/y.tar.gz")
    store.write(f"{PREFIX}/z-test.tar", before["set-test-0.tar"][:-1000])
    with pytest.raises(DataError, match=rf"^{ADDRESS}/z-test.tar: .*cut short"):
        index(ADDRESS)
    store.client.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/z-test.tar")
    assert store.tree(PREFIX) == before
    with pytest.raises(ConfigError, match=r"^--out: links into a bucket cannot be made"):
        index(ADDRESS, out=tmp_path / "out")
    with pytest.raises(DataError, match=rf"^s3://{BUCKET}/nothing: holds no .tar file"):
        index(f"s3://{BUCKET}/nothing")
    with pytest.raises(ConfigError, match=r"^https://host/x: cannot hold a shard set"):
        index("https://host/x")
