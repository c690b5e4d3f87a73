"""Photos that are not coloured, or not whole: in colour already, toned, cut, damaged."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from image_fixtures import gray_png
from photo_fixtures import camera_exif
from PIL import Image, ImageOps
from test_colorize import lightness

from streamgan.core.errors import CheckFailed
from streamgan.inference import one_file
from streamgan.inference.salvage import completed
from streamgan.inference.tint import is_in_color

pytest_plugins = ["colorize_fixtures"]


def sepia(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(image, "#1a1008", "#fff4dc", "#a08860")


def noisy(image: Image.Image) -> Image.Image:
    """As a scanner gives a gray print: each channel with its own noise, then a JPEG of middling quality."""
    pixels = np.asarray(image.convert("RGB"), int) + np.random.default_rng(0).normal(
        0, 4, (*image.size[::-1], 3)
    )
    scan, buffer = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), io.BytesIO()
    scan.save(buffer, "JPEG", quality=70)
    return Image.open(buffer)


@pytest.mark.parametrize("seed", range(8))
def test_gray_and_toned_photos_are_not_in_colour(photo, gray, seed):
    one = gray(seed, (480, 400))
    assert not is_in_color(np.asarray(one))
    for toned in (
        one.convert("RGB"),
        sepia(one),
        ImageOps.colorize(one, "#001030", "#e0f0ff"),
        noisy(sepia(one)),
    ):
        assert not is_in_color(np.asarray(toned.convert("RGB")))
    assert is_in_color(np.asarray(photo(seed, (480, 400))))
    muted = Image.blend(photo(seed, (480, 400)), one.convert("RGB"), 0.5)
    assert is_in_color(np.asarray(muted))


@pytest.mark.parametrize("seed", range(8))
def test_paper_that_yellowed_unevenly_is_not_in_colour(gray, seed):
    one = np.asarray(gray(seed, (480, 400)).convert("RGB"), np.float32)
    left_to_right = np.linspace(0.02, 0.4, 480)[None, :, None] * np.array([0.2, 0.4, 1.0])
    assert not is_in_color((one * (1 - left_to_right)).astype(np.uint8))


def test_a_small_stamp_is_no_colour_and_a_larger_thing_is_one(gray):
    one = gray(1, (400, 400)).convert("RGB")
    one.paste((200, 20, 20), (350, 350, 380, 380))  # half a percent
    assert not is_in_color(np.asarray(one))
    one.paste((200, 20, 20), (200, 200, 280, 280))
    assert is_in_color(np.asarray(one))


def test_a_photo_in_colour_comes_back_to_the_byte_unless_told_otherwise(run, photo, gray, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    photo(1).save(folder / "color.jpg", exif=camera_exif(6), quality=80)
    photo(2).save(folder / "color.tif", save_all=True, append_images=[photo(3)])
    sepia(gray(3)).save(folder / "sepia.jpg", quality=95)
    result = run(folder, "--report", tmp_path / "r.jsonl", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["num_colored"], told["num_left_alone"]) == (1, 2)
    for name in ("color.jpg", "color.tif"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
        assert f"{name}: in colour already: copied as it is" in result.stderr
    assert "2 in colour already, with results as they were; --recolor colours them" in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert sorted(line["outcome"] for line in lines) == ["colored", "left_alone", "left_alone"]
    told = json.loads(run(folder, "--recolor", "--json").stdout)
    assert (told["num_colored"], told["num_left_alone"]) == (3, 0)
    assert (tmp_path / "out" / "color.jpg").read_bytes() != (folder / "color.jpg").read_bytes()


def test_a_cut_photo_in_colour_is_no_whole_one(run, photo, tmp_path):
    data = encoded(photo(1, (400, 300)), "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 9 // 10])
    result = run(tmp_path / "a.jpg", "--salvage")
    assert isinstance(result.exception, CheckFailed)
    assert "coloured in part" in result.stderr
    assert "of 300 rows are missing; in colour already: copied as it is" in result.stderr


def test_a_photo_in_colour_that_can_no_longer_be_read_fails_alone(run, photo, gray, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    photo(1).save(tmp_path / "in" / "a.png")
    gray(2).save(tmp_path / "in" / "b.png")

    def gone(path, *_):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("streamgan.inference.one_file.open", gone, raising=False)
    result = run(tmp_path / "in")
    assert "a.png: not coloured (cannot be read (Input/output error))" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


def test_a_photo_that_memory_does_not_suffice_to_write_fails_alone(run, gray, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        gray(1).save(tmp_path / "in" / name)
    real = one_file.save_pages

    def full(pages, file, *arguments, **options):
        if "a.png" in file.name:
            raise MemoryError
        real(pages, file, *arguments, **options)

    monkeypatch.setattr(one_file, "save_pages", full)
    assert "a.png: not coloured (not enough memory)" in run(tmp_path / "in").stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


def test_a_photo_in_colour_takes_another_format_without_other_colours(run, photo, gray, tmp_path):
    photo(1).save(tmp_path / "a.png", dpi=(300, 300))
    photo(2).quantize(200).save(tmp_path / "b.gif")
    result = run(tmp_path / "a.png", "--format", "tiff")
    assert "a.png: in colour already: saved as TIFF, not coloured" in result.stderr
    with Image.open(tmp_path / "out" / "a.tif") as made:
        assert np.array_equal(np.asarray(made), np.asarray(photo(1)))
        assert made.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert run(tmp_path / "b.gif").exit_code == 0
    same = Image.open(tmp_path / "b.gif").convert("RGB")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "b.png")), np.asarray(same))


def test_pages_in_colour_stay_among_those_that_are_coloured(run, photo, gray, tmp_path):
    photo(1).save(tmp_path / "a.tif", save_all=True, append_images=[gray(2, (96, 80)), photo(3)])
    result = run(tmp_path / "a.tif")
    assert "a.tif: in colour already (page 1, 3)" in result.stderr
    with Image.open(tmp_path / "out" / "a.tif") as made:
        assert np.array_equal(np.asarray(made), np.asarray(photo(1)))
        made.seek(1)
        assert np.ptp(np.asarray(made, int), axis=2).mean() > 2


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_cut_jpeg_is_coloured_as_far_as_it_goes(run, gray, tmp_path, options):
    whole = gray(1, (400, 300))
    data = encoded(whole, "JPEG", quality=95, **options)
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    assert "part of the picture is missing" in run(tmp_path / "a.jpg").stderr
    assert list((tmp_path / "out").iterdir()) == []
    result = run(tmp_path / "a.jpg", "--salvage", "--report", tmp_path / "r.jsonl")
    assert isinstance(result.exception, CheckFailed)
    (line,) = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    assert line["outcome"] == "partial"
    made = lightness(Image.open(tmp_path / "out" / "a.jpg"))
    there = 100
    if not options.get("progressive"):
        missing = int(line["notes"][0].split(" of 300 rows are missing")[0])
        assert 50 < missing < 200
        there = 300 - missing
    assert np.abs(made - lightness(whole))[: there - 8].mean() < 3


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_cut_png_is_coloured_as_far_as_it_goes(run, gray, tmp_path, mode, interlaced):
    whole = gray(1, (201, 150)).convert(mode)
    data = encoded(whole, "PNG", dpi=(300, 300))
    if interlaced:
        data = adam7(np.asarray(gray(1, (201, 150))))
        whole = gray(1, (201, 150))
    (tmp_path / "a.png").write_bytes(data[: len(data) * 2 // 3])
    assert isinstance(run(tmp_path / "a.png").exception, CheckFailed)
    result = run(tmp_path / "a.png", "--salvage")
    assert "coloured in part" in result.stderr
    with Image.open(tmp_path / "out" / "a.png") as made:
        assert made.size == (201, 150)
        if not interlaced:
            missing = int(result.stderr.split(" of 150 rows are missing")[0].rpartition("(")[2])
            assert 0 < missing < 120
            assert made.info["dpi"][0] == pytest.approx(300, abs=0.1)
            assert np.abs(lightness(made) - lightness(whole))[: 150 - missing].mean() <= 1


def adam7(levels_HW: np.ndarray) -> bytes:
    """Gray as an interlaced PNG, which Pillow does not write."""
    starts = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, right, down in starts for row in levels_HW[y::down, x::right]
    )
    png = bytearray(gray_png(levels_HW, 8)[:33])
    png[28] = 1
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    packed = zlib.compress(rows)
    for kind, body in ((b"IDAT", packed), (b"IEND", b"")):
        png += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return bytes(png)


def test_a_png_that_is_damaged_in_the_middle_keeps_the_rows_before(run, gray, tmp_path):
    data = bytearray(encoded(gray(1, (201, 150)), "PNG", compress_level=1))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    (tmp_path / "a.png").write_bytes(data)
    assert isinstance(run(tmp_path / "a.png").exception, CheckFailed)
    assert "rows are missing" in run(tmp_path / "a.png", "--salvage").stderr


def test_what_is_no_picture_or_too_large_cannot_be_salvaged(gray):
    data = encoded(gray(1, (300, 200)), "JPEG")
    assert completed(data[: len(data) // 2], 10**6) is not None
    assert completed(data[: len(data) // 2], 1000) is None
    assert completed(b"no photo", 10**6) is None
    assert completed(encoded(gray(1), "PNG")[:45], 10**6) is None
