"""Films as they are found: with covers, cut, holed, in many languages, interlaced, mirrored, in 10 bits."""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from marks import slow
from test_colorize import save_generator

import streamgan
from streamgan.inference.inputs import Inputs
from streamgan.inference.pipeline import color_files

av = pytest.importorskip("av")
FRAMES, RATE, SIZE = 36, 24, (64, 48)
FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}


@pytest.fixture(scope="module")
def colorizer(tmp_path_factory):
    weights = save_generator(tmp_path_factory.mktemp("model") / "w.safetensors")
    return streamgan.Colorizer.load(weights, device="cpu", batch=8)


def scene(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Gray noise that an encoder cannot make small: damage of a few bytes meets few frames."""
    width, height = size
    noise = np.random.default_rng(index).integers(0, 60, (height, width))
    gray = (np.add.outer(np.arange(height), np.arange(width)) + 2 * index) % 190 + noise
    return np.repeat(gray.astype(np.uint8)[..., None], 3, 2)


def put_frames(film, video, *, times=range(FRAMES)) -> None:
    for index, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(scene(index, (video.width, video.height)), format="rgb24")
        frame = frame.reformat(format=video.pix_fmt)
        frame.pts, frame.time_base = time, Fraction(1, RATE)
        film.mux(video.encode(frame))
    film.mux(video.encode(None))


def put_tone(film, sound) -> None:
    for start in range(0, 3 * 24000, 1024):
        wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None]
        part = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        part.sample_rate, part.pts, part.time_base = 48000, start, Fraction(1, 48000)
        film.mux(sound.encode(part))
    film.mux(sound.encode(None))


def put_text(film, stream, text: bytes) -> None:
    for start in (0, 500):
        packet = av.Packet(text)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts, packet.dts, packet.duration = start, start, 300
        film.mux(packet)


def picture(film, codec="libx264", *, pix_fmt="yuv420p", size=SIZE, **options: str):
    video = film.add_stream(codec, rate=RATE, options={"g": "9", "bf": "0", **options})
    video.width, video.height, video.pix_fmt = *size, pix_fmt
    return video


def write_film(path: Path, *, sound: bool = False, movflags: str = "", times=range(FRAMES), **about) -> Path:
    options = {"movflags": movflags} if movflags else {}
    with av.open(str(path), "w", format=FORMATS[path.suffix], options=options) as film:
        video = picture(film, **about)
        tone = film.add_stream("aac", rate=48000, layout="mono") if sound else None
        put_frames(film, video, times=times)
        if tone is not None:
            put_tone(film, tone)
    return path


def without_packets(path: Path, gone: range) -> None:
    """The film once more, without some packets of its pictures."""
    whole = path.rename(path.with_stem("whole"))
    with av.open(str(whole)) as film, av.open(str(path), "w") as made:
        stream = film.streams.video[0]
        place = made.add_stream_from_template(stream)
        for index, packet in enumerate(film.demux(stream)):
            if packet.size and index not in gone:
                packet.stream = place
                made.mux(packet)


def count(path: Path) -> int:
    with av.open(str(path)) as film:
        return sum(1 for _ in film.decode(film.streams.best("video")))


def color(colorizer, source: Path, out: Path):
    (outcome,) = color_files(colorizer, Inputs([str(source)], out))
    return outcome


def left_in(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file()]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "pixels", [{}, slow({"codec": "libx265", "bf": "2", "x265-params": "log-level=none"})]
)
def test_a_whole_film_is_whole(colorizer, tmp_path, suffix, pixels):
    film = write_film(tmp_path / f"film{suffix}", sound=True, **pixels)
    outcome = color(colorizer, film, tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("colored", "")
    assert count(outcome.target.path) == FRAMES


@pytest.mark.slow
def test_a_film_with_pauses_is_whole(colorizer, tmp_path):
    pauses = np.cumsum([0, *(1 + (index % 3 == 0) * 9 for index in range(FRAMES - 1))]).tolist()
    for suffix in FORMATS:
        outcome = color(colorizer, write_film(tmp_path / f"film{suffix}", times=pauses), tmp_path / "out")
        assert (outcome.kind, outcome.text) == ("colored", "")
        assert count(outcome.target.path) == FRAMES


def test_a_cover_is_not_the_film(colorizer, tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as film:
        cover = film.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        video = picture(film)
        frame = av.VideoFrame.from_ndarray(scene(0, (32, 32)), format="rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        film.mux(cover.encode(frame))
        film.mux(cover.encode(None))
        put_frames(film, video)
    outcome = color(colorizer, path, tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("colored", "without its cover")
    assert count(outcome.target.path) == FRAMES


def test_sound_with_a_cover_is_no_film(colorizer, tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as film:
        cover = film.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = film.add_stream("aac", rate=48000, layout="mono")
        frame = av.VideoFrame.from_ndarray(scene(0, (32, 32)), format="rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        film.mux(cover.encode(frame))
        film.mux(cover.encode(None))
        put_tone(film, sound)
    outcome = color(colorizer, path, tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("failed", "its only picture is a cover: an audio file")
    assert not left_in(tmp_path / "out")


@pytest.mark.parametrize(("suffix", "movflags"), [(".mkv", ""), (".mp4", "faststart"), (".mov", "faststart")])
def test_a_film_that_is_cut_is_coloured_as_far_as_it_goes(colorizer, tmp_path, suffix, movflags):
    film = write_film(tmp_path / f"film{suffix}", sound=True, movflags=movflags)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    outcome = color(colorizer, film, tmp_path / "out")
    made = count(outcome.target.path)
    assert outcome.kind == "partial"
    assert FRAMES // 4 < made < FRAMES * 3 // 4
    assert outcome.text.startswith(f"{FRAMES - made} of {FRAMES} frames (")
    assert "at its end" in outcome.text


@pytest.mark.parametrize("movflags", ["faststart", slow("")])
def test_a_film_whose_index_is_cut_is_no_audio_file_and_nothing_is_lost_in_silence(
    colorizer, tmp_path, movflags
):
    film = write_film(tmp_path / "film.mp4", sound=True, movflags=movflags)
    whole = film.read_bytes()
    start = whole.index(b"moov") - 4
    length = int.from_bytes(whole[start : start + 4], "big")
    kinds = set()
    for share in (0.01, 0.1, 0.3, 0.6, 0.9, 0.99):
        film.write_bytes(whole[: start + int(length * share)])
        outcome = color(colorizer, film, tmp_path / f"{share}")
        kinds.add(outcome.kind)
        assert "its index (moov) is cut" in outcome.text
    assert kinds == ({"failed"} if movflags else {"failed", "partial"})


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "its index (moov) is missing: it was cut"),
        (lambda data: b"Dear photo" * 100, "no film that can be read"),
        (lambda data: b"#EXTM3U\n#EXTINF:5\nfilm.mp4\n", "no film that can be read"),
    ],
)
def test_what_has_no_film_in_it_is_one_line(colorizer, tmp_path, cut, told):
    film = write_film(tmp_path / "film.mp4")
    film.write_bytes(cut(film.read_bytes()))
    outcome = color(colorizer, film, tmp_path / "out")
    assert outcome.kind == "failed"
    assert told in outcome.text
    assert "\n" not in outcome.text
    assert not left_in(tmp_path / "out")


@pytest.mark.slow
def test_packets_that_are_missing_in_the_middle_are_counted(colorizer, tmp_path):
    for suffix, gone in ((".mkv", range(17, 20)), (".mp4", range(17, 22))):
        film = write_film(tmp_path / f"film{suffix}")
        without_packets(film, gone)
        outcome = color(colorizer, film, tmp_path / "out")
        assert outcome.kind == "partial"
        assert outcome.text.startswith(f"{len(gone)} of {FRAMES} frames (")
        assert outcome.text.endswith(f" s) are missing: {len(gone)} after 0:00.67")
        assert count(outcome.target.path) == FRAMES - len(gone)


@pytest.mark.parametrize("suffix", [".mkv", slow(".mp4"), slow(".mov")])
def test_damage_in_the_middle_is_counted(colorizer, tmp_path, suffix):
    film = write_film(tmp_path / f"film{suffix}")
    data = bytearray(film.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    film.write_bytes(data)
    outcome = color(colorizer, film, tmp_path / "out")
    made = count(outcome.target.path)
    assert outcome.kind == "partial"
    assert FRAMES - 18 <= made < FRAMES
    assert outcome.text.startswith(f"{FRAMES - made} of {FRAMES} frames (")


def test_a_film_whose_beginning_cannot_be_decoded_starts_later(colorizer, tmp_path):
    film = write_film(tmp_path / "film.mkv", bf="2")
    without_packets(film, range(1))
    outcome = color(colorizer, film, tmp_path / "out")
    assert outcome.kind == "partial"
    assert "7 that cannot be decoded" in outcome.text
    assert count(outcome.target.path) == FRAMES - 8


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "subrip"), slow(".mp4", "mov_text")])
def test_languages_titles_flags_chapters_and_subtitles_stay(colorizer, tmp_path, suffix, codec):
    path, flags = tmp_path / f"film{suffix}", av.stream.Disposition
    chapters = [
        {"id": i, "start": i * 1000, "end": 1000 + i * 1000, "time_base": Fraction(1, 1000),
         "metadata": {"title": title}}
        for i, title in enumerate(("Ankunft", "Abfahrt"))
    ]  # fmt: skip
    with av.open(str(path), "w", format=FORMATS[suffix]) as film:
        film.metadata["title"] = "Größe"
        film.set_chapters(chapters)
        video = picture(film)
        video.metadata["title"] = "main"
        sounds = [film.add_stream("aac", rate=48000, layout="mono") for _ in range(2)]
        texts = [film.add_mux_stream(codec, time_base=Fraction(1, 1000)) for _ in range(2)]
        for stream, language in zip((*sounds, *texts), ("deu", "eng", "ita", "spa"), strict=True):
            stream.metadata.update(language=language, title=f"in {language}")
        sounds[0].disposition, sounds[1].disposition = flags.default, flags.comment
        texts[0].disposition, texts[1].disposition = flags(0), flags.forced | flags.default
        if suffix == ".mkv":
            film.add_attachment("a.ttf", "application/x-truetype-font", b"font" * 100)
        put_frames(film, video)
        for stream in sounds:
            put_tone(film, stream)
        for stream in texts:
            put_text(film, stream, b"hello" if codec == "subrip" else b"\0\5hello")
    outcome = color(colorizer, path, tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("colored", "")

    def about(path: Path) -> dict:
        with av.open(str(path)) as film:
            shown = [
                (one.type, one.language, one.metadata.get("title", one.metadata.get("name")), one.disposition)
                for one in film.streams
            ]
            packets = [one for one in film.demux(film.streams.subtitles[1]) if b"hello" in bytes(one)]
            texts = [(bytes(one), one.pts * one.time_base) for one in packets]
            titles = [
                (one["start"] * one["time_base"], one["end"] * one["time_base"], one["metadata"])
                for one in film.chapters()
            ]
            return {"title": film.metadata["title"], "streams": shown, "chapters": titles, "texts": texts}

    assert about(outcome.target.path) == about(path)
    assert len(about(path)["streams"]) == 6
    assert len(about(path)["chapters"]) == 2
    assert len(about(path)["texts"]) == 2


def test_subtitles_that_the_format_does_not_take_are_named(colorizer, tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w", format="matroska") as film:
        video, text = picture(film), film.add_mux_stream("subrip", time_base=Fraction(1, 1000))
        put_frames(film, video)
        put_text(film, text, b"hello")
    outcome = color(colorizer, path.rename(path.with_suffix(".mp4")), tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("colored", "without its subtitle (srt)")
    assert count(outcome.target.path) == FRAMES


def test_a_title_in_another_encoding_stays(colorizer, tmp_path):
    from streamgan.inference.film import BYTES

    path, title = tmp_path / "film.mp4", b"Gr\xf6\xdfe".decode("utf-8", "surrogateescape")
    with av.open(str(path), "w", **BYTES) as film:
        film.metadata["title"] = title
        put_frames(film, picture(film))
    outcome = color(colorizer, path, tmp_path / "out")
    assert outcome.kind == "colored", outcome.text
    with av.open(str(outcome.target.path), **BYTES) as film:
        assert film.metadata["title"] == title


@pytest.mark.parametrize(
    ("about", "told"),
    [
        (
            {"x264-params": "interlaced=1:tff=1", "pix_fmt": "yuv420p10le"},  # becomes HEVC
            "interlaced pictures become whole frames",
        ),
        (
            {"size": (64, 46), "codec": "mpeg2video", "flags": "+ildct+ilme"},
            "interlaced pictures become whole frames",
        ),
        ({"pix_fmt": "yuv420p10le", "color_trc": "smpte2084"}, "HDR keeps its curve (PQ)"),
        slow({"pix_fmt": "yuv420p10le", "color_trc": "arib-std-b67"}, "HDR keeps its curve (HLG)"),
    ],
)
def test_what_is_not_as_it_was_is_said(colorizer, tmp_path, about, told):
    outcome = color(colorizer, write_film(tmp_path / "film.mov", **about), tmp_path / "out")
    assert outcome.kind == "colored"
    assert told in outcome.text
    with av.open(str(tmp_path / "film.mov")) as given, av.open(str(outcome.target.path)) as made:
        before, after = given.streams.video[0], made.streams.video[0]
        assert after.color_trc == before.color_trc


@pytest.mark.parametrize("order", ["tff", slow("bff")])
def test_an_interlaced_film_stays_so(colorizer, tmp_path, order):
    source = write_film(tmp_path / "film.mkv", size=(64, 64), **{"x264-params": f"{order}=1"})
    outcome = color(colorizer, source, tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("colored", "")

    def about(path: Path) -> tuple:
        with av.open(str(path)) as film:
            stream = film.streams.video[0]
            return stream.codec_context.field_order, {one.interlaced_frame for one in film.decode(stream)}

    assert about(outcome.target.path) == about(source)
    assert about(source)[1] == {True}


def test_a_mirrored_film_stays_mirrored_and_is_seen_upright(colorizer, tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as film:
        video = picture(film)
        video.set_display_rotation(0, hflip=True)
        put_frames(film, video)
    seen, predict = [], colorizer.predict
    monkeypatch.setattr(colorizer, "predict", lambda photos: (seen.extend(photos), predict(photos))[1])
    outcome = color(colorizer, path, tmp_path / "out")

    def matrix(path: Path) -> tuple[bytes, np.ndarray]:
        with av.open(str(path)) as film:
            frame = next(film.decode(video=0))
            return bytes(frame.side_data.get("DISPLAYMATRIX")), frame.to_ndarray(format="rgb24")

    assert matrix(outcome.target.path)[0] == matrix(path)[0]
    assert np.abs(seen[0].pixels.astype(int) - matrix(path)[1][..., 0]).max() <= 1


def test_frames_that_change_their_size_are_fitted_and_counted(colorizer, tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w", format="matroska") as film:
        video = picture(film, "mjpeg", pix_fmt="yuvj420p")
        put_frames(film, video)
        other = av.CodecContext.create("mjpeg", "w")
        other.width, other.height, other.pix_fmt, other.time_base = 96, 80, "yuvj420p", Fraction(1, RATE)
        frame = av.VideoFrame.from_ndarray(scene(0, (96, 80)), format="rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = FRAMES, Fraction(1, RATE)
        for packet in other.encode(frame):
            packet.stream = video
            film.mux(packet)
    outcome = color(colorizer, path, tmp_path / "out")
    assert (outcome.kind, outcome.text) == (
        "colored",
        "1 frames of another size are fitted to that of the first",
    )
    assert count(outcome.target.path) == FRAMES + 1


def test_a_pipe_that_is_called_like_a_film_is_refused_at_once(colorizer, tmp_path):
    os.mkfifo(tmp_path / "film.mp4")
    outcome = color(colorizer, tmp_path / "film.mp4", tmp_path / "out")
    assert (outcome.kind, outcome.text) == ("failed", "is not a regular file")


def test_a_film_may_have_a_name_as_long_as_names_get(colorizer, tmp_path):
    film = write_film(tmp_path / "film.mkv").rename(tmp_path / f"{'f' * 251}.mkv")
    outcome = color(colorizer, film, tmp_path / "out")
    assert outcome.kind == "colored", outcome.text


def test_colorize_names_a_film_that_is_not_whole_and_exits_with_1(colorizer, tmp_path, run_as_program):
    film = write_film(tmp_path / "film.mkv")
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    whole = write_film(tmp_path / "whole.mkv")
    model = colorizer.weights.path
    done = run_as_program("colorize", film, whole, "--model", model, "--out", tmp_path / "out", "--json")
    report = json.loads(done.stdout)
    assert done.code == report["exit_code"] == 1
    assert (report["num_colored"], report["num_failed"]) == (1, 1)
    assert "frames" in report["failed"][str(film)]
    assert "film.mkv: coloured in part (" in done.stderr
    assert sorted(path.name for path in left_in(tmp_path / "out")) == ["film.mkv", "whole.mkv"]
