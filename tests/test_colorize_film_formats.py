"""Films of every ending: what becomes of the container, the codec, the bits, and all else that is in them."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from marks import slow
from test_colorize import save_generator

from streamgan.core import logs
from streamgan.inference.colorizer import Colorizer
from streamgan.inference.containers import SUGGESTED, FilmOptions
from streamgan.inference.inputs import Inputs, Naming
from streamgan.inference.pipeline import Handling, color_files

av = pytest.importorskip("av")

from test_colorize_films import RATE, put_frames, scene  # noqa: E402 (needs av)

from streamgan.inference import joining  # noqa: E402 (needs av)

FRAMES = 24
# By ending: muxer, codec, sound; what the ending becomes, and with which codec.
FILMS = {
    ".mp4": ("mp4", "libx264", "aac", ".mp4", "h264"),
    ".m4v": ("mp4", "libx264", "aac", ".m4v", "h264"),
    ".mov": ("mov", "libx264", "pcm_s16le", ".mov", "h264"),
    ".mkv": ("matroska", "libx264", "libopus", ".mkv", "h264"),
    ".webm": ("webm", "libvpx-vp9", "libopus", ".webm", "vp9"),
    ".ts": ("mpegts", "libx264", "aac", ".ts", "h264"),
    ".avi": ("avi", "mpeg4", "libmp3lame", ".mkv", "h264"),
    ".mpg": ("mpeg", "mpeg2video", "mp2", ".mkv", "h264"),
    ".m2ts": ("mpegts", "libx264", "ac3", ".m2ts", "h264"),
    ".mts": ("mpegts", "libx264", "ac3", ".mts", "h264"),
    ".mpeg": ("mpeg", "mpeg1video", "mp2", ".mkv", "h264"),
    ".wmv": ("asf", "wmv2", "wmav2", ".mkv", "h264"),
    ".flv": ("flv", "flv", "libmp3lame", ".mkv", "h264"),
    ".ogv": ("ogg", "libvpx", "libopus", ".mkv", "h264"),
}
EIGHT = [".mp4", ".mov", ".mkv", ".webm", ".ts", ".avi", ".mpg", ".wmv"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "w.safetensors")


@pytest.fixture(scope="module")
def colorizer(model):
    return Colorizer.load(model, device="cpu", batch=8)


def write(path: Path, *, size=(64, 48), pix_fmt="yuv420p", codec="", sound="", **options: str) -> Path:
    muxer, usual, usual_sound, *_ = FILMS[path.suffix]
    with av.open(str(path), "w", format=muxer) as film:
        video = film.add_stream(codec or usual, rate=RATE, options={"g": "9", **options})
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        audio = film.add_stream(sound or usual_sound, rate=48000, layout="stereo", bit_rate=128_000)
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(scene(index, size), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            film.mux(video.encode(frame))
        film.mux(video.encode(None))
        put_sound(film, audio)
    return path


def put_sound(film, audio) -> None:
    """A second of a tone."""
    audio.codec_context.open(strict=False)
    number = audio.codec_context.frame_size or 1024
    resampler = av.AudioResampler(audio.codec_context.format.name, "stereo", 48000, frame_size=number)
    for start in range(0, 48000, number):
        wave = np.repeat(np.sin(np.arange(start, start + number) / 20).astype(np.float32)[None] / 3, 2, 0)
        part = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        part.sample_rate, part.pts, part.time_base = 48000, start, Fraction(1, 48000)
        for one in resampler.resample(part):
            film.mux(audio.encode(one))
    film.mux(audio.encode(None))


def read(path: Path) -> dict:
    with av.open(str(path)) as film:
        video = film.streams.video[0]
        about = {
            "codec": video.codec_context.name,
            "format": video.codec_context.pix_fmt,
            "sound": [one.codec_context.name for one in film.streams.audio],
        }
        frames = list(film.decode(video))
        about["times"] = np.array([float(frame.pts * frame.time_base) for frame in frames])
        about["luma"] = np.stack([luma(frame) for frame in frames])
        about["gray"] = all((frame.to_ndarray(format="rgb24").std(2) < 3).all() for frame in frames)
    with av.open(str(path)) as film:
        packets = [one for one in film.demux(film.streams.audio[0]) if one.size]
        about["packets"] = [bytes(one) for one in packets]
        about["start"] = float(packets[0].pts * packets[0].time_base)
    return about


def luma(frame) -> np.ndarray:
    """In steps of 8 bits."""
    bits, plane = frame.format.components[0].bits, frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint16 if bits > 8 else np.uint8).reshape(plane.height, -1)
    return rows[:, : plane.width] / 2 ** (bits - 8)


def color(colorizer, source: Path, out: Path, film: FilmOptions = SUGGESTED):
    inputs = Inputs([str(source)], out, naming=Naming(codec=film.codec))
    (outcome,) = color_files(colorizer, inputs, Handling(film=film))
    return outcome


def compare(given: dict, made: dict) -> None:
    assert len(made["times"]) == FRAMES
    assert not made["gray"]
    if given["sound"] == ["wmav2"]:  # sounds later than it starts: see the test below
        given["start"] = made["start"] = 0
    else:
        assert made["sound"] == given["sound"]
        assert made["packets"] == given["packets"]
    # A recording may start at any time: what matters is that sound and pictures stay together.
    assert np.abs((made["times"] - made["start"]) - (given["times"] - given["start"])).max() < 0.0011
    assert np.abs(made["luma"] - given["luma"]).mean() < 3  # noise, encoded


@pytest.mark.parametrize("suffix", [".m4v", ".mts", ".flv", slow(".m2ts"), slow(".mpeg"), slow(".ogv")])
def test_a_film_has_the_same_container_or_becomes_matroska(colorizer, tmp_path, suffix):
    source = write(tmp_path / f"film{suffix}")
    outcome = color(colorizer, source, tmp_path / "out")
    _, _, _, becomes, codec = FILMS[suffix]
    told = "" if becomes == suffix else f"{suffix} becomes {becomes}"
    assert (outcome.kind, outcome.text) == ("colored", told)
    assert outcome.target.path.name == f"film{becomes}"
    given, made = read(source), read(outcome.target.path)
    assert made["codec"] == codec
    compare(given, made)


def test_sound_that_matroska_cannot_hold_stays_as_it_sounds(colorizer, tmp_path):
    source = write(tmp_path / "film.wmv")
    made = color(colorizer, source, tmp_path / "out").target.path
    (given, start), (kept, kept_start) = samples(source), samples(made)
    assert abs(start - kept_start) < 0.0011
    assert np.array_equal((given * 32768).round().clip(-32768, 32767), kept * 32768)


def test_recoded_sound_whose_time_runs_backwards_costs_its_packets_alone(colorizer, tmp_path, monkeypatch):
    source, others = write(tmp_path / "film.wmv"), joining._others

    def set_back(film, streams):
        for number, packet in enumerate(others(film, streams)):
            if number > 3:
                packet.pts = packet.dts = packet.pts - round(0.2 / packet.time_base)
            yield packet

    monkeypatch.setattr(joining, "_others", set_back)
    outcome = color(colorizer, source, tmp_path / "out")
    assert outcome.kind == "colored"
    assert re.search(r"becomes FLAC; \d damaged packets of audio are left out$", outcome.text)
    assert len(read(outcome.target.path)["times"]) == FRAMES


def samples(path: Path) -> tuple[np.ndarray, float]:
    """The sound in [-1, 1], (channels, samples), and its time."""
    with av.open(str(path)) as film:
        frames = list(film.decode(film.streams.audio[0]))
    resampler = av.AudioResampler("fltp", "stereo", 48000)
    parts = [one.to_ndarray() for frame in frames for one in resampler.resample(frame)]
    return np.concatenate(parts, 1), float(frames[0].time)


def test_captions_that_ffmpeg_does_not_know_are_left_out_and_named(colorizer, tmp_path):
    """Those of Japanese television, which every recording of it has."""
    source = add_captions(write(tmp_path / "film.ts"))
    with av.open(str(source)) as film:
        assert [one.type for one in film.streams] == ["video", "audio", "subtitle"]
    outcome = color(colorizer, source, tmp_path / "out")
    assert outcome.kind == "colored"
    assert outcome.text.startswith("without its subtitle")
    compare(read(source), read(outcome.target.path))


def add_captions(path: Path) -> Path:
    """Say in every program map (ISO 13818-1, 2.4.4.8) that there is such a stream; it has no packets."""
    described = bytes([0x52, 1, 0x30, 0xFD, 3, 0, 8, 0x3D])  # ARIB STD-B10: captions, profile A
    film = bytearray(path.read_bytes())
    for at in range(0, len(film), 188):
        start = at + 5 + film[at + 4]  # of the section, where it begins in this packet
        if film[at + 1] & 0x40 and not film[at + 3] & 0x20 and film[start] == 2:
            end = start + 3 + int.from_bytes(film[start + 1 : start + 3], "big") % 4096 - 4
            section = film[start:end] + bytes([6, 0xE1, 0x50, 0xF0, len(described)]) + described
            section[1:3] = (0xB000 + len(section) + 4 - 3).to_bytes(2, "big")
            film[start : start + len(section) + 4] = section + crc_of_mpeg(section).to_bytes(4, "big")
    path.write_bytes(film)
    return path


def crc_of_mpeg(section: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in section:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


def test_eight_films_of_eight_containers_go_through_the_command(model, tmp_path, run_as_program):
    (tmp_path / "films").mkdir()
    for suffix in EIGHT:
        write(tmp_path / "films" / f"{suffix[1:]}{suffix}")
    command = ("colorize", tmp_path / "films", "--model", model, "--out", tmp_path / "out")
    done = run_as_program(*command, "--report", tmp_path / "report.jsonl")
    assert done.code == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert len(lines) == len(EIGHT)
    for suffix in EIGHT:
        becomes = FILMS[suffix][3]
        source = tmp_path / "films" / f"{suffix[1:]}{suffix}"
        result = tmp_path / "out" / f"{suffix[1:]}{becomes}"
        assert str(result) in done.stdout.splitlines()
        told = f"{source}: {suffix} becomes .mkv"
        told += "; its audio (wmav2) becomes FLAC" if suffix == ".wmv" else ""
        assert (f"{told}\n" in done.stderr) == (becomes != suffix)
        compare(read(source), read(result))
    assert run_as_program(*command, "--skip-existing").code == 0


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt", "becomes"),
    [
        (".mp4", None, "yuv420p10le", ("hevc", "yuv420p10le")),
        slow(".mkv", "h264", "yuv420p10le", ("h264", "yuv420p10le")),
        slow(".mkv", "h264", "yuv422p10le", ("h264", "yuv420p10le")),
        slow(".mkv", "av1", "yuv420p10le", ("libdav1d", "yuv420p10le")),
        slow(".webm", None, "yuv420p10le", ("libdav1d", "yuv420p10le")),
        slow(".mkv", "hevc", "yuv420p12le", ("hevc", "yuv420p12le")),
        slow(".ts", "hevc", "yuv420p10le", ("hevc", "yuv420p10le")),
    ],
)
def test_more_bits_than_8_stay(colorizer, tmp_path, suffix, codec, pix_fmt, becomes):
    encoder = {"yuv420p12le": "libx265"}.get(pix_fmt, "libx264")
    source = write(tmp_path / "film.mkv", pix_fmt=pix_fmt, codec=encoder, crf="8")
    if suffix == ".webm":
        source = write(tmp_path / "film.webm", pix_fmt=pix_fmt, codec="libsvtav1", crf="8")
    elif suffix != ".mkv":
        source = write(tmp_path / f"film{suffix}", pix_fmt=pix_fmt, crf="8")
    outcome = color(colorizer, source, tmp_path / "out", FilmOptions(codec))
    assert (outcome.kind, outcome.text) == ("colored", "")
    given, made = read(source), read(outcome.target.path)
    assert (made["codec"], made["format"]) == becomes
    compare(given, made)


@pytest.mark.parametrize(
    ("codec", "told"),
    [("h264", "12 bits become 10"), slow("vp9", "12 bits become 8"), slow("av1", "12 bits become 10")],
)
def test_bits_that_a_codec_does_not_keep_are_named(colorizer, tmp_path, codec, told):
    source = write(tmp_path / "film.mkv", pix_fmt="yuv420p12le", codec="libx265")
    outcome = color(colorizer, source, tmp_path / "out", FilmOptions(codec))
    assert (outcome.kind, outcome.text) == ("colored", told)


def test_colours_that_are_replaced_are_named(colorizer, photo, tmp_path):
    with av.open(str(tmp_path / "film.mkv"), "w") as film:
        video = film.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(4):
            frame = av.VideoFrame.from_image(photo(1, (64, 48)))
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            film.mux(video.encode(frame))
        film.mux(video.encode(None))
    outcome = color(colorizer, tmp_path / "film.mkv", tmp_path / "out")
    told = "it is in colour already, or parts of it: its own colours are replaced"
    assert (outcome.kind, outcome.text) == ("colored", told)


def test_transparency_that_is_lost_is_named(colorizer, tmp_path):
    source = write(tmp_path / "film.mkv", codec="ffv1", pix_fmt="yuva420p")
    outcome = color(colorizer, source, tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("colored", "without its transparency")
    compare(read(source), read(outcome.target.path))


@pytest.mark.parametrize(
    ("suffix", "codec", "becomes"),
    [
        (".webm", "h264", ".mkv"),
        (".ts", "av1", ".mkv"),
        (".mov", "vp9", ".mkv"),
        (".mp4", "av1", ".mp4"),
        (".mp4", "vp9", ".mp4"),
        (".webm", "av1", ".webm"),
        (".MKV", "vp9", ".MKV"),
    ],
)
def test_a_container_that_cannot_hold_the_codec_becomes_matroska(suffix, codec, becomes):
    assert Naming(codec=codec).place(Path(f"a/film{suffix}")) == Path(f"a/film{becomes}")


def test_films_that_would_share_a_name_are_refused_before_anything_is_written(
    model, tmp_path, run_as_program
):
    write(tmp_path / "films.avi").rename(tmp_path / "film.avi")
    (tmp_path / "film.mkv").write_bytes((tmp_path / "film.avi").read_bytes())
    for given in ([tmp_path], [tmp_path / "film.avi", tmp_path / "film.mkv"]):
        done = run_as_program("colorize", *given, "--model", model, "--out", tmp_path / "out")
        assert done.code == 2
        assert "another photo would also become film.mkv" in done.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("codec", "name"), [("h264", "h264"), ("hevc", "hevc"), ("av1", "av1"), ("vp9", "vp9")]
)
def test_codec_and_crf_are_those_that_were_asked_for(model, tmp_path, run_as_program, codec, name):
    source, sizes = write(tmp_path / "film.mkv"), []
    for crf in (10, 50):
        out = tmp_path / str(crf)
        options = ("--codec", codec, "--crf", crf, "--out", out)
        done = run_as_program("colorize", source, "--model", model, *options)
        assert (done.code, done.stderr) == (0, "")
        with av.open(str(out / "film.mkv")) as film:
            assert film.streams.video[0].codec_context.codec.canonical_name == name
            sizes.append(sum(packet.size for packet in film.demux(video=0)))
    assert sizes[0] > 1.5 * sizes[1]


def test_a_factor_or_an_encoder_that_is_not_there_is_one_line(model, tmp_path, run_as_program, monkeypatch):
    source = write(tmp_path / "film.mkv")
    command = ("colorize", source, "--model", model, "--out", tmp_path / "out")
    done = run_as_program(*command, "--crf", 60)
    assert done.code == 2
    assert "--crf: more than h264 has (got 60); choose one of 0 to 51, or --codec av1 or vp9" in done.stderr
    from streamgan.inference.containers import ENCODERS

    monkeypatch.setitem(ENCODERS, "vp9", ENCODERS["vp9"]._replace(name="libnone"))
    done = run_as_program(*command, "--codec", "vp9")
    assert done.code == 2
    assert "--codec: this PyAV has no libnone, which encodes vp9; choose h264 or hevc or av1" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".avi", slow(".webm"), slow(".flv")])
def test_what_is_missing_of_a_cut_film_is_counted_where_its_head_tells(colorizer, tmp_path, suffix):
    source = write(tmp_path / f"film{suffix}")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    outcome = color(colorizer, source, tmp_path / "out")
    with av.open(str(outcome.target.path)) as film:
        made = sum(1 for _ in film.decode(video=0))
    assert outcome.kind == "partial"
    assert 4 < made < FRAMES - 4
    lost, total = (int(number) for number in outcome.text.split()[:3:2])
    assert total - lost == made
    assert abs(total - FRAMES) <= 1
    assert "at its end" in outcome.text


@pytest.mark.parametrize("suffix", [".mp4", slow(".mkv"), slow(".ts")])
def test_progress_counts_the_frames_of_the_film_in_hand(colorizer, tmp_path, monkeypatch, capfd, suffix):
    monkeypatch.setattr(logs, "LINE_INTERVAL_S", 0.0)
    color(colorizer, write(tmp_path / f"film{suffix}"), tmp_path / "out")
    lines = capfd.readouterr().err.splitlines()
    counts = [line.split()[1].split("/") for line in lines if line.startswith(f"film{suffix}: ")]
    assert [int(done) for done, _ in counts][-3:] == [8, 16, 24]
    assert all(abs(int(total) - FRAMES) <= 2 for _, total in counts)  # an estimate in some containers
    assert re.search(r"\d\d:\d\d<\d\d:\d\d +[\d.]+ *(frame/s|s/frame)", lines[-1])


@pytest.mark.parametrize("suffix", [".ts", slow(".m2ts"), slow(".webm")])
def test_languages_of_sound_stay(colorizer, tmp_path, suffix):
    muxer, codec, sound, *_ = FILMS[suffix]
    source = tmp_path / f"film{suffix}"
    with av.open(str(source), "w", format=muxer) as film:
        video = film.add_stream(codec, rate=RATE, options={"g": "9"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        voices = [film.add_stream(sound, rate=48000, layout="stereo") for _ in range(2)]
        for voice, language in zip(voices, ("deu", "ita"), strict=True):
            voice.metadata["language"] = language
        put_frames(film, video, times=range(FRAMES))
        for voice in voices:
            put_sound(film, voice)
    outcome = color(colorizer, source, tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("colored", "")
    with av.open(str(outcome.target.path)) as film:
        assert [one.language for one in film.streams.audio] == ["deu", "ita"]


@pytest.mark.parametrize("codec", ["h264", slow("hevc"), slow("vp9"), "av1"])
def test_an_odd_number_of_lines_and_columns_stays(colorizer, tmp_path, codec):
    source = write(tmp_path / "film.mkv", size=(75, 61), codec="ffv1")
    outcome = color(colorizer, source, tmp_path / "out", FilmOptions(codec))
    assert (outcome.kind, outcome.text) == ("colored", "")
    given, made = read(source), read(outcome.target.path)
    assert made["luma"].shape == (FRAMES, 61, 75)
    compare(given, made)
