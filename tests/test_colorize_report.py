"""What `streamgan colorize` tells of its files: --report, --dry-run, words for the saturation."""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamgan.core.errors import CheckFailed, ConfigError
from streamgan.inference import pipeline

pytest_plugins = ["colorize_fixtures"]


@pytest.fixture
def run(run, tmp_path):
    return functools.partial(run, tmp_path / "in")


@pytest.fixture
def photos(photo, tmp_path):
    """Two photos, a broken one, a text, a name that is not UTF-8."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b.gif", os.fsdecode(b"\xe9.png"))):
        photo(index).convert("L").save(folder / "x.png")
        Image.open(folder / "x.png").save(folder / name, name[-3:].upper())
    (folder / "x.png").unlink()
    (folder / "c.jpg").write_text("no photo")
    (folder / "notes.txt").touch()
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_report_has_a_line_for_every_file(photos, run, tmp_path):
    result = run("--report", tmp_path / "r.jsonl")
    assert isinstance(result.exception, CheckFailed)
    told = {line["file"]: line for line in lines(tmp_path / "r.jsonl")}
    assert set(told) == {str(path) for path in photos.iterdir()}
    kinds = {os.path.basename(name): line["outcome"] for name, line in told.items()}
    colored = {"a.png": "colored", "b.gif": "colored", "\udce9.png": "colored"}
    assert kinds == {**colored, "c.jpg": "failed", "notes.txt": "passed_over"}
    assert "in another format: 1 .gif to .png\n" in result.stderr
    made = told[str(photos / "b.gif")]
    assert made["result"] == str(tmp_path / "out" / "b.png")
    assert made["bytes"] == (tmp_path / "out" / "b.png").stat().st_size
    assert made["seconds"] > 0
    assert told[str(photos / "c.jpg")]["notes"] == ["not an image that can be read"]
    assert told[str(photos / "c.jpg")]["result"] is None
    assert os.fsencode(told[os.fsdecode(os.fsencode(photos) + b"/\xe9.png")]["result"]).endswith(b"/\xe9.png")


def test_a_file_that_may_not_be_read_says_so_once(photos, run, tmp_path, monkeypatch):
    real = open

    def refused(path, *arguments, **options):
        if str(path).endswith("a.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr("streamgan.inference.photo.open", refused, raising=False)
    assert f"{photos / 'a.png'}: not coloured (cannot be read (Permission denied))\n" in run().stderr


def test_the_report_goes_on_and_loses_a_torn_line_alone(photos, run, tmp_path):
    report = tmp_path / "deep" / "r.jsonl"
    run("--report", report)
    whole = report.read_bytes()
    report.write_bytes(whole + whole[:30])
    run("--report", report, "--skip-existing")
    assert report.read_bytes().startswith(whole + b'{"file": ')
    kinds = [line["outcome"] for line in lines(report)[len(whole.splitlines()) :]]
    assert sorted(kinds) == ["failed", "passed_over", "skipped", "skipped", "skipped"]
    report.write_bytes(whole[:20])
    run("--report", report, "--skip-existing")
    assert len(lines(report)) == 5


def test_what_is_no_report_is_not_written_to(photos, run, tmp_path):
    (tmp_path / "mine.txt").write_text("my notes\n")
    result = run("--report", tmp_path / "mine.txt")
    assert isinstance(result.exception, ConfigError)
    assert "is no report of streamgan colorize" in str(result.exception)
    assert (tmp_path / "mine.txt").read_text() == "my notes\n"


def test_lines_are_there_as_soon_as_the_results_are(photos, run, tmp_path, monkeypatch):
    color, seen = pipeline.Colorizer.color, []

    def looking(self, given):
        seen.append(
            (len(list((tmp_path / "out").iterdir())), (tmp_path / "r.jsonl").read_text().count('colored"'))
        )
        return color(self, given)

    monkeypatch.setattr(pipeline.Colorizer, "color", looking)
    monkeypatch.setattr(pipeline, "_PORTION_PIXELS", 1)
    run("--report", tmp_path / "r.jsonl")
    assert [one for one in seen if one[0]] == [(1, 1), (2, 2), (3, 3)][: len([one for one in seen if one[0]])]
    assert max(seen)[0] >= 2


def test_a_dry_run_lists_what_would_happen_and_writes_nothing(photos, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").touch()
    before = sorted(tmp_path.rglob("*"))
    result = run("--dry-run", "--skip-existing")
    assert isinstance(result.exception, CheckFailed)
    assert f"{photos / 'b.gif'} -> {tmp_path / 'out' / 'b.png'}\n" in result.stdout
    assert result.stdout.count(" -> ") == 2
    assert "c.jpg: not coloured (not an image that can be read)" in result.stderr
    assert "passed over: 1 .txt" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    (photos / "c.jpg").unlink()
    told = json.loads(run("--dry-run", "--skip-existing", "--json").stdout)
    assert (told["num_planned"], told["num_skipped"]) == (2, 1)
    assert "--dry-run writes nothing" in run("--dry-run", "--report", tmp_path / "r.jsonl").output


def test_words_say_what_numbers_do(photos, run, tmp_path):
    (photos / "c.jpg").unlink()
    chroma = {}
    for given in (("--strength", "subtle"), ("--strength", "natural"), ("--strength", "vivid"), ()):
        assert run(*given).exit_code == 0
        chroma[given[1:]] = np.ptp(np.asarray(Image.open(tmp_path / "out" / "a.png"), int), axis=2).mean()
    assert chroma["subtle",] < chroma["natural",] == chroma[()] < chroma["vivid",]
    assert "give one of them" in run("--strength", "vivid", "--saturation", 1).output
