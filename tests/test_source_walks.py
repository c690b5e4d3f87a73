"""A source is walked to its last file; what is passed over is counted, what would be lost is refused."""

import errno
import json
import os
from collections import Counter

import pytest
from click.testing import CliRunner
from parquet_fixtures import encode, pair, picture, write_rows

from streamgan.cli.shard import shard as shard_command
from streamgan.core.errors import DataError
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.source.read import read_source


def write_images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(picture(number)))


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "in", "1.jpg", "a/2.jpg", "b/3.jpg")
    return tmp_path / "in"


def names(*sources) -> list[str]:
    """Of the images, or of the parquet files."""
    files = read_source([str(source) for source in sources])
    return (
        [image.name for image in files[0].images] if hasattr(files[0], "images") else [f.name for f in files]
    )


def passed_over(*sources) -> dict[str, int]:
    passed = Counter()
    read_source([str(source) for source in sources], passed=passed)
    return dict(passed)


def test_a_folder_that_cannot_be_listed_is_an_error(photos, monkeypatch):
    scandir = os.scandir

    def refuse(path="."):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DataError, match=r"in/a: cannot be read \(Permission denied\); change the permissions"
    ):
        names(photos)


def test_too_many_open_files_name_the_limit_wherever_they_are_met(photos, tmp_path, monkeypatch):
    table = write_rows(tmp_path / "a.parquet", [pair(0)])
    files = [*read_source([str(photos)]), *read_source([str(table)])]

    def refuse(path, *_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        for file in files:
            with pytest.raises(DataError, match=r"Too many open files\); raise the limit on open files"):
                list(file.read(row_group=0, start=0, stop=1))
        with pytest.raises(DataError, match="raise the limit on open files"):
            read_source([str(table)])
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="raise the limit on open files"):
        read_source([str(photos)])


@pytest.mark.parametrize("pattern", ["*/*.jpg", "**/*.jpg", "a/**"])
def test_a_pattern_that_goes_through_a_folder_that_cannot_be_listed_is_an_error(photos, monkeypatch, pattern):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "/a" not in str(path)[-3:] and access(path, mode))
    with pytest.raises(DataError, match=r"in/a/?: cannot be listed"):
        names(photos / pattern)


def test_linked_folders_are_followed_and_loops_end(photos, tmp_path, capsys):
    write_images(tmp_path / "far", "x/4.jpg")
    (photos / "far").symlink_to(tmp_path / "far")
    (photos / "a" / "loop").symlink_to(photos)
    (photos / "twin").symlink_to("a")
    assert names(photos) == ["1.jpg", "a/2.jpg", "b/3.jpg", "far/x/4.jpg"]
    assert passed_over(photos) == {"linked folders walked already": 2}
    assert "a/loop: passed over: leads to a folder that is walked already" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".parquet", ".jpg"])
def test_a_pipe_in_place_of_a_file_is_an_error_and_no_hang(tmp_path, ending):
    write_rows(tmp_path / "in" / "a.parquet", [pair(0)])
    write_images(tmp_path / "in", "1.jpg")
    pipe = tmp_path / "in" / f"x{ending}"
    os.mkfifo(pipe)
    for source in (tmp_path / "in", pipe, tmp_path / "in" / f"*{ending}"):
        with pytest.raises(DataError, match=rf"x\{ending}: a FIFO, not a file"):
            names(source)


def test_a_device_in_place_of_a_file_is_an_error(photos):
    (photos / "zero.jpg").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"zero\.jpg: a device, not a file"):
        names(photos)


def test_a_link_to_nothing_is_an_error(photos):
    (photos / "2021.05").symlink_to("/nowhere/that/is")
    with pytest.raises(DataError, match=r"2021\.05: a link to nothing"):
        names(photos)


def test_a_file_counts_once_however_many_links_lead_to_it(photos):
    os.link(photos / "1.jpg", photos / "z.jpg")
    (photos / "0.jpg").symlink_to("a/2.jpg")  # sorts first, and still the file keeps its own name
    assert names(photos) == ["1.jpg", "a/2.jpg", "b/3.jpg"]
    assert names(photos, photos / "a", photos / "0.jpg") == ["1.jpg", "a/2.jpg", "b/3.jpg"]
    assert passed_over(photos) == {"the same file again": 2}


