"""Files that appear whole or not at all."""

import hashlib
import pickle

import pytest

from streamgan.core import files
from streamgan.core.errors import CheckFailed, CheckpointError, ConfigError, DataError, StreamganError
from streamgan.core.files import atomic_write, canonical_sha256, read_json, sha256_file, write_json


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "weights.bin"
    with atomic_write(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.bin"]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def interrupted():
        with atomic_write(path) as file:
            file.write(b"new, but interrupted")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.bin"]


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    events = []

    def noted(name, real):
        return lambda *arguments: (events.append(name), real(*arguments))[1]

    for name in ("fsync", "replace"):
        monkeypatch.setattr(files.os, name, noted(name, getattr(files.os, name)))
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x" * 100)
    assert events == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("name", ["x" * 255, "\u5199" * 85, "x" * 65], ids=["ascii", "wide", "65"])
def test_a_name_of_any_length_that_the_file_system_takes_can_be_written(tmp_path, name):
    with atomic_write(tmp_path / name, token="0a1b2c3d") as file:
        file.write(b"whole")
        (temporary,) = tmp_path.iterdir()
        assert len(temporary.name) < 64
        assert temporary.suffix == ".tmp"
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [(name, b"whole")]


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "nowhere" / "a"):
        pass


def test_json_comes_back_as_it_was_written(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": "Gr\u00f6\u00dfe"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", todo="x") == value
    assert "Gr\u00f6\u00dfe" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_missing_and_damaged_json_say_where_and_what_to_do(tmp_path):
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes(b'{"a": 1')
    not_text = tmp_path / "not_text.json"
    not_text.write_bytes(b"\xff\xfe\xfd")
    for path, what in [(tmp_path / "no.json", "no such file"), (damaged, "JSON"), (not_text, "JSON")]:
        with pytest.raises(DataError, match=what) as caught:
            read_json(path, todo="make it again")
        assert caught.value.where == str(path)
        assert caught.value.todo == "make it again"


def test_the_hash_of_a_value_depends_on_neither_order_nor_layout():
    assert canonical_sha256({"a": 1, "b": [2]}) == canonical_sha256({"b": [2], "a": 1})
    assert canonical_sha256({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert canonical_sha256({"a": [1, 2]}) != canonical_sha256({"a": [2, 1]})


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


@pytest.mark.parametrize(
    ("kind", "code"),
    [(StreamganError, 1), (CheckFailed, 1), (ConfigError, 2), (DataError, 3), (CheckpointError, 4)],
)
def test_an_error_is_one_line_with_its_exit_code_also_in_another_process(kind, code):
    error = pickle.loads(pickle.dumps(kind("where", "what", "todo")))
    assert type(error) is kind
    assert str(error) == "where: what; todo"
    assert (error.where, error.what, error.todo, error.exit_code) == ("where", "what", "todo", code)
