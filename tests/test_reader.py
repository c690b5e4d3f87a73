"""Bytes by offset: what stands in the source arrives, damage is named, nothing stays open."""

import gc
import os
import pickle
import shutil
from contextlib import closing

import pyarrow.parquet as pq
import pytest
from parquet_fixtures import encode, hub, picture, write_rows

from streamgan.core.errors import DataError
from streamgan.data.format import idx_name, read_idx
from streamgan.data.shards import open_files
from streamgan.data.shards.reader import ShardReader
from streamgan.sharding.run import ShardOptions, shard


@pytest.fixture
def copy(shard_set, tmp_path):
    """A copy of the shard set that a test may damage."""
    return shutil.copytree(shard_set, tmp_path / "copy")


def open_shards() -> int:
    """Descriptors of tar files in this process."""
    links = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:  # the listing's own
            continue
    return sum(link.endswith(".tar") for link in links)


def first_sample(root, shard_number: int = 1):
    """(id, name of the shard, its first sample) in a shard of the train split."""
    reader = ShardReader(root, "train")
    name = reader.entry.shards[shard_number].name
    return int(reader.starts[shard_number]), name, read_idx(root / idx_name(name))[0]


def flip_byte(path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_bytes_are_those_of_the_source(shard_set, source_folder, split):
    rows = pq.read_table(source_folder / f"{split}-00000-of-00001.parquet").to_pylist()
    expected = {(row["image"]["bytes"], row["conditioning_image"]["bytes"]) for row in rows}
    reader = ShardReader(shard_set, split)
    assert reader.has_gray
    assert len(reader) == sum(reader.shard_sizes) == len(rows)
    assert {reader.read(i, gray=True) for i in range(len(reader))} == expected
    assert {reader.read(i) for i in range(len(reader))} == {(color, None) for color, _ in expected}
    reader.close()


@pytest.mark.parametrize("kind", ["color", "gray"])
def test_a_flipped_byte_names_shard_and_key(copy, kind):
    sample_id, name, sample = first_sample(copy)
    member = next(member for member in sample.members if member.suffix.startswith(kind))
    flip_byte(copy / name, member.offset + member.size // 2)
    reader = ShardReader(copy, "train")
    with pytest.raises(
        DataError, match=rf"the {kind} image is damaged \(CRC\); run `streamgan verify {copy}`"
    ) as caught:
        reader.read(sample_id, gray=True)
    assert caught.value.where == f"{copy / name}, key {sample.key}"
    assert reader.read(sample_id + 1, gray=True)
    reader.close()


def test_a_damaged_gray_twin_does_no_harm_where_it_is_not_asked_for(copy):
    sample_id, name, sample = first_sample(copy)
    member = next(member for member in sample.members if member.suffix.startswith("gray"))
    flip_byte(copy / name, member.offset)
    reader = ShardReader(copy, "train")
    assert reader.read(sample_id).gray is None
    reader.close()


def test_a_shard_that_was_cut_says_what_is_missing(copy):
    sample_id, name, sample = first_sample(copy)
    member = sample.members[0]
    os.truncate(copy / name, member.offset + 10)
    reader = ShardReader(copy, "train")
    with pytest.raises(DataError, match=rf"cut short \(10 of {member.size} bytes\)") as caught:
        reader.read(sample_id)
    assert caught.value.where == f"{copy / name}, key {sample.key}"
    with pytest.raises(DataError, match="cut short"):
        reader.read(sample_id + 1)
    reader.close()


def test_a_shard_that_is_gone_or_something_else_is_named(copy):
    sample_id, name, _ = first_sample(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: cannot be opened \(No such file .*; restore it"):
        ShardReader(copy, "train").read(sample_id)
    (copy / name).mkdir()
    with pytest.raises(DataError, match=rf"{name}.*cannot be read \(Is a directory"):
        ShardReader(copy, "train").read(sample_id)


def test_a_set_without_twins_says_so(source_folder, tmp_path):
    options = ShardOptions(gray="derive", max_samples=8, splits="train=1")
    shard([str(source_folder)], tmp_path / "set", options=options, num_workers=0)
    reader = ShardReader(tmp_path / "set", "train")
    assert not reader.has_gray
    assert reader.read(3).color
    with pytest.raises(DataError, match=r"key .*: has no gray twin; use data\.gray=derive"):
        reader.read(3, gray=True)
    reader.close()


def test_only_so_many_shards_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(open_files, "MAX_OPEN", 4)
    rows = [{"image": hub(encode(picture(seed)))} for seed in range(12)]
    write_rows(tmp_path / "a.parquet", rows, group=1)
    options = ShardOptions(samples_per_shard=1, splits="train=1")
    shard([str(tmp_path / "a.parquet")], tmp_path / "set", options=options, num_workers=0)
    before, reader = open_shards(), ShardReader(tmp_path / "set", "train")
    assert len(reader.entry.shards) == 12
    first = [reader.read(i) for i in range(12)]
    for i in (0, 11, 5, 0, 3):
        assert reader.read(i) == first[i]
        assert open_shards() - before == 4
    reader.close()
    assert open_shards() == before
    assert reader.read(7) == first[7]  # opens again
    reader.close()


def test_a_reader_that_is_dropped_closes_its_shards(shard_set):
    gc.collect()  # what other tests have dropped
    before = open_shards()
    reader = ShardReader(shard_set, "train")
    for i in range(len(reader)):
        reader.read(i)
    assert open_shards() - before == len(reader.entry.shards)
    del reader
    gc.collect()
    assert open_shards() == before


def test_a_pickled_reader_shares_no_descriptor_with_the_first(shard_set):
    reader = ShardReader(shard_set, "train")
    expected = [reader.read(i) for i in range(len(reader))]
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert [copy.read(i) for i in range(len(copy))] == expected
    copy.close()


def test_a_forked_process_opens_its_own_files(shard_set):
    """Descriptors that come with the fork are the parent's: closing the copy must not harm it."""
    reader = ShardReader(shard_set, "train")
    expected = [reader.read(i) for i in range(len(reader))]
    child = os.fork()
    if child == 0:
        same = all(reader.read(i) == one for i, one in enumerate(expected))
        reader.close()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [reader.read(i) for i in range(len(reader))] == expected
    reader.close()


def test_an_index_that_points_beyond_its_shard_is_named(shard_set):
    with closing(ShardReader(shard_set, "train")) as reader:
        reader.index = reader.index.copy()
        whole = reader.entry.shards[0].bytes
        reader.index["color_offset"][0] = whole - int(reader.index["color_size"][0])
        with pytest.raises(DataError, match="the color image is damaged"):
            reader.read(0)
        reader.index["color_offset"][0] += 1
        with pytest.raises(DataError, match=rf"train\.index is damaged \(bytes \d+-{whole} of {whole}\)"):
            reader.read(0)