def test_parquet_files_count_once_too(tmp_path):
    path = write_rows(tmp_path / "in" / "a.parquet", [pair(0)])
    (tmp_path / "in" / "b.parquet").symlink_to(path)
    assert names(tmp_path / "in") == ["a.parquet"]


@pytest.mark.parametrize("ending", [b".parquet", b".jpg"])
def test_a_name_that_is_not_utf8_is_named(tmp_path, ending):
    good = write_rows(tmp_path / "a.parquet", [pair(0)]) if ending == b".parquet" else tmp_path / "1.jpg"
    if ending == b".jpg":
        good.write_bytes(encode(picture(0)))
    os.rename(good, tmp_path / os.fsdecode(b"caf\xe9" + ending))
    with pytest.raises(DataError, match="its name is not UTF-8; rename it"):
        names(tmp_path)


def test_what_spark_has_not_finished_is_passed_over_and_photos_of_cameras_are_not(tmp_path):
    table = tmp_path / "table"
    wanted = ["_kind=cats/part-1.parquet", "part-0.parquet"]
    for name in (*wanted, "_temporary/0/part-0.parquet", "_delta_log/1.checkpoint.parquet", "_a.parquet"):
        write_rows(table / name, [pair(0)])
    (table / "_SUCCESS").touch()
    assert names(table) == wanted
    assert passed_over(table) == {"under a name with _": 3, "no ending": 1}
    assert names(table / "_a.parquet") == ["_a.parquet"]
    write_images(tmp_path / "photos", "_DSC0001.JPG", "_best/_MG_2.jpg", "_temporary/3.jpg")
    assert names(tmp_path / "photos") == ["_DSC0001.JPG", "_best/_MG_2.jpg"]


def test_the_summary_counts_what_was_passed_over(tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [pair(i) for i in range(3)])
    for name in ("1.csv", "b/2.CSV", "b/3.xlsx", "LICENSE", ".DS_Store"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    write_images(tmp_path / "in", "logo.png")
    arguments = [str(tmp_path / "in"), "--out", str(tmp_path / "set"), "--workers", "0"]
    said = CliRunner().invoke(shard_command, arguments).stdout
    assert "6 files passed over: 2 .csv, 1 .png, 1 .xlsx, 1 hidden, 1 no ending\n" in said
    counts = json.loads(CliRunner().invoke(shard_command, [*arguments, "--json"]).stdout)["passed_over"]
    assert counts == {".csv": 2, ".png": 1, ".xlsx": 1, "hidden": 1, "no ending": 1}


def test_a_folder_without_a_source_says_what_it_holds(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no \.parquet file and no image \(got 1 \.xlsx\)"):
        names(tmp_path)


def test_a_pattern_for_everything_takes_what_is_meant(tmp_path):
    write_rows(tmp_path / "a.parquet", [pair(0)])
    (tmp_path / "README.md").write_text("about")
    assert names(tmp_path / "*") == ["a.parquet"]
    assert passed_over(tmp_path / "*") == {".md": 1}
    os.rename(tmp_path / "a.parquet", tmp_path / "a.pq")
    assert names(tmp_path / "*.pq") == ["a.pq"]


def test_an_image_that_vanishes_before_its_turn_stops_the_run(photos, tmp_path):
    [folder] = read_source([str(photos)])
    os.remove(photos / "a" / "2.jpg")
    with pytest.raises(DataError, match=r"a/2\.jpg: has disappeared since the source was listed"):
        list(folder.read(row_group=1, start=0, stop=1))


def test_what_is_passed_over_is_no_part_of_the_set(photos, tmp_path):
    first = shard([str(photos)], tmp_path / "a", options=ShardOptions(), num_workers=0)
    (photos / "notes.txt").write_text("x")
    second = shard([str(photos)], tmp_path / "b", options=ShardOptions(), num_workers=0)
    assert first.manifest.digest == second.manifest.digest
    assert (dict(first.passed), dict(second.passed)) == ({}, {".txt": 1})
