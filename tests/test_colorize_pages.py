"""Files of several pictures: every page of a TIFF and every frame of an animation comes out in colour."""

import json
import zlib

import numpy as np
import pytest
import tifffile
from marks import slow
from photo_fixtures import camera_exif, sixteen, swapped_profile
from PIL import Image, TiffImagePlugin
from test_colorize import lightness

from streamgan.core.errors import CheckFailed
from streamgan.inference import deep, pipeline

pytest_plugins = ["colorize_fixtures"]


def pages_of(path) -> list[Image.Image]:
    with Image.open(path) as image:
        found = []
        for index in range(image.n_frames):
            image.seek(index)
            page = image.copy()
            page.info["tags"], page.info["icc_profile"] = dict(image.getexif()), image.tag_v2.get(34675)
            found.append(page)
        return found


def spread(image: Image.Image) -> float:
    return float(np.ptp(np.asarray(image.convert("RGB"), int), axis=2).mean())


def test_every_page_of_a_tiff_is_coloured_with_its_own_metadata(run, gray, tmp_path):
    pages = [gray(0), sixteen(gray(1, (50, 90))), gray(2, (90, 50)).convert("RGB")]
    pages[2].info["icc_profile"] = swapped_profile()
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "a.tif", True) as writer:
        for index, page in enumerate(pages):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[270] = f"page {index}"
            given = {"icc_profile": swapped_profile()} if index == 2 else {}
            page.save(writer, "TIFF", tiffinfo=tags, dpi=(100 + index, 100), **given)
            writer.newFrame()
    writer.finalize = lambda: None  # it ends the file once more when it is collected
    result = run(tmp_path / "a.tif")
    assert result.exit_code == 0, result.output
    assert "only the first" not in result.stderr
    made = pages_of(tmp_path / "out" / "a.tif")
    assert [page.size for page in made] == [page.size for page in pages]
    assert [page.info["tags"][270] for page in made] == ["page 0", "page 1", "page 2"]
    assert [round(page.info["dpi"][0]) for page in made] == [100, 101, 102]
    assert [page.info.get("icc_profile") for page in made] == [None, None, swapped_profile()]
    assert all(spread(page) > 2 for page in made)
    assert np.abs(lightness(made[0]) - lightness(pages[0])).mean() <= 1
    read = [page.asarray() for page in tifffile.TiffFile(tmp_path / "out" / "a.tif").pages]
    assert [page.dtype for page in read] == [np.uint8, np.uint16, np.uint8]
    assert np.array_equal(read[0], np.asarray(made[0]))


def test_a_tiff_of_many_strips_and_pages_reads_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(deep, "_STRIP_BYTES", 1000)
    rng, pages = np.random.default_rng(0), []
    for shape, kind in (((61, 40, 3), np.uint8), ((9, 300, 4), np.uint16), ((1, 1, 3), np.uint8)):
        pages.append(rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True))
    with open(tmp_path / "a.tif", "w+b") as file:
        writer = deep.TiffWriter(file)
        for page in pages:
            bands = [page[top : top + 7] for top in range(0, len(page), 7)]
            writer.add(page.shape, bands, profile=None, about=deep.Metadata(exif=camera_exif()[6:]))
    for page, read in zip(pages, tifffile.TiffFile(tmp_path / "a.tif").pages, strict=True):
        assert np.array_equal(read.asarray(), page)
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(2)
        assert image.getexif()[0x010F] == "Kamera"
    monkeypatch.setattr(deep, "_MOST_BYTES", 5000)
    with open(tmp_path / "b.tif", "w+b") as file, pytest.raises(ValueError, match="has 4 GB at most"):
        deep.TiffWriter(file).add(pages[0].shape, [pages[0]], profile=None, about=deep.Metadata())


def test_a_page_that_cannot_be_read_fails_the_file_and_leaves_nothing(run, gray, tmp_path):
    gray(0).save(tmp_path / "a.tif", save_all=True, append_images=[gray(1)], compression="tiff_deflate")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    second = zlib.compress(gray(1).tobytes())[:10]
    at = data.rfind(second[:4])
    data[at : at + 200] = bytes(200)
    (tmp_path / "a.tif").write_bytes(data)
    result = run(tmp_path / "a.tif")
    assert isinstance(result.exception, CheckFailed)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png", slow(".avif")])
def test_every_frame_of_an_animation_is_coloured_for_its_time(run, gray, tmp_path, ending):
    frames, durations = [gray(seed) for seed in range(3)], [100, 200, 300]
    more = {"lossless": True} if ending == ".webp" else {}
    path = tmp_path / f"a{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, **more)
    result = run(path)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / f"a{'.png' if ending == '.gif' else ending}") as made:
        assert made.n_frames == 3
        assert made.info.get("loop", 0) == 0
        for index, frame in enumerate(frames):
            made.seek(index)
            made.load()
            assert made.info["duration"] == durations[index]
            assert spread(made) > 2
            assert np.abs(lightness(made) - lightness(frame)).mean() < 3  # lossy
    result = run(path, "--format", "jpeg")
    assert "only the first of 3 pictures" in result.stderr
    result = run(path, "--max-pixels", 72 * 60 * 2)
    assert "3 x 72 x 60 pixels, over the cap" in result.stderr


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.ppm", "deep.png", "deep.tif"])
def test_a_large_photo_is_coloured_in_bands_to_the_same_result(run, gray, tmp_path, monkeypatch, name):
    image = gray(1, (200, 160))
    image = sixteen(image) if name.startswith("deep") else image.convert("RGBA" if name == "a.png" else "RGB")
    image.save(tmp_path / name, exif=camera_exif(6) if name == "a.jpg" else b"")
    assert run(tmp_path / name).exit_code == 0
    whole = (tmp_path / "out" / name).read_bytes()
    for module in ("streamgan.inference.colorizer", "streamgan.core.images"):
        monkeypatch.setattr(f"{module}._BAND_PIXELS", 200 * 30)
    monkeypatch.setattr(pipeline, "_PORTION_PIXELS", 1)
    monkeypatch.setattr(pipeline, "_color_portion", lambda *_: iter(()))
    assert json.loads(run(tmp_path / name, "--json").stdout)["num_colored"] == 1
    assert (tmp_path / "out" / name).read_bytes() == whole
