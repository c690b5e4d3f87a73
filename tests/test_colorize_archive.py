"""A whole archive: every file is accounted for, a second run does nothing, a kill loses nothing."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from archive_fixtures import RESULTS, write_archive
from click.testing import CliRunner
from PIL import Image
from test_colorize import save_generator

from streamgan.cli.colorize import colorize
from streamgan.core.errors import CheckFailed

ENDED = ("colored", "left_alone")
# Kills its own process in the writing of the result with this number, before it has its name.
KILLED = """
import os, signal, sys
from streamgan.inference import one_file
from streamgan.cli.main import main

left, real = int(sys.argv.pop(1)), one_file.save_pages

def killing(*arguments, **options):
    global left
    left -= 1
    real(*arguments, **options)
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)

one_file.save_pages = killing
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "ema.safetensors")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(out: Path) -> dict[Path, bytes]:
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def named(place: Path) -> Path:
    ending = RESULTS.get(place.suffix, (place.suffix,))[0]
    return place.with_suffix(ending)


def write_film(path: Path) -> Path:
    pytest.importorskip("av")
    from test_colorize_films import write_film

    return write_film(path)


@pytest.mark.parametrize("count", [26, pytest.param(300, marks=pytest.mark.slow)])
def test_every_file_of_an_archive_is_accounted_for_and_a_second_run_does_nothing(
    photo, model, tmp_path, count
):
    folder, out, report = tmp_path / "in", tmp_path / "out", tmp_path / "r.jsonl"
    right = write_archive(folder, photo, count)
    if count == 300:
        for index in range(8):
            film = write_film(folder / f"film {index}{('.mp4', '.mov', '.mkv')[index % 3]}")
            right[film.relative_to(folder)] = "colored"
    command = [folder, "--recursive", "--skip-existing", "--out", out, "--report", report, "--model", model]
    first = CliRunner().invoke(colorize, [*map(str, command), "--device", "cpu", "--json"])
    assert isinstance(first.exception, CheckFailed), first.output
    told = lines(report)
    assert {Path(line["file"]).relative_to(folder): line["outcome"] for line in told} == right
    assert len(told) == len(right)
    ended = {place for place, outcome in right.items() if outcome in ENDED}
    assert set(results(out)) == {named(place) for place in ended}
    for line in told:
        if line["outcome"] in ENDED:
            assert line["bytes"] == Path(line["result"]).stat().st_size
            if "film" in line["file"]:
                continue
            with Image.open(line["result"]) as made, Image.open(line["file"]) as given:
                assert made.size == given.size
                assert np.ptp(np.asarray(made.convert("RGB"), int), axis=2).max() > 2
        else:
            assert (line["result"], len(line["notes"])) == (None, 1)
    assert first.exception.report["passed_over"] == {
        ".txt": 1, ".cr2": 1, "no ending": 1, "hidden": 1, "linked folders walked already": 1
    }  # fmt: skip

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = CliRunner().invoke(colorize, [*map(str, command), "--device", "cpu", "--json"])
    assert (again.exception.report["num_colored"], again.exception.report["num_left_alone"]) == (0, 0)
    assert again.exception.report["num_skipped"] == len(ended)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    more = lines(report)[len(told) :]
    counts = Counter("skipped" if outcome in ENDED else outcome for outcome in right.values())
    assert Counter(line["outcome"] for line in more) == counts


@pytest.mark.slow
def test_results_have_the_times_of_their_photos_if_they_are_to(photo, model, tmp_path):
    gray, in_color = tmp_path / "in" / "gray.gif", tmp_path / "in" / "color.jpg"
    gray.parent.mkdir()
    photo(1, (40, 32)).convert("L").save(gray)
    photo(2, (40, 32)).save(in_color)
    for path in (gray, in_color):
        os.utime(path, ns=(2_000_000_000, 1_000_000_007))
    arguments = [str(gray.parent), "--model", str(model), "--out"]
    for out, option, kept in ((tmp_path / "kept", ["--keep-times"], True), (tmp_path / "new", [], False)):
        result = CliRunner().invoke(colorize, [*arguments, str(out), *option])
        assert result.exit_code == 0, result.output
        times = [(out / name).stat().st_mtime_ns for name in ("gray.png", "color.jpg")]
        assert [time == 1_000_000_007 for time in times] == [kept, kept]


def test_a_run_that_is_killed_goes_on_and_loses_nothing(photo, model, tmp_path):
    folder, report = tmp_path / "in", tmp_path / "r.jsonl"
    right = write_archive(folder, photo, 60)
    given = ["colorize", folder, "--recursive", "--skip-existing", "--model", model, "--device", "cpu"]
    whole = CliRunner().invoke(colorize, [*map(str, given[1:]), "--out", str(tmp_path / "whole")])
    assert isinstance(whole.exception, CheckFailed)
    out = tmp_path / "out"
    for left in (1, 20, 9):
        command = [sys.executable, "-c", KILLED, left, *given, "--out", out, "--report", report]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        for line in lines(report):  # whole lines, of results that are there
            assert line["outcome"] not in ENDED or Path(line["result"]).exists()
    last = CliRunner().invoke(colorize, [*map(str, given[1:]), "--out", str(out), "--report", str(report)])
    assert isinstance(last.exception, CheckFailed)
    assert results(out) == results(tmp_path / "whole")
    outcomes: dict[Path, set[str]] = {}
    for line in lines(report):
        outcomes.setdefault(Path(line["file"]).relative_to(folder), set()).add(line["outcome"])
    assert set(outcomes) == set(right)
    for place, outcome in right.items():
        assert outcomes[place] <= {outcome, "skipped"}
        assert outcome in ENDED or outcomes[place] == {outcome}
