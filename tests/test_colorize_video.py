"""Films: every frame at its time, the sound as it was, the turn kept, and colours that do not flicker."""

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from test_colorize import save_generator

import streamgan
from streamgan.inference.colorizer import Chroma
from streamgan.inference.inputs import Inputs
from streamgan.inference.pipeline import color_files
from streamgan.inference.smooth import Smoother

av = pytest.importorskip("av")
TICKS = Fraction(1, 600)
FRAMES = 24


class Flickering(torch.nn.Module):
    """A generator whose colours jump from frame to frame."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        signs = [(-1.0) ** (self.count + index) for index in range(len(image))]
        self.count += len(image)
        chroma = torch.tensor(signs).view(-1, 1, 1, 1) * 0.08 + 0.1
        return chroma.expand(-1, 2, *image.shape[-2:])


@pytest.fixture
def colorizer(tmp_path):
    colorizer = streamgan.Colorizer.load(save_generator(tmp_path / "w.safetensors"), device="cpu", batch=5)
    colorizer._generator = Flickering()
    return colorizer


def times(count: int) -> list[int]:
    """Ticks of frames that do not come at one rate."""
    return np.cumsum([0, *(20 + 5 * (index % 3) for index in range(count - 1))]).tolist()


def write_film(path, *, size=(64, 48), rotation: int = 0) -> None:
    """Gray, standing still but for a square; after half of it a cut. A tone as its sound."""
    width, height = size
    scene = np.add.outer(np.arange(height), np.arange(width)).astype(np.float32)
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=24, options={"crf": "8", "bf": "0"})
        video.width, video.height = size
        video.pix_fmt, video.time_base, video.codec_context.time_base = "yuv420p", TICKS, TICKS
        if rotation:
            video.set_display_rotation(rotation)
        sound = film.add_stream("aac", rate=48000, layout="mono")
        for index, tick in enumerate(times(FRAMES)):
            levels = 70 + scene if index < FRAMES // 2 else 230 - scene
            levels[8:16, index : index + 8] = 128
            gray = np.repeat(levels.astype(np.uint8)[..., None], 3, 2)
            frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
            frame.pts, frame.time_base = tick, TICKS
            film.mux(video.encode(frame))
        film.mux(video.encode(None))
        tone = np.sin(np.arange(48000) / 20).astype(np.float32)[None] * 0.3
        for start in range(0, 48000, 1024):
            part = av.AudioFrame.from_ndarray(tone[:, start : start + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = 48000, start, Fraction(1, 48000)
            film.mux(sound.encode(part))
        film.mux(sound.encode(None))


def read_film(path) -> dict:
    with av.open(str(path)) as film:
        video, sound = film.streams.video[0], film.streams.audio[0]
        packets = [(bytes(p), float(p.pts * p.time_base)) for p in film.demux(sound) if p.dts is not None]
        about = {"rate": video.average_rate, "film": film.duration, "codec": sound.codec_context.name}
        film.seek(0)
        frames = list(film.decode(video))
        about["times"] = [round(float(frame.pts * frame.time_base), 3) for frame in frames]
        about["rotation"] = {frame.rotation for frame in frames}
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(int)
        return about | {"sound": packets, "pixels": pixels}


def color(colorizer, source, out):
    (outcome,) = color_files(colorizer, Inputs([str(source)], out))
    return outcome


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_times_sound_and_luminance_of_a_film_stay(colorizer, tmp_path, suffix):
    write_film(tmp_path / f"film{suffix}")
    assert color(colorizer, tmp_path / f"film{suffix}", tmp_path / "out").kind == "colored"
    given, made = read_film(tmp_path / f"film{suffix}"), read_film(tmp_path / "out" / f"film{suffix}")
    assert len(made["pixels"]) == FRAMES
    assert len(set(np.diff(made["times"]).round(3))) > 1  # a variable rate
    for name in ("times", "rate", "codec", "rotation"):
        assert made[name] == given[name], name
    # microseconds; Matroska has times in milliseconds
    assert abs(made["film"] - given["film"]) <= (2000 if suffix == ".mkv" else 0)
    assert len(given["sound"]) > 40
    assert made["sound"] == given["sound"]
    assert made["pixels"].shape == given["pixels"].shape
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs((made["pixels"] - given["pixels"]) @ weights).mean() < 12  # L is kept, luma is near it
    assert (made["pixels"].max(3) - made["pixels"].min(3)).mean() > 5


def test_a_turned_film_stays_turned_and_is_seen_upright(colorizer, tmp_path):
    write_film(tmp_path / "film.mp4", rotation=90)
    seen = []
    inner = colorizer._generator
    colorizer._generator = lambda image: (seen.append(tuple(image.shape[-2:])), inner(image))[1]
    assert color(colorizer, tmp_path / "film.mp4", tmp_path / "out").kind == "colored"
    given, made = read_film(tmp_path / "film.mp4"), read_film(tmp_path / "out" / "film.mp4")
    assert given["rotation"] == made["rotation"] == {90}
    assert all(height > width for height, width in seen)
    still = np.s_[:, 20:]
    assert (
        np.corrcoef(given["pixels"][still][..., 1].ravel(), made["pixels"][still][..., 1].ravel())[0, 1] > 0.9
    )


def chroma_change(pixels: np.ndarray) -> float:
    """Mean change of red minus green from frame to frame where nothing moves, without the cut."""
    still = (pixels[..., 0] - pixels[..., 1])[:, 20:]
    change = np.abs(np.diff(still, axis=0)).mean((1, 2))
    return float(np.delete(change, FRAMES // 2 - 1).mean())


@pytest.mark.slow
def test_colours_change_less_than_those_of_single_frames(colorizer, tmp_path, monkeypatch):
    write_film(tmp_path / "film.mp4")
    color(colorizer, tmp_path / "film.mp4", tmp_path / "smooth")
    monkeypatch.setattr(Smoother, "__call__", lambda self, frame: frame)
    color(colorizer, tmp_path / "film.mp4", tmp_path / "single")
    smooth, single = (read_film(tmp_path / name / "film.mp4")["pixels"] for name in ("smooth", "single"))
    assert chroma_change(single) > 5
    assert chroma_change(smooth) < chroma_change(single) / 3


def test_a_cut_and_a_moving_pixel_forget_what_was():
    smooth = Smoother()

    def frame(level: float, chroma: float) -> Chroma:
        return Chroma(torch.full((1, 1, 4, 4), level), torch.full((1, 2, 4, 4), chroma))

    smooth(frame(0.0, 1.0))
    assert smooth(frame(0.0, 0.0)).chroma_12hw.mean() == pytest.approx(0.8)
    assert smooth(frame(0.5, 0.0)).chroma_12hw.abs().max() == 0  # the cut
    smooth(frame(0.5, 1.0))
    moving = frame(0.5, 0.0)
    moving.input_11hw[..., 0, 0] = 0.9
    made = smooth(moving).chroma_12hw
    assert made[0, 0, 0, 0] < 1e-6
    assert made[0, 0, 1, 1] > 0.1


def test_a_broken_film_is_a_failed_one_and_leaves_nothing(colorizer, tmp_path):
    write_film(tmp_path / "whole.mp4")
    (tmp_path / "film.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:2000])
    assert color(colorizer, tmp_path / "film.mp4", tmp_path / "out").kind == "failed"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_missing_extra_is_named(colorizer, tmp_path, monkeypatch):
    write_film(tmp_path / "film.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    outcome = color(colorizer, tmp_path / "film.mp4", tmp_path / "out")
    assert outcome.kind == "failed"
    assert "pip install 'streamgan[video]'" in outcome.text
