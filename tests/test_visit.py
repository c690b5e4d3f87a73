"""What a visitor of the page gets: the results of `streamgan colorize`, one download, reasons in words."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from test_colorize import save_generator

from streamgan.cli.colorize import colorize
from streamgan.inference.colorizer import Colorizer
from streamgan.inference.comparison import comparison
from streamgan.inference.photo import Limits
from streamgan.inference.visit import View, Visit


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: save_generator(folder / f"{name}.safetensors", chroma=chroma)
        for name, chroma in (("soft", 0.1), ("vivid", -0.2))
    }


@pytest.fixture
def visit(models, tmp_path):
    return Visit(tmp_path / "visit", {"soft": Colorizer.load(models["soft"], device="cpu")})


@pytest.fixture
def uploads(photo, tmp_path):
    """A JPEG, a TIFF of two pages, a GIF, and what is no photo."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    gray = [photo(seed, (90, 70)).convert("L") for seed in range(4)]
    gray[0].save(folder / "old photo.jpg", quality=95)
    gray[1].save(folder / "scan.tif", save_all=True, append_images=[gray[2]])
    gray[3].save(folder / "drawing.gif")
    (folder / "letter.jpg").write_text("Dear photo")
    return {path.name: str(path) for path in folder.iterdir()}


def color(visit: Visit, uploads: list[str], saturation: float = 1.0) -> None:
    visit.keep(uploads)
    for upload in uploads:
        visit.color(upload, saturation)


def test_the_download_is_what_the_command_writes_and_a_bad_file_stops_no_other(
    visit, models, uploads, tmp_path
):
    color(visit, list(uploads.values()))
    assert visit.failed == {uploads["letter.jpg"]: "not an image that can be read"}
    given = [path for name, path in uploads.items() if name != "letter.jpg"]
    words = [*given, "--model", str(models["soft"]), "--out", str(tmp_path / "out"), "--recolor"]
    assert CliRunner().invoke(colorize, words).exit_code == 0
    archive = visit.download()
    assert archive is not None
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        assert sorted(names) == ["drawing.png", "old photo.jpg", "scan.tif"]
        assert all(packed.read(name) == (tmp_path / "out" / name).read_bytes() for name in names)
        packed.extract("scan.tif", tmp_path)
    with Image.open(tmp_path / "scan.tif") as scan:
        assert scan.n_frames == 2


def test_one_photo_is_downloaded_as_itself(visit, uploads):
    color(visit, [uploads["old photo.jpg"], uploads["letter.jpg"]])
    file = visit.download()
    assert file is not None
    assert file.name == "old photo.jpg"
    with Image.open(file) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (90, 70))


def test_the_saturation_moves_without_the_generator(visit, uploads, monkeypatch):
    color(visit, [uploads["scan.tif"]])
    (given,) = visit.photos.values()
    before = given.views["soft"]
    monkeypatch.setattr(Colorizer, "predict", None)
    color(visit, [uploads["scan.tif"]], saturation=0)
    with Image.open(visit.download()) as image:
        gray = np.asarray(image.convert("RGB"), int)
    assert np.ptp(gray, axis=2).max() <= 1
    after = given.views["soft"]
    assert after.gray == before.gray
    assert after.color != before.color  # a browser would keep the old one
    assert not before.color.exists()


def test_several_models_are_folders_of_the_download(models, uploads, tmp_path):
    colorizers = {name: Colorizer.load(path, device="cpu") for name, path in models.items()}
    visit = Visit(tmp_path / "visit", colorizers)
    color(visit, [uploads["old photo.jpg"]])
    with zipfile.ZipFile(visit.download()) as packed:
        assert packed.namelist() == ["soft/old photo.jpg", "vivid/old photo.jpg"]
        assert packed.read("soft/old photo.jpg") != packed.read("vivid/old photo.jpg")


def test_photos_of_one_name_are_all_there(visit, uploads, photo, tmp_path):
    (tmp_path / "more").mkdir()
    photo(9).save(tmp_path / "more" / "old photo.jpg")
    color(visit, [uploads["old photo.jpg"], str(tmp_path / "more" / "old photo.jpg")])
    with zipfile.ZipFile(visit.download()) as packed:
        assert packed.namelist() == ["old photo.jpg", "old photo-2.jpg"]
        assert packed.read("old photo.jpg") != packed.read("old photo-2.jpg")


def test_what_is_taken_back_is_gone(visit, uploads):
    color(visit, [uploads["old photo.jpg"], uploads["letter.jpg"], uploads["drawing.gif"]])
    folder = visit.photos[uploads["old photo.jpg"]].folder
    color(visit, [uploads["drawing.gif"]])
    assert list(visit.photos) == [uploads["drawing.gif"]]
    assert visit.failed == {}
    assert not folder.exists()
    color(visit, [])
    assert visit.download() is None
    visit.close()
    assert not visit.folder.exists()


def test_a_photo_with_too_many_pixels_and_a_full_disk_are_told_in_words(
    models, uploads, tmp_path, monkeypatch
):
    colorizers = {"soft": Colorizer.load(models["soft"], device="cpu")}
    small = Visit(tmp_path / "small", colorizers, Limits(max_pixels=1000))
    color(small, [uploads["old photo.jpg"]])
    assert "90 x 70 pixels, over the cap of 1000" in small.failed[uploads["old photo.jpg"]]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "visit" / "0" / "old photo.jpg"))

    visit = Visit(tmp_path / "visit", colorizers)
    monkeypatch.setattr("streamgan.inference.visit.save_pages", full)
    color(visit, [uploads["old photo.jpg"]])
    assert visit.failed == {uploads["old photo.jpg"]: "No space left on device"}
    assert visit.photos == {}
    assert list(visit.folder.iterdir()) == []


def test_names_of_files_are_text_in_the_comparison(tmp_path):
    view = View(tmp_path / "a b.jpg", tmp_path / "c.jpg", (30, 20))
    html = comparison('<script>alert("1")</script>.jpg', {"<b>": view})
    assert "<script>" not in html
    assert "<b>" not in html
    assert not re.search(r'alt="[^"]*alert\("', html)
    assert f"gradio_api/file={tmp_path}/a%20b.jpg" in html
    assert 'type="range"' in html
    assert "aria-label=" in html


def test_the_example_is_a_gray_photo():
    with Image.open(Path(__file__).parents[1] / "streamgan" / "inference" / "example.jpg") as example:
        assert (example.mode, max(example.size)) == ("L", 600)
