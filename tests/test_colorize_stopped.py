"""A `streamgan colorize` that is ended, or cannot write: nothing half-written, one line, an exit code."""

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from marks import slow
from test_colorize import save_generator

from streamgan.inference.colorizer import Colorizer

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "w.safetensors")


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def ended_by(number: int, monkeypatch, *, call: int) -> None:
    """Sends the signal in the `call`th prediction."""
    calls, predict = [], Colorizer.predict

    def ending(self, photos):
        calls.extend([photos] if photos else [])
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return predict(self, photos)

    monkeypatch.setattr(Colorizer, "predict", ending)


def one_by_one(model, tmp_path) -> tuple[object, ...]:
    """The command that colours the photos of `in`, each in a batch of its own."""
    words = ("colorize", tmp_path / "in", "--model", model, "--out", tmp_path / "out")
    return (*words, "--batch", 1, "--recolor")


@pytest.mark.parametrize("number", SIGNALS)
def test_photos_go_on_with_skip_existing(model, photo, tmp_path, monkeypatch, run_as_program, number):
    for index in range(12):
        (tmp_path / "in").mkdir(exist_ok=True)
        photo(index).save(tmp_path / "in" / f"{index:02}.png")
    command = one_by_one(model, tmp_path)
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        ended_by(number, patched, call=2)
        done = run_as_program(*command)
    assert done.code == 128 + number
    assert done.stderr.splitlines()[-1].endswith("; the same command with --skip-existing continues")
    assert signal.getsignal(number) is before
    first = files_in(tmp_path / "out")
    assert 0 < len(first) < 12
    assert first < files_in(tmp_path / "in")
    done = run_as_program(*command, "--skip-existing")
    assert done.code == 0
    assert f"{12 - len(first)} coloured, {len(first)} were there already" in done.stderr
    assert files_in(tmp_path / "out") == files_in(tmp_path / "in")


@pytest.mark.parametrize("number", [SIGNALS[0], *map(slow, SIGNALS[1:])])
def test_a_film_that_is_interrupted_leaves_nothing(model, tmp_path, monkeypatch, run_as_program, number):
    pytest.importorskip("av")
    from test_colorize_films import write_film

    film = write_film(tmp_path / "film.mp4", sound=True)
    command = ("colorize", film, "--model", model, "--out", tmp_path / "out", "--batch", 4)
    with monkeypatch.context() as patched:
        ended_by(number, patched, call=3)
        done = run_as_program(*command)
    assert done.code == 128 + number
    assert "--skip-existing continues" in done.stderr
    assert files_in(tmp_path / "out") == set()
    assert run_as_program(*command, "--skip-existing").code == 0
    assert files_in(tmp_path / "out") == {"film.mp4"}


def test_what_is_ignored_stays_ignored(model, photo, tmp_path, monkeypatch, run_as_program):
    photo(0).save(tmp_path / "a.png")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        ended_by(signal.SIGHUP, monkeypatch, call=1)
        done = run_as_program("colorize", tmp_path / "a.png", "--model", model, "--out", tmp_path / "out")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.code == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("name", ["a.png", "film.mkv"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    model, photo, tmp_path, run_as_program, name
):
    if name.endswith(".mkv"):
        pytest.importorskip("av")
        from test_colorize_films import write_film

        write_film(tmp_path / name)
    else:
        photo(0).save(tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / f"{name}.tmp").symlink_to("/dev/full")  # every write to it fails as on a full disk
    done = run_as_program("colorize", tmp_path / name, "--model", model, "--out", out, "--json")
    assert done.code == 3
    assert f"{out / name}: cannot be written (No space left on device); make room" in done.stderr
    assert done.stderr.count("\n") == 1
    assert files_in(out) == (set() if name == "a.png" else {"000000.safetensors"})  # pictures of the film
    assert run_as_program("colorize", tmp_path / name, "--model", model, "--out", out).code == 0
    assert files_in(out) == {name}


@pytest.mark.parametrize("limit", [2000, 20000])
@pytest.mark.parametrize("name", ["film.mp4", slow("film.mov"), "film.mkv"])
def test_a_film_that_a_disk_has_no_room_for_is_one_line(model, tmp_path, run_as_program, name, limit):
    pytest.importorskip("av")
    from test_colorize_films import write_film

    write_film(tmp_path / name, sound=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # no file may grow beyond it
    try:
        done = run_as_program("colorize", tmp_path / name, "--model", model, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 3
    assert f"{tmp_path / 'out' / name}: cannot be written (File too large); " in done.stderr
    assert done.stderr.count("\n") == 1
    assert files_in(tmp_path / "out") == set()


@pytest.mark.parametrize(
    ("place", "code", "told"),
    [
        ("file", 2, "Invalid value for '--out': Directory"),
        ("file/below", 3, "a file is in the way"),
        ("n" * 256, 3, "choose a shorter name"),
    ],
)
def test_an_out_that_cannot_be_a_folder_is_one_line(
    model, photo, tmp_path, run_as_program, place, code, told
):
    photo(0).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("mine")
    done = run_as_program(
        "colorize", tmp_path / "a.png", "--model", model, "--out", tmp_path / place, "--json"
    )
    assert done.code == code
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_an_out_that_is_deleted_meanwhile_is_made_again(model, photo, tmp_path, monkeypatch, run_as_program):
    for index in range(12):
        (tmp_path / "in").mkdir(exist_ok=True)
        photo(index).save(tmp_path / "in" / f"{index:02}.png")
    calls, predict = [], Colorizer.predict

    def deleting(self, photos):
        calls.extend([photos] if photos else [])
        if len(calls) == 2:
            shutil.rmtree(tmp_path / "out")
        return predict(self, photos)

    monkeypatch.setattr(Colorizer, "predict", deleting)
    command = one_by_one(model, tmp_path)
    done = run_as_program(*command)
    assert done.code == 0
    assert 0 < len(files_in(tmp_path / "out")) < 12
