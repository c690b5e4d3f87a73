"""A film whose colouring was ended by force: the next run goes on, and nothing shows where."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from marks import slow
from test_colorize import save_generator

from streamgan.inference.colorizer import Colorizer
from streamgan.inference.containers import SUGGESTED, FilmOptions
from streamgan.inference.inputs import Inputs
from streamgan.inference.pipeline import Handling, color_files

av = pytest.importorskip("av")

from test_colorize_films import count, left_in, write_film  # noqa: E402 (needs av)

FRAMES, BATCH = 300, 8
SEGMENT = 120  # frames of a segment, with that batch
# `streamgan colorize` that is killed in the prediction of a batch: the number is the first argument.
KILLED = """
import os, signal, sys
from streamgan.cli.main import main
from streamgan.inference.colorizer import Colorizer

predict, left = Colorizer.predict, int(sys.argv.pop(1))

def killed(self, photos):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return predict(self, photos)

Colorizer.predict = killed
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "w.safetensors")


@pytest.fixture(scope="module")
def colorizer(model):
    return Colorizer.load(model, device="cpu", batch=BATCH)


def color(colorizer, source: Path, out: Path, *, film=SUGGESTED, skip_existing=True):
    (outcome,) = color_files(
        colorizer, Inputs([str(source)], out), Handling(skip_existing=skip_existing, film=film)
    )
    return outcome


@pytest.fixture
def predicted(monkeypatch):
    """How many frames have been predicted, batch by batch."""
    numbers, predict = [], Colorizer.predict
    monkeypatch.setattr(
        Colorizer, "predict", lambda self, photos: (numbers.append(len(photos)), predict(self, photos))[1]
    )
    return numbers


def kill(model: Path, source: Path, out: Path, *options: str, batches: int = 33) -> None:
    """Colour until the process is killed in the given batch, after two segments by default."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(batches), "colorize", source, "--model", model, "--out", out,
         "--device", "cpu", *options],
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def packets(path: Path) -> list[tuple]:
    with av.open(str(path)) as film:
        return [
            (one.stream_index, one.pts, one.dts, one.duration, bytes(one)) for one in film.demux() if one.size
        ]


@pytest.mark.parametrize("suffix", [".mp4", slow(".mov"), slow(".mkv")])
def test_a_film_that_was_killed_goes_on_and_is_the_same_to_the_byte(
    model, colorizer, tmp_path, predicted, capfd, suffix
):
    source, out = tmp_path / f"film{suffix}", tmp_path / "out"
    write_film(source, sound=True, times=range(FRAMES))
    kill(model, source, out)
    assert not (out / source.name).exists()
    outcome = color(colorizer, source, out)
    assert (outcome.kind, outcome.text) == ("colored", "")
    assert sum(predicted) == FRAMES - 2 * SEGMENT
    assert f"film{suffix}: continues after {2 * SEGMENT} frames" in capfd.readouterr().err
    assert left_in(out) == [out / source.name]
    color(colorizer, source, tmp_path / "unbroken")
    assert packets(out / source.name) == packets(tmp_path / "unbroken" / source.name)
    assert count(out / source.name) == FRAMES


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["hevc", "av1", "vp9"])
def test_segments_of_every_codec_make_one_film(model, colorizer, tmp_path, codec):
    source = write_film(tmp_path / "film.mkv", times=range(FRAMES))
    kill(model, source, tmp_path / "out", "--codec", codec)
    options = FilmOptions(codec)
    assert color(colorizer, source, tmp_path / "out", film=options).kind == "colored"
    assert color(colorizer, source, tmp_path / "unbroken", film=options).kind == "colored"
    assert packets(tmp_path / "out" / "film.mkv") == packets(tmp_path / "unbroken" / "film.mkv")
    assert times(tmp_path / "out" / "film.mkv") == times(source)


def times(path: Path) -> list[int]:
    with av.open(str(path)) as film:
        return [frame.pts for frame in film.decode(video=0)]


@pytest.mark.parametrize("changed", ["source", slow("crf"), slow("saturation"), slow("model")])
def test_a_film_begins_anew_if_what_it_is_made_from_has_changed(
    model, colorizer, tmp_path, predicted, changed
):
    source, out = write_film(tmp_path / "film.mkv", times=range(FRAMES)), tmp_path / "out"
    kill(model, source, out)
    options = SUGGESTED
    if changed == "source":
        write_film(source, times=range(FRAMES), crf="30")
    elif changed == "crf":
        options = FilmOptions(crf=20)
    elif changed == "saturation":
        colorizer = Colorizer.load(model, device="cpu", batch=BATCH, saturation=0.5)
    else:
        other = save_generator(tmp_path / "w.safetensors", chroma=0.2)
        colorizer = Colorizer.load(other, device="cpu", batch=BATCH)
    assert color(colorizer, source, out, film=options).kind == "colored"
    assert sum(predicted) == FRAMES
    assert count(out / "film.mkv") == FRAMES


def test_a_segment_that_is_damaged_is_made_again(model, colorizer, tmp_path, predicted):
    source, out = write_film(tmp_path / "film.mkv", times=range(FRAMES)), tmp_path / "out"
    kill(model, source, out)
    _, second = sorted(left_in(out))
    second.write_bytes(second.read_bytes()[:-1])
    assert color(colorizer, source, out).kind == "colored"
    assert sum(predicted) == FRAMES - SEGMENT
    color(colorizer, source, tmp_path / "unbroken")
    assert packets(out / "film.mkv") == packets(tmp_path / "unbroken" / "film.mkv")


def test_what_is_left_of_a_film_that_is_there_already_goes(colorizer, tmp_path):
    source, out = write_film(tmp_path / "film.mkv"), tmp_path / "out"
    color(colorizer, source, out)
    (out / "film.mkv.parts.tmp").mkdir()
    (out / "film.mkv.parts.tmp" / "000000.safetensors").write_bytes(b"of a run that was killed at its end")
    assert color(colorizer, source, out).kind == "skipped"
    assert left_in(out) == [out / "film.mkv"]


def test_a_film_that_another_process_is_colouring_is_left_to_it(colorizer, tmp_path):
    from streamgan.inference.segments import segments_for

    source, out = write_film(tmp_path / "film.mkv"), tmp_path / "out"
    with segments_for(out / "film.mkv", "theirs", colorizer.device):
        outcome = color(colorizer, source, out)
    assert (outcome.kind, outcome.text) == ("failed", "another process is colouring it")
    assert color(colorizer, source, out).kind == "colored"


PEAK = """
import sys
from pathlib import Path
from streamgan.inference.colorizer import Colorizer
from streamgan.inference.video import color_video

color_video(Colorizer.load(sys.argv[1], device="cpu"), Path(sys.argv[2]), Path(sys.argv[3]))
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(peak)  # that of getrusage is also that of the parent
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_film(model, tmp_path):
    def peak(frames: int) -> int:
        """KB of a process that colours so many frames."""
        source = write_film(tmp_path / f"{frames}.mp4", times=range(frames), size=(320, 240))
        command = [sys.executable, "-c", PEAK, model, source, tmp_path / "out" / source.name]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert peak(500) < peak(150) + 30_000  # 350 frames are 40 MB; what is allocated settles by 1,000


def test_a_model_whose_file_is_gone_meanwhile_colours_on(tmp_path):
    weights = save_generator(tmp_path / "w.safetensors")
    colorizer = Colorizer.load(weights, device="cpu", batch=BATCH)
    weights.unlink()  # as a run does with its old checkpoints
    assert color(colorizer, write_film(tmp_path / "film.mkv"), tmp_path / "out").kind == "colored"
