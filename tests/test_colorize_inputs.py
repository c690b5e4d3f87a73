"""What lies in folders of photos: every photo is coloured or named, whatever else is there is counted."""

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from parquet_fixtures import encode, picture
from PIL import EpsImagePlugin
from test_colorize import save_generator

from streamgan.cli.colorize import colorize
from streamgan.core.errors import CheckFailed, ConfigError
from streamgan.inference.inputs import Inputs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "ema.safetensors")


@pytest.fixture
def run(model, tmp_path):
    def made(*arguments: object, json: bool = True):
        fixed = ("--model", model, "--out", tmp_path / "out", "--device", "cpu", "--recolor")
        return CliRunner().invoke(colorize, [str(one) for one in (*arguments, *fixed, *["--json"] * json)])

    return made


@pytest.fixture
def photos(tmp_path):
    """Two photos, one of them in a subfolder."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    picture(1).save(tmp_path / "in" / "a.png")
    picture(2).save(tmp_path / "in" / "sub" / "b.png")
    return tmp_path / "in"


def made_in(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_what_is_passed_over_is_counted_by_its_ending(photos, run, tmp_path):
    for name in ("c.cr2", "d.CR2", "notes.txt", "LICENSE", ".e.png", "sub/f.cr2"):
        (photos / name).touch()
    result = run(photos, "--recursive")
    assert result.exit_code == 0, result.output
    passed = {".cr2": 3, ".txt": 1, "no ending": 1, "hidden": 1}
    assert json.loads(result.stdout)["passed_over"] == passed
    assert "passed over: 3 .cr2, 1 .txt, 1 hidden, 1 no ending\n" in result.stderr
    assert made_in(tmp_path / "out") == ["a.png", "sub/b.png"]
    flat = run(photos)
    assert json.loads(flat.stdout)["passed_over"] == {**passed, ".cr2": 2, "folders": 1}
    pattern = run(photos / "**" / "*")
    assert json.loads(pattern.stdout)["passed_over"] == passed


def test_what_pillow_would_start_a_program_for_is_no_photo_whatever_it_is_called(photos, run, monkeypatch):
    picture(3).save(photos / "c.png", "EPS")
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started")
    )
    result = run(photos)
    assert isinstance(result.exception, CheckFailed)
    assert "c.png: not coloured" in result.stderr


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_photo_of_which_a_part_is_missing_is_not_coloured(photos, run, end):
    whole = encode(picture(3, size=(200, 120)), quality=95)
    (photos / "c.jpg").write_bytes(whole[: len(whole) * 2 // 3] + end)
    (photos / "d.png").write_bytes(encode(picture(4), "PNG")[:-12])
    (photos / "e.jpg").write_text("<html>")
    result = run(photos)
    assert isinstance(result.exception, CheckFailed)
    assert "c.jpg: not coloured (part of the picture is missing)" in result.stderr
    assert "d.png: not coloured (its end is missing)" in result.stderr
    assert "e.jpg: not coloured (not an image that can be read)" in result.stderr
    assert "3 of 4 photos failed" in str(result.exception)


def test_a_folder_without_photos_says_what_it_holds_instead(tmp_path, run):
    (tmp_path / "in").mkdir()
    for name in ("a.cr2", "b.cr2", "c.txt"):
        (tmp_path / "in" / name).touch()
    error = run(tmp_path / "in").exception
    assert isinstance(error, ConfigError)
    assert "no photos here (got 2 .cr2, 1 .txt)" in str(error)


def test_folders_that_cannot_be_listed_are_failures_by_name(photos, run, tmp_path, monkeypatch):
    real = os.scandir

    def refused(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr("streamgan.core.storage.walk.os.scandir", refused)
    result = run(photos, "--recursive")
    assert isinstance(result.exception, CheckFailed)
    assert result.exception.report["failed"] == {str(photos / "sub"): "cannot be listed (Permission denied)"}
    assert made_in(tmp_path / "out") == ["a.png"]


def test_linked_folders_are_followed_once_and_loops_end(photos, run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    picture(3).save(tmp_path / "elsewhere" / "c.png")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "again").symlink_to(photos / "sub")
    result = run(photos, "--recursive")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["passed_over"] == {"linked folders walked already": 2}
    assert made_in(tmp_path / "out") == ["a.png", "linked/c.png", "sub/b.png"]
    found = Inputs([f"{photos}/**/*.png"], tmp_path / "out")
    places = sorted(str(target.path.relative_to(tmp_path / "out")) for target in found)
    assert places == ["a.png", "linked/c.png", "sub/b.png"]


@pytest.mark.parametrize("kind", ["fifo", "link to nothing"])
def test_what_is_called_a_photo_and_is_no_file_is_a_failure_by_name(photos, run, tmp_path, kind):
    if kind == "fifo":
        os.mkfifo(photos / "x.jpg")
    else:
        (photos / "x.jpg").symlink_to(photos / "gone.jpg")
    reason = {
        "fifo": "a FIFO, not a file",
        "link to nothing": "a link to nothing (No such file or directory)",
    }[kind]
    for given in ((photos,), (photos / "*",), (photos / "a.png", photos / "x.jpg")):
        result = run(*given)
        assert isinstance(result.exception, CheckFailed)
        assert result.exception.report["failed"] == {str(photos / "x.jpg"): reason}
        assert made_in(tmp_path / "out") == ["a.png"]


def test_a_name_that_is_not_utf8_is_coloured_and_reported(photos, run, tmp_path):
    good, bad = (os.fsencode(photos) + name for name in (b"/caf\xe9.png", b"/d\xe9j\xe0.png"))
    os.link(photos / "a.png", good)
    Path(os.fsdecode(bad)).write_text("no photo")
    result = run(photos)
    assert isinstance(result.exception, CheckFailed)
    assert os.path.exists(os.fsencode(tmp_path / "out") + b"/caf\xe9.png")
    (failed,) = json.loads(json.dumps(result.exception.report["failed"]).encode())
    assert re.fullmatch(r".*/d.j.\.png", failed)
    failed.encode()


def test_a_name_as_long_as_can_be_is_coloured_and_one_too_long_fails_alone(photos, run, tmp_path):
    longest, too_long = "x" * 251 + ".png", "y" * 252 + ".dat"  # the result of the second ends in .dat.png
    picture(3).save(photos / longest)
    picture(4).save(photos / "c.png")
    os.rename(photos / "c.png", photos / too_long[-255:])
    for more in ((), ("--skip-existing",)):
        result = run(photos, photos / too_long[-255:], *more)
        assert isinstance(result.exception, CheckFailed)
        assert list(result.exception.report["failed"]) == [str(photos / too_long[-255:])]
        assert "name too long" in next(iter(result.exception.report["failed"].values()))
        assert made_in(tmp_path / "out") == ["a.png", longest]


def test_a_file_in_the_way_of_a_folder_fails_what_lies_there_and_no_more(photos, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").touch()
    result = run(photos, "--recursive")
    assert isinstance(result.exception, CheckFailed)
    assert list(result.exception.report["failed"]) == [str(photos / "sub" / "b.png")]
    assert made_in(tmp_path / "out") == ["a.png", "sub"]
