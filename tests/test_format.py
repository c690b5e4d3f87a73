"""The files of a shard set: what is refused when they are damaged, and that indexes say the same."""

import json
import pickle

import numpy as np
import pytest

from streamgan.core.errors import DataError
from streamgan.data.format import (
    INDEX_DTYPE,
    Manifest,
    Member,
    Sample,
    SplitEntry,
    idx_bytes,
    idx_name,
    open_index,
    pack_index,
    read_idx,
    read_manifest,
    write_index,
    write_manifest,
)

SAMPLES = [
    Sample("a", 0, 3072, (Member("color.jpg", 512, 700, 1), Member("json", 2048, 9, 2))),
    Sample("b", 3072, 4096, (Member("color.png", 3584, 5, 2**32 - 1), Member("gray.png", 5000, 6, 7))),
]


def test_a_manifest_comes_back_as_it_was_written(shard_set, tmp_path):
    manifest = read_manifest(shard_set)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert (tmp_path / "manifest.json").read_bytes() == (shard_set / "manifest.json").read_bytes()


def test_a_process_is_sent_the_same_split(shard_set):
    for split in read_manifest(shard_set).splits.values():
        assert pickle.loads(pickle.dumps(split)) == split


def damage(change):
    """A manifest's bytes after `change` was done to its JSON."""

    def apply(raw: bytes) -> bytes:
        tree = json.loads(raw)
        change(tree)
        return json.dumps(tree).encode()

    return apply


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda raw: raw[: len(raw) // 2], "cannot be read as JSON"),
        (lambda raw: raw.replace(b"format", b"\xff"), r"cannot be read as JSON \(not UTF-8\)"),
        (lambda raw: b"[" * 100_000, r"cannot be read as JSON \(nested too deep\)"),
        (lambda raw: b"1" * 5000, r"cannot be read as JSON \(a number of too many digits\)"),
        (lambda raw: b"[]", "not a streamgan manifest"),
        (lambda raw: b'{"format": "other"}', "not a streamgan manifest"),
        (damage(lambda tree: tree.update(version=2)), r"format version 2 \(this release reads 1\)"),
        (damage(lambda tree: tree.pop("splits")), "damaged"),
        (damage(lambda tree: tree["splits"]["train"].update(extra=1)), "damaged"),
        (damage(lambda tree: tree["splits"].update(train=None)), "damaged"),
        (damage(lambda tree: tree["splits"]["train"].update(samples=63)), "digest"),
        (damage(lambda tree: tree["source"].clear()), "digest"),
        (damage(lambda tree: tree.update(digest="0" * 64)), "digest"),
    ],
)
def test_a_damaged_manifest_is_refused_by_name(shard_set, tmp_path, change, what):
    (tmp_path / "manifest.json").write_bytes(change((shard_set / "manifest.json").read_bytes()))
    with pytest.raises(DataError, match=what) as caught:
        read_manifest(tmp_path)
    assert caught.value.where == str(tmp_path / "manifest.json")


def test_a_folder_that_is_missing_or_unfinished_says_how_to_make_it(tmp_path):
    with pytest.raises(DataError, match=r"no such folder.*streamgan shard"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no such file.*again to finish it"):
        read_manifest(tmp_path)


def test_a_split_that_is_not_there_lists_those_that_are(shard_set):
    manifest = read_manifest(shard_set)
    with pytest.raises(DataError, match=r"'tset' \(got train \(64\), val \(16\), test \(12\)\)"):
        manifest.split("tset", shard_set)
    empty = SplitEntry(samples=0, bytes=0, index_sha256="", shards=())
    with pytest.raises(DataError, match=r"'val' \(got none\)"):
        Manifest({}, {}, {"val": empty}).split("val", shard_set)


def test_the_index_of_a_shard_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / idx_name("train-000000.tar")
    assert path.name == "train-000000.idx"
    path.write_bytes(idx_bytes({"name": "train-000000.tar", "bytes": 7168, "sha256": "x"}, SAMPLES))
    assert read_idx(path) == SAMPLES
    assert json.loads(path.read_text())["bytes"] == 7168


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", '{"samples": [["a", 0, 1]]}', '{"samples": [["a", 0, 1, []]]}', '{"samples": [1]}', '{"sam'],
)
def test_a_damaged_index_of_a_shard_is_refused_by_name(tmp_path, content):
    (tmp_path / "train-000000.idx").write_text(content)
    with pytest.raises(DataError, match=r"train-000000\.idx"):
        read_idx(tmp_path / "train-000000.idx")


def test_the_packed_index_holds_places_and_checksums(tmp_path):
    rows = pack_index(SAMPLES)
    assert rows.dtype == INDEX_DTYPE
    assert rows.tolist() == [(512, 700, 1, 0, 0, 0), (3584, 5, 2**32 - 1, 5000, 6, 7)]
    write_index(tmp_path / "train.index", rows)
    entry = SplitEntry(samples=2, bytes=0, index_sha256="", shards=())
    assert np.array_equal(open_index(tmp_path, "train", entry), rows)


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "cannot be read"), (b"\x93NUMPY\x01\x00", "cannot be read"), (b"", "cannot be")],
)
def test_a_packed_index_that_cannot_be_read_is_refused(tmp_path, content, what):
    if content is not None:
        (tmp_path / "train.index").write_bytes(content)
    with pytest.raises(DataError, match=what):
        open_index(tmp_path, "train", SplitEntry(samples=2, bytes=0, index_sha256="", shards=()))


def test_an_index_that_the_system_does_not_give_gets_the_advice_of_the_system(tmp_path):
    (tmp_path / "train.index").mkdir()
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); a folder is in the way"):
        open_index(tmp_path, "train", SplitEntry(samples=2, bytes=0, index_sha256="", shards=()))


def test_a_packed_index_of_another_length_or_kind_is_refused(tmp_path):
    entry = SplitEntry(samples=3, bytes=0, index_sha256="", shards=())
    write_index(tmp_path / "train.index", pack_index(SAMPLES))
    with pytest.raises(DataError, match=r"2 rows .*\(the manifest says 3\)"):
        open_index(tmp_path, "train", entry)
    write_index(tmp_path / "train.index", np.zeros(3))
    with pytest.raises(DataError, match="float64"):
        open_index(tmp_path, "train", entry)
