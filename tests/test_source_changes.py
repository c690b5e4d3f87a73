"""A source that is replaced, written to or cut while it is read stops the run, wherever it lies."""

import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from parquet_fixtures import HUB_IMAGE, encode, pair, picture, write_rows
from remote_fixtures import website
from s3_fixtures import BUCKET, s3_server

from streamgan.core.errors import DataError
from streamgan.sharding.engine import execute
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.source.images import ImageFolder
from streamgan.sharding.source.parquet import ParquetFile
from streamgan.sharding.source.read import read_source

CHANGED = "the source has changed since the plan was made"


@pytest.fixture
def table(tmp_path):
    """A file of two row groups."""
    return write_rows(tmp_path / "in" / "a.parquet", [pair(i) for i in range(10)])


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photos" / "1.jpg"
    path.parent.mkdir()
    path.write_bytes(encode(picture(1)))
    return path


def _replace(path):
    """As rsync does: the same bytes, size and time under another inode."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    os.replace(other, path)


def _write_in_place(path):
    """The same size and, mostly, the same footer."""
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(1, 1))


def _remove(path):
    path.unlink()


@pytest.mark.parametrize("change", [_replace, _write_in_place])
def test_a_table_that_changes_between_two_units_stops_the_run(table, change):
    [file] = read_source([str(table)])
    list(file.read(row_group=0, start=0, stop=5))
    change(table)
    with pytest.raises(DataError, match=CHANGED):
        list(file.read(row_group=1, start=0, stop=5))


@pytest.mark.parametrize("change", [_replace, _write_in_place])
def test_an_image_that_changes_before_its_turn_stops_the_run(photo, change):
    [folder] = read_source([str(photo.parent)])
    change(photo)
    with pytest.raises(DataError, match=CHANGED):
        list(folder.read(row_group=0, start=0, stop=1))


@pytest.mark.parametrize("change", [_replace, _write_in_place, _remove])
@pytest.mark.parametrize("kind", ["table", "photo"])
def test_a_source_that_changes_within_a_unit_stops_the_run(table, photo, tmp_path, monkeypatch, kind, change):
    path, kind_of_source = (table, ParquetFile) if kind == "table" else (photo, ImageFolder)
    read = kind_of_source.read

    def rows_then_change(file, **where):
        yield from read(file, **where)
        if path.exists() and not (tmp_path / "changed").exists():
            (tmp_path / "changed").touch()
            change(path)

    monkeypatch.setattr(kind_of_source, "read", rows_then_change)
    with pytest.raises(DataError, match=rf"{CHANGED}|has disappeared since"):
        shard([str(path.parent)], tmp_path / "set", num_workers=0)
    assert not list((tmp_path / "set").glob("*.tar"))
    assert not (tmp_path / "set" / "manifest.json").exists()


SHRINK = """
import os, sys
from streamgan.core.errors import DataError
from streamgan.sharding.source.read import read_source
[file] = read_source([sys.argv[1]])
rows = file.read(row_group=0, start=0, stop=200)
next(rows)
os.truncate(sys.argv[1], 1000)
try:
    list(rows)
except DataError as error:
    print(error)
"""


@pytest.fixture
def fat_table(tmp_path):
    images = [{"image": encode(picture(i)) + bytes(50_000)} for i in range(200)]
    path = write_rows(tmp_path / "a.parquet", images, group=200)
    options = {"compression": "none", "use_dictionary": False, "write_batch_size": 8}
    pq.write_table(pq.read_table(path), path, row_group_size=200, **options)
    return path


@pytest.mark.slow
def test_a_table_that_shrinks_while_it_is_read_is_one_line(fat_table):
    # in a process of its own, which a fault of mapped memory would kill
    done = subprocess.run(
        [sys.executable, "-c", SHRINK, fat_table], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"a.parquet: {CHANGED}" in done.stdout


def _shrink_then_make(job, unit, heartbeat):
    rows = job.files[0].read(row_group=0, start=0, stop=200)
    next(rows)
    os.truncate(job.files[0].path, 1000)
    return [row.number for row in rows]


@pytest.mark.slow
def test_a_table_that_shrinks_while_a_worker_has_it_mapped_is_one_line(fat_table, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "make_unit", _shrink_then_make)
    with pytest.raises(DataError, match=rf"a\.parquet: {CHANGED}"):
        shard([str(fat_table)], tmp_path / "set", num_workers=1)


@pytest.mark.slow
def test_a_worker_maps_its_table_and_gives_the_same_rows(fat_table, tmp_path):
    digests = [
        shard([str(fat_table)], tmp_path / f"set{workers}", num_workers=workers).manifest.digest
        for workers in (0, 1)
    ]
    assert digests[0] == digests[1]


def test_page_checksums_are_verified_where_there_are_any(tmp_path):
    images = pa.array([{"bytes": encode(picture(i)), "path": None} for i in range(8)], HUB_IMAGE)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": images}), path, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    data[data.index(encode(picture(3))) + 100] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet: row group 0 cannot be read .*CRC"):
        shard([str(path)], tmp_path / "set", num_workers=0)


def test_copies_on_the_nodes_of_a_cluster_are_the_same_source(table, photo):
    [file], [folder] = read_source([str(table)]), read_source([str(photo.parent)])
    _replace(table)
    _replace(photo)
    assert len(list(file.for_any_machine().read(row_group=0, start=0, stop=5))) == 5
    assert len(list(folder.for_any_machine().read(row_group=0, start=0, stop=1))) == 1
    write_rows(table, [pair(i) for i in range(11)])
    with pytest.raises(DataError, match=CHANGED):
        file.for_any_machine().confirm([0])


@pytest.mark.slow
def test_an_object_that_is_replaced_stops_the_run(table, tmp_path, monkeypatch):
    with s3_server() as store:
        old, new = encode(picture(1)), encode(picture(2))
        size = max(len(old), len(new))
        store.write("jpg/1.jpg", old.ljust(size, b"\0"))
        store.write("table/a.parquet", table.read_bytes())
        [file], [folder] = read_source([f"s3://{BUCKET}/table"]), read_source([f"s3://{BUCKET}/jpg"])
        assert len(list(file.read(row_group=0, start=0, stop=5))) == 5
        assert len(list(folder.read(row_group=0, start=0, stop=1))) == 1
        file.confirm([0])
        folder.confirm([0])
        store.write("jpg/1.jpg", new.ljust(size, b"\0"))
        _write_in_place(table)
        store.write("table/a.parquet", table.read_bytes())
        for one in (file, folder):
            with pytest.raises(DataError, match=CHANGED):
                one.confirm([0])
        with pytest.raises(DataError, match=CHANGED):
            list(file.read(row_group=1, start=0, stop=5))


def test_a_file_of_the_web_that_is_replaced_stops_the_run(table):
    with website(table.parent) as site:
        [file] = read_source([f"{site.url}/a.parquet"])
        assert len(list(file.read(row_group=0, start=0, stop=5))) == 5
        _write_in_place(table)
        with pytest.raises(DataError, match=CHANGED):
            list(file.read(row_group=1, start=0, stop=5))


@pytest.mark.slow
def test_a_whole_source_that_does_not_change_is_sharded_in_processes(table, tmp_path):
    options = ShardOptions(samples_per_shard=5)
    assert shard([str(table)], tmp_path / "set", options=options, num_workers=2).manifest.digest
