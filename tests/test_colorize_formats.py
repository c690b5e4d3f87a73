"""Every format that an archive of photos has: read, coloured, and the same again or one that is named."""

import io
import json
import struct

import numpy as np
import pytest
from archive_fixtures import RESULTS, write_photo
from photo_fixtures import lightness, sixteen
from PIL import Image, UnidentifiedImageError

from streamgan.cli.options import MAX_PIXELS
from streamgan.core.errors import CheckFailed, ConfigError
from streamgan.inference import formats, photo
from streamgan.inference.formats import ENDINGS, FORMATS
from streamgan.inference.inputs import SUFFIXES

pytest_plugins = ["colorize_fixtures"]


def test_every_ending_that_is_taken_is_tried_here():
    assert set(RESULTS) | {".heic", ".heif", ".jpf", ".jpc"} == set(ENDINGS)
    assert set(ENDINGS) < set(SUFFIXES)


@pytest.mark.parametrize("ending", RESULTS)
def test_a_photo_comes_back_in_colour_with_its_luminance(run, gray, tmp_path, ending):
    source = write_photo(gray(1), tmp_path / "in" / f"a{ending}")
    result = run(tmp_path / "in")
    assert result.exit_code == 0, result.output
    (made,) = (tmp_path / "out").iterdir()
    with Image.open(made) as image:
        assert (made.name, image.format) == (f"a{RESULTS[ending][0]}", RESULTS[ending][1])
        assert image.size == (72, 60)
        spread = np.ptp(np.asarray(image.convert("RGB"), int), axis=2)
    assert ending == ".pbm" or spread.mean() > 2
    before, after = lightness(source), lightness(made)
    assert np.abs(before - after).mean() <= 1
    again = run(tmp_path / "in", "--skip-existing", "--json")
    assert json.loads(again.stdout)["num_skipped"] == 1


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".webp", ".avif"])
def test_format_is_that_of_every_result(run, gray, tmp_path, ending):
    for index, source in enumerate((".jpg", ".jpeg", ".png", ".gif", ".pgm", ".tif", ".bmp")):
        write_photo(gray(index), tmp_path / "in" / f"{index}{source}")
    name = {".jpg": "JPEG", ".tif": "TIFF"}.get(ending, ending[1:].upper())
    assert run(tmp_path / "in", "--format", name.lower(), "--suffix", "-colored").exit_code == 0
    names = {path.stem: path.suffix for path in (tmp_path / "out").iterdir()}
    assert sorted(names) == [f"{index}-colored" for index in range(7)]
    assert set(names.values()) == {ending, ".jpeg"} if ending == ".jpg" else {ending}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as image:
            assert image.format == name
        (source,) = (tmp_path / "in").glob(f"{path.stem[0]}.*")
        assert np.abs(lightness(source) - lightness(path)).mean() <= 1


