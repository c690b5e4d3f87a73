"""The walk through folders: every file once, and a word for everything else."""

import os
import socket

import pytest

from streamgan.core.storage.walk import ending, look, walk


@pytest.fixture
def place(tmp_path):
    for name in ("a/2.jpg", "a/10.jpg", "b/c/1.jpg", "0.jpg", ".hidden.jpg", ".git/config"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    return tmp_path / "in"


def seen(root, **options) -> list[tuple[str, str]]:
    return [(os.path.relpath(one.path, root), one.kind) for one in walk(root, **options)]


def files(root, **options) -> list[str]:
    return [name for name, kind in seen(root, **options) if kind == "file"]


def test_every_file_comes_in_the_order_of_names(place):
    assert files(place) == ["0.jpg", "a/10.jpg", "a/2.jpg", "b/c/1.jpg"]
    assert [name for name, kind in seen(place) if kind == "hidden"] == [".git", ".hidden.jpg"]


def test_without_recursion_folders_are_named(place):
    assert seen(place, recursive=False)[2:] == [("0.jpg", "file"), ("a", "folder"), ("b", "folder")]


def test_a_pruned_folder_is_left_out(place):
    assert files(place, prune=lambda path: path.endswith("/b")) == ["0.jpg", "a/10.jpg", "a/2.jpg"]


def test_linked_folders_are_followed_and_those_walked_already_are_named(place, tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "deep" / "9.jpg").write_bytes(b"x")
    (place / "0-far").symlink_to(tmp_path / "far")
    (place / "0-twin").symlink_to("b")  # sorts before what it means, which keeps its own name all the same
    (place / "a" / "loop").symlink_to("..")
    (place / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "far" / "back").symlink_to(place)
    assert files(place) == ["0.jpg", "a/10.jpg", "a/2.jpg", "b/c/1.jpg", "0-far/deep/9.jpg"]
    again = {name for name, kind in seen(place) if kind == "again"}
    assert again == {"0-twin", "a/loop", "a/up", "0-far/back"}


def test_a_linked_root_is_walked(place, tmp_path):
    (tmp_path / "link").symlink_to(place)
    assert files(tmp_path / "link") == files(place)


def test_what_is_no_file_is_named_and_never_opened(place, monkeypatch):
    os.mkfifo(place / "a" / "pipe.jpg")
    monkeypatch.chdir(place)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        (place / "null.jpg").symlink_to(os.devnull)
        (place / "gone.jpg").symlink_to("nowhere")
        (place / "itself.jpg").symlink_to("itself.jpg")
        odd = {os.path.relpath(one.path): one for one in walk(".") if one.kind in ("special", "broken")}
    assert {name: one.kind for name, one in odd.items()} == {
        "a/pipe.jpg": "special",
        "socket.jpg": "special",
        "null.jpg": "special",
        "gone.jpg": "broken",
        "itself.jpg": "broken",
    }
    assert odd["a/pipe.jpg"].detail == "a FIFO, not a file"
    assert odd["null.jpg"].detail == "a device, not a file"
    assert odd["gone.jpg"].detail == "a link to nothing (No such file or directory)"


def test_a_folder_that_cannot_be_listed_is_named_and_the_others_are_walked(place, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert files(place) == ["0.jpg", "b/c/1.jpg"]
    [broken] = [one for one in walk(place) if one.kind == "broken"]
    assert broken[:3] == (str(place / "a"), "broken", "cannot be listed (Permission denied)")
    assert isinstance(broken.error, PermissionError)


def test_a_root_that_is_gone_is_named(tmp_path):
    assert [one.kind for one in walk(tmp_path / "none" / "deeper")] == ["broken"]


def test_names_that_are_not_utf8_come_out_as_they_are(place):
    name = os.fsdecode(b"\xff.jpg")
    with open(place / name, "wb") as file:
        file.write(b"x")
    assert name in files(place)


@pytest.mark.parametrize(
    ("path", "wanted"), [("a/B.JPG", ".jpg"), ("a.b/LICENSE", "no ending"), ("x.tar.gz", ".gz")]
)
def test_files_are_counted_by_their_ending(path, wanted):
    assert ending(path) == wanted


def test_a_single_path_is_looked_at(place):
    assert [look(place / name).kind for name in ("0.jpg", "a", "none")] == ["file", "folder", "broken"]
