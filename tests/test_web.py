"""A set on a website is proved and shown like one in a folder; a server without ranges is named as such."""

import shutil

import pytest
from click.testing import CliRunner
from PIL import Image
from remote_fixtures import website

from streamgan.cli.inspect import inspect as inspect_command
from streamgan.cli.verify import verify as verify_command
from streamgan.core.errors import CheckFailed, DataError
from streamgan.data.format import read_idx
from streamgan.data.inspect import inspect
from streamgan.data.shards.reader import ShardReader
from streamgan.sharding.foreign.build import index
from streamgan.sharding.run import shard
from streamgan.sharding.verify import verify


@pytest.fixture
def site(source_folder, tmp_path):
    """A website of a set in its folder `set`."""
    shard([str(source_folder)], tmp_path / "set", num_workers=0)
    with website(tmp_path) as served:
        yield served


@pytest.mark.slow
def test_a_set_on_a_website_is_verified_byte_for_byte(site, tmp_path):
    here, there = (verify(root, full=True) for root in (tmp_path / "set", f"{site.url}/set"))
    assert there == here
    assert there.findings == []
    done = CliRunner().invoke(verify_command, [f"{site.url}/set/?token=secret"])
    assert done.exit_code == 0
    path = next((tmp_path / "set").glob("train-*.tar"))
    sample = read_idx(path.with_suffix(".idx"))[0]
    data = bytearray(path.read_bytes())
    data[sample.members[0].offset] ^= 1
    path.write_bytes(data)
    (tmp_path / "set" / "val.index").unlink()
    found = {(one.file, one.key) for one in verify(f"{site.url}/set").findings}
    assert found == {(path.name, sample.key), ("val.index", None)}
    done = CliRunner().invoke(verify_command, [f"{site.url}/set?token=secret"])
    assert isinstance(done.exception, CheckFailed)
    assert "secret" not in str(done.exception)


def test_no_set_on_a_website_is_one_line(site):
    for call in (verify, inspect):
        with pytest.raises(
            DataError, match=r"/elsewhere/manifest\.json: (no such file|cannot be read \(HTTP 404\))"
        ):
            call(f"{site.url}/elsewhere")


def test_a_set_on_a_website_is_inspected(site, tmp_path):
    here, there = (inspect(root) for root in (tmp_path / "set", f"{site.url}/set"))
    assert there == here
    assert [one.split()[0] for one in site.requests].count("/set/manifest.json") == 1
    assert site.sent < sum(path.stat().st_size for path in (tmp_path / "set").glob("*.tar"))
    sheet = tmp_path / "sheet.png"
    done = CliRunner().invoke(inspect_command, [f"{site.url}/set", "--out", str(sheet), "--pairs", "2"])
    assert done.exit_code == 0, done.exception
    assert Image.open(sheet).width > 100


def test_tars_with_odd_names_are_found_on_a_website(site, tmp_path):
    (tmp_path / "odd").mkdir()
    name = "train 50%20 #1?.tar"
    shutil.copy(next((tmp_path / "set").glob("train-*.tar")), tmp_path / "odd" / name)
    index(tmp_path / "odd")
    here, there = (ShardReader(root, "train", cache=None) for root in (tmp_path / "odd", f"{site.url}/odd"))
    assert [there.read(number) for number in range(len(there))] == [here.read(n) for n in range(len(here))]
    assert there.where(0).startswith(f"{site.url}/odd/train 50%2520 %231%3F.tar, key 0")
    here.close()
    assert verify(f"{site.url}/odd").findings == []


def test_a_server_without_ranges_is_named(site, tmp_path):
    site.ranges = False
    for call in (verify, inspect):
        with pytest.raises(
            DataError, match=r"does not answer requests for a part of a file.*; .*download"
        ) as caught:
            call(f"{site.url}/set")
        assert site.url in caught.value.where
