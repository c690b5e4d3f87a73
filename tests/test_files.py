"""Files that appear whole or not at all."""

import errno
import hashlib
import os
import pickle
import resource

import pytest

from streamgan.core.errors import (
    CheckFailed,
    CheckpointError,
    ConfigError,
    DataError,
    StreamganError,
    file_error,
)
from streamgan.core.storage import local as local_files
from streamgan.core.storage.files import atomic_write, canonical_sha256, read_json, sha256_file, write_json


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
        monkeypatch.setattr(local_files.os, name, noted(name, getattr(local_files.os, name)))
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


FULL, PERMISSION, IN_THE_WAY = "make room", "change the permissions", "in the way"
ADVICE = {
    errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EACCES: PERMISSION, errno.EPERM: PERMISSION,
    errno.EROFS: "is read-only", errno.ENAMETOOLONG: "choose a shorter name", errno.EMFILE: "`ulimit -n ",
    errno.ENFILE: "fs.file-max", errno.ENOTDIR: IN_THE_WAY, errno.EISDIR: IN_THE_WAY,
    errno.EEXIST: IN_THE_WAY, errno.ENOENT: "folder is gone", errno.EIO: "the device mounted at /",
    errno.EFBIG: "`ulimit -f`", errno.ELOOP: "links point", errno.ESTALE: "mount it again",
    errno.EINVAL: "check the file system",
}  # fmt: skip


@pytest.mark.parametrize("number", ADVICE, ids=errno.errorcode.get)
def test_an_error_of_the_system_becomes_the_advice_that_helps_and_no_other(number, tmp_path):
    error = file_error(
        OSError(number, os.strerror(number), str(tmp_path)), what="cannot be written", then="go on"
    )
    assert type(error) is DataError
    assert (error.where, error.what) == (str(tmp_path), f"cannot be written ({os.strerror(number)})")
    assert ADVICE[number] in error.todo
    assert error.todo.endswith(", then go on")
    others = set(ADVICE.values()) - {ADVICE[number]}
    assert not [words for words in others if words in error.todo]


def test_the_advice_for_too_many_open_files_names_the_limit_and_a_better_one():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        error = file_error(OSError(errno.EMFILE, "Too many open files"), "a", kind=CheckpointError)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert type(error) is CheckpointError
    assert str(error) == (
        f"a: Too many open files; raise the limit on open files: `ulimit -n 4096` (now 64, hard limit {hard})"
    )


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EEXIST])
def test_an_error_of_a_descriptor_gets_its_advice_too(number, tmp_path):
    error = file_error(OSError(number, os.strerror(number), 7), tmp_path)
    assert error.where == str(tmp_path)
    assert ADVICE[number] in error.todo
    with pytest.raises(OSError) as caught:  # noqa: PT011
        os.stat(2**30)
    assert str(file_error(caught.value)).startswith(f"{2**30}: Bad file descriptor; ")


def test_a_dangling_link_in_the_way_is_named_with_its_target(tmp_path):
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    with pytest.raises(FileExistsError) as caught:
        (tmp_path / "link").mkdir(exist_ok=True)
    assert "it is a link to /nowhere/at/all, which is not there" in file_error(caught.value).todo


def test_an_error_while_writing_names_the_file_and_not_its_temporary_name(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    places = {tmp_path / "no" / "a": errno.ENOENT, tmp_path / "file" / "a": errno.ENOTDIR}
    places[tmp_path / "folder"] = errno.EISDIR
    for path, number in places.items():
        with pytest.raises(OSError, match=str(path)) as caught, atomic_write(path):
            pass
        assert (caught.value.errno, caught.value.filename, caught.value.filename2) == (
            number,
            str(path),
            None,
        )
    monkeypatch.setattr(local_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "b"):
        pass
    assert caught.value.filename == str(tmp_path / "b")


def test_an_error_of_another_file_in_the_block_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "a"):
        open(tmp_path / "source")  # noqa: SIM115
    assert caught.value.filename == str(tmp_path / "source")


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
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); a folder is in the way"):
        read_json(tmp_path, todo="make it again")


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
