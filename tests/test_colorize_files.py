"""Many files at once: every kind comes out as what it was, broken ones are named, memory stays bounded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner
from photo_fixtures import (
    EXIF_IFD,
    EXPOSURE,
    MAKE,
    ORIENTATION,
    gray_profile,
    lightness,
    sixteen,
    sixteen_bit_pixels,
    swapped_profile,
    write_broken,
    write_mixed,
)
from PIL import Image, ImageOps
from test_colorize import error_in_levels, save_generator

import streamgan
from streamgan.cli.colorize import colorize
from streamgan.core.color import HEADS
from streamgan.core.errors import CheckFailed, ConfigError, DataError
from streamgan.inference.inputs import Inputs
from streamgan.inference.photo import read_photo
from streamgan.inference.pipeline import Handling, color_files
from streamgan.inference.profiles import color_space, srgb

FAST_COUNT = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "ema.safetensors")


@pytest.fixture
def gentle(photo):
    def make(seed: int) -> Image.Image:
        size = [(72, 60), (60, 72), (50, 50)][seed % 3]
        return Image.blend(photo(seed, size), Image.new("RGB", size, (128, 128, 128)), 0.6)

    return make


def run(*arguments: object):
    return CliRunner().invoke(colorize, [*map(str, arguments), "--recolor"])


@pytest.mark.parametrize("count", [FAST_COUNT, pytest.param(195, marks=pytest.mark.slow)])
def test_a_folder_of_everything_comes_out_as_it_was_but_in_colour(gentle, model, tmp_path, count):
    folder, out = tmp_path / "in", tmp_path / "out"
    written = write_mixed(folder, gentle, count)
    broken = write_broken(folder, gentle(0))
    arguments = (folder, "--recursive", "--model", model, "--out", out, "--device", "cpu")
    result = run(*arguments, "--json")
    assert isinstance(result.exception, CheckFailed), result.output
    report = result.exception.report
    assert (report["num_colored"], report["num_failed"]) == (count, 5)
    assert sorted(report["failed"]) == sorted(map(str, broken))
    for path in broken:
        assert f"{path}: not coloured (" in result.stderr
    made = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    assert made == set(written)
    off = []
    for place, kind in written.items():
        check_kept(folder / place, out / place, kind)
        before, after = lightness(folder / place), lightness(out / place)
        assert before.shape == after.shape
        off.append(np.abs(before - after).mean())
        assert off[-1] < 1.5, (place, off[-1])
    assert np.mean(off) <= 1

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = run(*arguments, "--skip-existing", "--json").exception.report
    assert (again["num_colored"], again["num_skipped"], again["num_failed"]) == (0, count, 5)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def check_kept(source: Path, target: Path, kind: str) -> None:
    """Size, mode, depth, orientation, profile, EXIF."""
    with open(source, "rb") as file, Image.open(file) as given, Image.open(target) as made:
        was, exif = given.getexif(), made.getexif()
        exposure = was.get_ifd(EXIF_IFD).get(EXPOSURE)
        assert exif.get_ifd(EXIF_IFD).get(EXPOSURE) == exposure
        upright = ImageOps.exif_transpose(given)
        assert (made.format, made.size) == (given.format, upright.size)
        transparent = "alpha" in kind or kind == "palette"
        assert made.mode == ("RGBA" if transparent else "RGB"), kind
        if "alpha" in kind:
            assert made.getchannel("A").tobytes() == given.convert("RGBA").getchannel("A").tobytes()
        profile = made.info.get("icc_profile")
        if kind == "gray profile":
            assert color_space(profile) == "RGB"
        else:
            assert profile == given.info.get("icc_profile")
        assert exif.get(ORIENTATION, 1) == 1
        if kind in ("turned", "tiff", "16 bit tiff", "png"):
            assert exposure == pytest.approx(0.01)
            assert exif[MAKE] == "Kamera"
        if kind != "bilevel":
            pixels = np.asarray(made.convert("RGB"), int)
            assert (pixels.max(2) - pixels.min(2)).mean() > 2, kind
    if "16 bit" in kind:
        deep = sixteen_bit_pixels(target)
        assert deep is not None
        assert deep.shape[-1] == 3
        assert len(np.unique(deep % 257)) > 100  # not 8 bits that were made wider


def test_sixteen_bits_of_luminance_are_kept_to_a_few_levels(gentle, model):
    photo = read_photo(sixteen(gentle(0)))
    (rgb,) = streamgan.Colorizer.load(model, device="cpu").color([photo])
    assert rgb.dtype == np.uint16
    given = HEADS["lab"].gray_to_input(torch.from_numpy(photo.pixels / 65535)[None, None].float())
    made = HEADS["lab"].to_input(torch.from_numpy(rgb / 65535).permute(2, 0, 1)[None].float())
    assert (given - made).abs().mean() / 2 * 65535 < 3


def test_the_luminance_survives_any_saturation(photo, model):
    gray = photo(3).convert("L")
    for saturation in (0.0, 1.0, 10.0):
        colored = streamgan.Colorizer.load(model, device="cpu", saturation=saturation)(gray)
        pixels = np.asarray(colored, int)
        spread = (pixels.max(2) - pixels.min(2)).mean()
        assert (spread < 0.5) == (saturation == 0)
        assert error_in_levels(gray, colored) < 1


def test_a_list_gives_a_list_and_the_same_as_one_by_one(gentle, model):
    colorizer = streamgan.Colorizer.load(model, device="cpu", batch=3)
    photos = [gentle(seed) for seed in range(7)]
    together = colorizer(photos)
    assert [image.size for image in together] == [photo.size for photo in photos]
    for one, photo in zip(together, photos, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(colorizer(photo), int)).max() <= 1
    assert colorizer([]) == []


def test_a_profile_that_does_not_fit_is_dropped_and_told(gentle, model, tmp_path):
    gentle(0).save(tmp_path / "a.png", icc_profile=gray_profile())
    gentle(1).save(tmp_path / "b.png", icc_profile=b"nonsense")
    gentle(2).convert("L").save(tmp_path / "c.png", icc_profile=swapped_profile())
    result = run(tmp_path / "*.png", "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("colour profile, of") == 2
    profiles = [Image.open(tmp_path / "out" / f"{name}.png").info.get("icc_profile") for name in "abc"]
    assert profiles == [None, None, swapped_profile()]
    assert srgb() not in profiles


def test_the_network_sees_what_the_profile_means(gentle):
    plain, swapped = gentle(0), gentle(0)
    swapped.info["icc_profile"] = swapped_profile()
    other = Image.merge("RGB", plain.split()[::-1])
    off = np.abs(read_photo(swapped).pixels.astype(int) - np.asarray(other, int))
    assert off.max() <= 2


def test_patterns_keep_the_tree_below_their_fixed_part(gentle, tmp_path):
    written = write_mixed(tmp_path / "in", gentle, 20)
    (tmp_path / "in" / "notes.txt").write_text("no photo")
    (tmp_path / "in" / ".hidden.jpg").write_text("no photo")
    every = Inputs([f"{tmp_path}/in/**/*"], tmp_path / "out", recursive=True)
    assert {target.path.relative_to(tmp_path / "out") for target in every} == set(written)
    assert every.count() == 20
    flat = Inputs([str(tmp_path / "in")], tmp_path / "out")
    assert flat.count() == sum(len(place.parts) == 1 for place in written)
    with pytest.raises(ConfigError, match="no photo matches this pattern"):
        Inputs([f"{tmp_path}/in/*.bmp"], tmp_path / "out")


def test_results_inside_the_folder_are_not_coloured_again(gentle, model, tmp_path):
    write_mixed(tmp_path / "in", gentle, 3)
    out = tmp_path / "in" / "colored"
    for _ in range(2):
        assert run(tmp_path / "in", "--recursive", "--model", model, "--out", out).exit_code == 0
    assert len([path for path in out.rglob("*") if path.is_file()]) == 3


def test_two_folders_may_not_share_a_name(gentle, tmp_path):
    for name in "ab":
        write_mixed(tmp_path / name, gentle, 2)
    with pytest.raises(ConfigError, match="another photo would also become 0"):
        Inputs([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out").count()


def test_a_literal_name_with_brackets_is_a_file_and_no_pattern(gentle, model, tmp_path):
    gentle(0).save(tmp_path / "a[1].png")
    assert run(tmp_path / "a[1].png", "--model", model, "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "a[1].png").exists()


def test_what_cannot_be_written_ends_the_run(gentle, model, tmp_path, monkeypatch):
    write_mixed(tmp_path / "in", gentle, 3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run(tmp_path / "in", "--model", model, "--out", tmp_path / "out")
    assert isinstance(result.exception, DataError)
    assert "cannot be written (No space left on device)" in str(result.exception)
    assert list((tmp_path / "out").iterdir()) == []


class Hungry(torch.nn.Module):
    """A generator that needs more memory than there is for more than `most` pixels."""

    def __init__(self, inner: torch.nn.Module, most: int):
        super().__init__()
        self.inner, self.most = inner, most

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[0] * image.shape[-1] * image.shape[-2] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(image)


def test_where_memory_ends_the_work_size_becomes_smaller_and_one_line_says_so(gentle, model, capsys):
    colorizer = streamgan.Colorizer.load(model, device="cpu", size=64)
    colorizer._generator = Hungry(colorizer._generator, 40 * 60)
    photos = [gentle(seed) for seed in range(6)]
    for image, photo in zip(colorizer(photos) + colorizer(photos), photos * 2, strict=True):
        assert image.size == photo.size
    assert (colorizer.size, colorizer.batch) == (36, 1)
    assert capsys.readouterr().err.count("out of memory") == 1
    colorizer._generator.most = 1
    with pytest.raises(ConfigError, match=r"not enough memory at a work size of \d+; use --device cpu"):
        colorizer(photos)


class CalledGpu(str):
    """A CPU by a name that colouring takes for that of a card."""

    type = "cuda"


def test_where_memory_ends_while_painting_the_pieces_become_smaller(gentle, model, monkeypatch):
    monkeypatch.setattr("streamgan.inference.colorizer._BAND_PIXELS", 4 * 60)
    colorizer = streamgan.Colorizer.load(model, device="cpu", size=32)
    photo = np.array(gentle(0).resize((60, 40)))
    expected, band, rows = colorizer(photo), colorizer._band, []

    def hungry(pixels, *given, **more):
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        rows.append(len(pixels))
        return band(pixels, *given, **more)

    monkeypatch.setattr(colorizer, "_band", hungry)
    colorizer.device, most = CalledGpu("cpu"), 39
    assert np.array_equal(colorizer(photo), expected)
    assert rows == [4] * 10
    most = 3
    with pytest.raises(torch.OutOfMemoryError):
        colorizer(photo)


@pytest.mark.parametrize("count", [pytest.param(number, marks=pytest.mark.slow) for number in (400, 5000)])
def test_memory_does_not_grow_with_the_number_of_files(photo, model, tmp_path, count):
    (tmp_path / "in").mkdir()
    photo(0, (16, 16)).save(tmp_path / "in" / "0.png")
    for index in range(1, count):
        os.link(tmp_path / "in" / "0.png", tmp_path / "in" / f"{index}.png")
    colorizer = streamgan.Colorizer.load(model, device="cpu", size=16)
    todo, process, sizes = Inputs([str(tmp_path / "in")], tmp_path / "out"), psutil.Process(), []
    held = 0
    for outcome in color_files(colorizer, todo, Handling(recolor=True)):
        assert outcome.kind == "colored"
        sizes.append(process.memory_info().rss)
        held += 1
    assert held == count
    assert max(sizes) - sizes[count // 4] < (4 << 20) + count * 100  # a held photo has 768 bytes, a path 200


def test_the_package_itself_stays_light():
    script = "import sys, streamgan; print(sorted({'torch', 'PIL', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
    assert "Colorizer" in streamgan.__all__
    with pytest.raises(AttributeError, match="no attribute 'Colouriser'"):
        _ = streamgan.Colouriser