def test_quality_is_that_of_lossy_results_and_refused_where_there_are_none(run, gray, tmp_path):
    source, sizes = write_photo(gray(1, (200, 160)), tmp_path / "a.jpg"), []
    for quality in (30, 95):
        assert run(source, "--quality", quality).exit_code == 0
        sizes.append((tmp_path / "out" / "a.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2
    result = run(source, "--quality", 30, "--format", "png")
    assert (result.exit_code, "has no effect with --format png" in result.output) == (2, True)


def test_sixteen_bits_stay_in_what_holds_them(run, gray, tmp_path):
    sixteen(gray(1)).save(tmp_path / "a.pgm")
    sixteen(gray(1)).save(tmp_path / "b.jp2")
    result = run(tmp_path / "a.pgm", tmp_path / "b.jp2")
    assert result.exit_code == 0, result.output
    head, pixels = (
        (tmp_path / "out" / "a.ppm").read_bytes()[:15],
        (tmp_path / "out" / "a.ppm").read_bytes()[15:],
    )
    assert head == b"P6\n72 60\n65535\n"
    deep = np.frombuffer(pixels, ">u2").reshape(60, 72, 3)
    assert len(np.unique(deep % 257)) > 100
    assert "16 bits become 8 in JP2" in result.stderr


@pytest.mark.parametrize(("first", "second"), [("a.pgm", "a.ppm"), ("a.gif", "a.png"), ("a.jp2", "a.tga")])
def test_two_sources_of_one_result_are_refused_before_anything_is_written(run, gray, tmp_path, first, second):
    more = ["--format", "png"] if first == "a.jp2" else []
    for folders in (("in", "in"), ("in", "other")):
        for folder, name in zip(folders, (first, second), strict=True):
            write_photo(gray(1), tmp_path / folders[0] / folder / "sub" / name)
        given = {tmp_path / folders[0] / folder for folder in folders}
        for inputs in (
            sorted(given),
            [tmp_path / folders[0] / "*" / "sub" / name for name in (first, second)],
        ):
            if folders[0] != folders[1] and "*" in str(inputs[0]):
                continue
            result = run(*inputs, "--recursive", *more)
            assert isinstance(result.exception, ConfigError), inputs
            told = str(result.exception)
            assert "another photo would also become" in told
            assert sum(str(path) in told for path in (tmp_path / folders[0]).rglob("a.*")) == 2
            assert not (tmp_path / "out").exists()


def huge(ending: str) -> bytes:
    """A file of few bytes that says it has 60,000 x 60,000 pixels."""
    side = 60_000
    match ending:
        case ".bmp":
            return b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        case ".gif":
            return (
                b"GIF89a"
                + struct.pack("<HHBBB", side, side, 0x80, 0, 0)
                + bytes(6)
                + b","
                + struct.pack("<HHHHB", 0, 0, side, side, 0)
                + b"\2\1\0\0;"
            )
        case ".ppm":
            return b"P6\n60000 60000\n255\n"
        case ".tga":
            return struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, side, side, 24, 0)
        case ".pcx":
            return (
                struct.pack("<4B4H", 10, 5, 1, 8, 0, 0, side - 1, side - 1).ljust(65, b"\0")
                + b"\3"
                + struct.pack("<HH", side, 1).ljust(62, b"\0")
            )
    small = io.BytesIO()
    Image.new("L", (16, 16)).save(small, FORMATS[ENDINGS[ending]].pillow)
    data, old = small.getvalue(), struct.pack(">II", 16, 16)
    assert old in data
    return data.replace(old, struct.pack(">II", side, side))


@pytest.mark.parametrize("ending", [".bmp", ".gif", ".ppm", ".tga", ".pcx", ".jp2", ".avif", ".png"])
def test_a_header_of_too_many_pixels_is_refused_before_anything_is_decoded(
    run, tmp_path, monkeypatch, ending
):
    (tmp_path / f"a{ending}").write_bytes(huge(ending))
    monkeypatch.setattr(photo, "read_photo", lambda _: pytest.fail("decoded"))
    result = run(tmp_path / f"a{ending}")
    assert isinstance(result.exception, CheckFailed)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_cap_on_pixels_is_said_and_can_be_raised(run, gray, tmp_path, monkeypatch):
    write_photo(gray(1), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    result = run(tmp_path / "a.png", "--max-pixels", 4000)
    assert "72 x 60 pixels, over the cap of 4000; raise it with --max-pixels" in result.stderr
    assert isinstance(result.exception, CheckFailed)
    assert run(tmp_path / "a.png", "--max-pixels", 5000).exit_code == 0
    assert photo.MAX_PIXELS == MAX_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # twice this is what Pillow refuses by itself
    monkeypatch.setattr(photo, "MAX_PIXELS", 4000)
    assert "far more pixels than the cap" in run(tmp_path / "a.png", "--max-pixels", 3000).stderr
    assert run(tmp_path / "a.png", "--max-pixels", 5000).exit_code == 0


def test_a_side_that_a_format_cannot_hold_is_one_line(run, tmp_path):
    Image.new("L", (16_400, 2), 99).save(tmp_path / "a.png")
    result = run(tmp_path / "a.png", "--format", "webp")
    assert isinstance(result.exception, CheckFailed)
    assert "WEBP holds 16383 pixels per side at most (got 16400 x 2)" in result.stderr


def test_what_looks_like_targa_is_one_by_its_ending_alone(run, gray, tmp_path):
    write_photo(gray(1), tmp_path / "a.tga").rename(tmp_path / "a.png")
    assert "not an image that can be read" in run(tmp_path / "a.png").stderr


def test_heic_says_what_to_install(run, tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic")
    monkeypatch.setattr(formats, "_opens_heif", lambda: False)
    result = run(tmp_path / "a.heic")
    assert "a.heic: not coloured (HEIC needs pillow-heif; pip install 'streamgan[heic]')" in result.stderr


def test_heic_comes_back_as_heic(run, gray, tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    gray(1).convert("RGB").save(tmp_path / "a.heic", quality=95)
    assert run(tmp_path / "a.heic").exit_code == 0
    with Image.open(tmp_path / "out" / "a.heic") as made:
        assert (made.format, made.size) == ("HEIF", (72, 60))
    assert np.abs(lightness(tmp_path / "a.heic") - lightness(tmp_path / "out" / "a.heic")).mean() <= 1


def test_avif_that_this_pillow_cannot_read_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(formats.features, "check", lambda name: False)

    def refused(*_, **__):
        raise UnidentifiedImageError("cannot identify <object>")

    monkeypatch.setattr(Image, "open", refused)
    (tmp_path / "a.avif").write_bytes(bytes(4) + b"ftypavif")
    with pytest.raises(ValueError, match=r"AVIF needs Pillow 11\.3"), photo.open_photo(tmp_path / "a.avif"):
        pass
