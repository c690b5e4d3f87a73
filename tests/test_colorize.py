"""Photos in, coloured photos out: the photo's own luminance and size, whatever its mode; honest failures."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from streamgan.cli.colorize import colorize
from streamgan.core.color import HEADS, rgb_to_lab
from streamgan.core.errors import CheckFailed, CheckpointError, ConfigError, DataError
from streamgan.core.run_folder import FORMAT, VERSION, sealed
from streamgan.core.storage.files import sha256_file, write_json
from streamgan.inference.colorizer import Colorizer
from streamgan.inference.weights import find_weights, load_weights
from streamgan.models import GENERATORS

ORIENTATION = 0x0112  # EXIF tag


def save_generator(path, *, head: str = "lab", step: int = 3, chroma: float = 0.05, **about):
    """A tiny U-Net in the form of a checkpoint's weights, with `chroma` as its last bias."""
    options = {"out_channels": HEADS[head].channels, "size": 64, "width": 4, "depth": 3}
    options |= {"norm": "instance", "bounded": head == "rgb"}
    torch.manual_seed(0)
    generator = GENERATORS["unet"](**options)
    torch.nn.init.normal_(generator.last.weight, 0, 0.02)
    torch.nn.init.constant_(generator.last.bias, chroma)
    spec = {"generator": "unet", "head": head, "size": 64, "options": options}
    metadata = {"format": "streamgan-checkpoint", "step": str(step), "model": json.dumps(spec)} | about
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(generator.state_dict(), path, metadata=metadata)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "ema.safetensors")


@pytest.fixture(scope="module")
def colorizer(model):
    return Colorizer.load(model, device="cpu")


@pytest.fixture
def gentle(photo):
    """A photo in muted colours: any luminance in it can be had in colour too, nothing is clipped."""

    def make(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
        return Image.blend(photo(seed, size), Image.new("RGB", size, (128, 128, 128)), 0.6)

    return make


def lightness(image: Image.Image) -> np.ndarray:
    """L of Lab, scaled to levels of 255."""
    rgb = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    return rgb_to_lab(rgb)[0, 0].numpy() * 2.55


def error_in_levels(given: Image.Image, colored: Image.Image) -> float:
    assert colored.size == given.size
    return float(np.abs(lightness(given) - lightness(colored)).mean())


def chroma(image: Image.Image) -> float:
    rgb = np.asarray(image.convert("RGB"), int)
    return float((rgb.max(2) - rgb.min(2)).mean())


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"])
@pytest.mark.parametrize("size", [(96, 80), (64, 64), (33, 71), (200, 41)])
def test_the_luminance_of_the_photo_stays(colorizer, gentle, mode, size):
    photo = gentle(1, size).convert(mode)
    colored = colorizer(photo)
    assert error_in_levels(photo, colored) < 1
    assert chroma(colored) > 2


@pytest.mark.parametrize("head", ["lab", "ycbcr", "rgb"])
def test_every_head_keeps_what_it_calls_luminance(tmp_path, gentle, head):
    chroma_bias = {"lab": 0.05, "ycbcr": 0.05, "rgb": 0.0}[head]
    path = save_generator(tmp_path / "w.safetensors", head=head, chroma=chroma_bias)
    photo = gentle(2).convert("L")
    colored = Colorizer.load(path, device="cpu")(photo)
    if head == "ycbcr":
        off = np.abs(np.asarray(colored.convert("L"), int) - np.asarray(photo, int)).mean()
        assert off < 1
    else:
        assert error_in_levels(photo, colored) < 1


@pytest.mark.parametrize("mode", ["I;16", "I", "I;16B"])
def test_sixteen_bits_are_read_in_full(colorizer, gentle, mode):
    gray = gentle(3).convert("L")
    levels = np.asarray(gray, np.uint16) * 257
    dtype = {"I;16": "<u2", "I": "<i4", "I;16B": ">u2"}[mode]
    photo = Image.frombytes(mode, gray.size, levels.astype(dtype).tobytes())
    assert photo.mode == mode
    assert error_in_levels(gray, colorizer(photo)) < 1


def test_black_and_white_stay_black_and_white(colorizer, gentle):
    photo = gentle(4).convert("1")
    levels = np.asarray(colorizer(photo).convert("L"))
    assert np.array_equal(levels > 127, np.asarray(photo))
    assert levels[levels < 128].max() < 32
    assert levels[levels > 127].min() > 223


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_kept(colorizer, gentle, mode):
    photo = gentle(5).convert(mode)
    alpha = gentle(6).convert("L")
    photo.putalpha(alpha)
    colored = colorizer(photo)
    assert colored.mode == "RGBA"
    assert colored.getchannel("A").tobytes() == alpha.tobytes()


def test_a_transparent_colour_of_a_palette_or_a_photo_is_kept(colorizer, gentle, tmp_path):
    palette = gentle(7).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    keyed = gentle(7)
    keyed.save(tmp_path / "keyed.png", transparency=keyed.getpixel((0, 0)))
    for name in ("palette.png", "keyed.png"):
        with Image.open(tmp_path / name) as photo:
            assert "transparency" in photo.info
            expected = photo.convert("RGBA").getchannel("A")
            assert expected.getextrema() == (0, 255)
            colored = colorizer(photo)
        assert colored.mode == "RGBA"
        assert colored.getchannel("A").tobytes() == expected.tobytes()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_photo_comes_out_upright(colorizer, gentle, tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    gentle(8).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "turned.jpg") as photo:
        colored = colorizer(photo)
        back = {
            1: None,
            3: Image.Transpose.ROTATE_180,
            6: Image.Transpose.ROTATE_270,
            8: Image.Transpose.ROTATE_90,
        }
        upright = photo.convert("RGB")
        upright = upright.transpose(back[orientation]) if back[orientation] is not None else upright
    assert colored.size == ((96, 80) if orientation in (1, 3) else (80, 96))
    assert error_in_levels(upright, colored) < 1
    assert ORIENTATION not in colored.getexif()


def test_the_work_size_changes_the_chroma_and_not_the_luminance(model, gentle):
    photo = gentle(9, (200, 160))
    results = [Colorizer.load(model, device="cpu", size=size)(photo) for size in (32, 160)]
    assert results[0].tobytes() != results[1].tobytes()
    for colored in results:
        assert error_in_levels(photo, colored) < 1


def test_more_pixels_than_the_cap_are_refused(colorizer, monkeypatch):
    monkeypatch.setattr("streamgan.inference.given.MAX_PIXELS", 99)
    with pytest.raises(DataError, match="10 x 10 pixels, over the cap of 99"):
        colorizer(Image.new("L", (10, 10)))


def test_a_path_an_image_and_an_array_give_the_same_colours(colorizer, gentle, tmp_path):
    image = gentle(1).convert("L")
    image.save(tmp_path / "a.png")
    pixels = np.asarray(image)
    made = colorizer([str(tmp_path / "a.png"), tmp_path / "a.png", image, pixels, np.stack([pixels] * 3, 2)])
    assert [type(one) for one in made[3:]] == [np.ndarray, np.ndarray]
    for one in made:
        assert np.abs(np.asarray(one, int) - np.asarray(made[0], int)).max() <= 1
    assert np.array_equal(colorizer(pixels), made[3])
    assert colorizer(tmp_path / "a.png").tobytes() == made[0].tobytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_of_sixteen_bits_gives_one_of_sixteen_bits(colorizer, gentle, channels):
    gray = np.asarray(gentle(1).convert("L"), np.uint16) * 257 + np.arange(96, dtype=np.uint16)
    made = colorizer(gray if channels == 1 else np.stack([gray] * 3, 2))
    assert (made.dtype, made.shape) == (np.uint16, (80, 96, 3))
    given = HEADS["lab"].gray_to_input(torch.from_numpy(gray / 65535)[None, None].float())
    off = HEADS["lab"].to_input(torch.from_numpy(made / 65535).permute(2, 0, 1)[None].float()) - given
    assert off.abs().mean() / 2 * 65535 < 8


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "got dict"),
        (None, "got NoneType"),
        ([b"bytes"], "got bytes"),
        (torch.zeros(3), "got torch.Tensor"),
        (np.zeros((4, 4)), r"got an array of float64, \(4, 4\)"),
        (np.zeros((4, 4, 2), np.uint8), r"got an array of uint8, \(4, 4, 2\)"),
        (np.zeros((0, 4), np.uint8), r"got an array of uint8, \(0, 4\)"),
    ],
)
def test_what_is_no_photo_is_named_by_its_type(colorizer, given, told):
    with pytest.raises(ConfigError, match=told) as caught:
        colorizer(given)
    assert str(caught.value).startswith("Colorizer: cannot colour this (")


def test_a_photo_that_cannot_be_read_is_named(colorizer, tmp_path):
    (tmp_path / "a.png").write_text("no photo")
    with pytest.raises(DataError, match=r"a\.png: not a photo that can be read \(not an image"):
        colorizer(str(tmp_path / "a.png"))
    with pytest.raises(DataError, match=r"b\.png: no such file"):
        colorizer(tmp_path / "b.png")
    with pytest.raises(DataError, match="an image: not a photo that can be read"):
        colorizer(Image.new("F", (8, 8)))
    with pytest.raises(DataError, match="cannot be read"):
        colorizer(tmp_path)


def test_a_device_that_is_not_there_is_refused(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        Colorizer.load(model, device="cuda")


def test_weights_build_their_own_generator_and_know_their_origin(model):
    weights = load_weights(model)
    assert (weights.size, weights.step, weights.path) == (64, 3, model)
    assert weights.head is HEADS["lab"]
    assert not weights.generator.training
    assert not any(parameter.requires_grad for parameter in weights.generator.parameters())


def write_run(root, scores: dict[int, float | None]):
    for step, psnr in scores.items():
        folder = root / "checkpoints" / f"step-{step:08d}"
        save_generator(folder / "ema.safetensors", step=step)
        validation = {} if psnr is None else {"val/psnr": psnr}
        files = {"ema.safetensors": {"sha256": sha256_file(folder / "ema.safetensors")}}
        meta = {
            "format": FORMAT, "version": VERSION, "step": step, "finished": False, "shards_digest": "",
            "validation": validation, "progress": {"best": None, "stale": 0},
            "config": {"run": {"best_metric": "psnr"}}, "files": files,
        }  # fmt: skip
        write_json(folder / "meta.json", sealed(meta))
    return root


def test_a_run_gives_its_best_its_last_or_any_of_its_steps(tmp_path):
    run = write_run(tmp_path / "run", {10: 20.0, 20: 25.0, 30: 22.0, 40: None})
    for which, step in [("best", 20), ("last", 40), ("10", 10), ("30", 30)]:
        assert load_weights(find_weights(run, which)).step == step
    folder = run / "checkpoints" / "step-00000030"
    assert find_weights(folder) == folder / "ema.safetensors"
    assert load_weights(find_weights(folder / "ema.safetensors")).step == 30
    unscored = write_run(tmp_path / "unscored", {10: None, 20: None})
    assert load_weights(find_weights(unscored)).step == 20


@pytest.mark.parametrize("which", ["25", "newest", "-1"])
def test_a_checkpoint_that_a_run_does_not_have_lists_those_it_has(tmp_path, which):
    run = write_run(tmp_path / "run", {10: 20.0, 20: 25.0})
    with pytest.raises(
        CheckpointError, match=rf"no checkpoint '{which}'; choose best, last or a step of 10, 20"
    ):
        find_weights(run, which)


@pytest.mark.parametrize("content", ["{", "[]", '{"step": 10}', '{"step": "x", "validation": {}}'])
def test_a_damaged_record_of_a_checkpoint_is_a_checkpoint_error(tmp_path, content):
    run = write_run(tmp_path / "run", {10: 20.0})
    record = run / "checkpoints" / "step-00000010" / "meta.json"
    record.write_text(content)
    with pytest.raises(CheckpointError, match=r"meta\.json"):
        find_weights(run)


def wrong_files(folder, model):
    """Name -> a file that is no generator of ours."""
    files = {
        name: folder / f"{name}.safetensors" for name in ("text", "cut", "foreign", "spec", "name", "shape")
    }
    files["text"].write_text("not weights")
    files["cut"].write_bytes(model.read_bytes()[:2000])
    save_file({"a": torch.zeros(2)}, files["foreign"])
    save_generator(files["spec"], model="{")
    save_generator(files["name"], model=json.dumps({"generator": "nonesuch", "options": {}}))
    spec = {"out_channels": 2, "size": 64, "width": 5, "depth": 3}
    about = {"generator": "unet", "head": "lab", "size": 64, "options": spec}
    save_generator(files["shape"], model=json.dumps(about))
    return files


@pytest.mark.parametrize("name", ["text", "cut", "foreign", "spec", "name", "shape"])
def test_a_file_that_is_no_generator_of_ours_is_a_checkpoint_error(tmp_path, model, name):
    path = wrong_files(tmp_path, model)[name]
    with pytest.raises(CheckpointError) as caught:
        load_weights(find_weights(path))
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_checkpoints_says_what_to_give(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"no checkpoint here; give a run folder"):
            find_weights(path)


def run(*arguments: object):
    return CliRunner().invoke(colorize, [*map(str, arguments), "--recolor"])


@pytest.fixture
def photos(gentle, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    gentle(1).save(folder / "a.jpg", quality=95)
    gentle(2).convert("L").save(folder / "b.PNG")
    alpha = gentle(3).convert("RGBA")
    alpha.putalpha(77)
    alpha.save(folder / "c.webp", lossless=True)
    gentle(4).convert("L").save(folder / "d.tif")
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_a_folder_is_coloured_name_by_name(photos, model, tmp_path):
    out = tmp_path / "deep" / "out"
    result = run(photos, "--model", model, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    report = {"ok": True, "out": str(out), "num_colored": 4, "num_left_alone": 0, "num_skipped": 0}
    report["num_failed"], report["passed_over"] = 0, {".txt": 1}
    assert json.loads(result.stdout) == report
    names = ["a.jpg", "b.PNG", "c.webp", "d.tif"]
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names:
        with Image.open(photos / name) as given, Image.open(out / name) as made:
            assert made.format == given.format
            assert error_in_levels(given, made) < 2  # lossy formats add theirs
            assert chroma(made) > 2
    with Image.open(out / "c.webp") as made:
        assert made.getchannel("A").getextrema() == (77, 77)


def test_a_transparent_picture_called_jpg_becomes_a_jpeg_all_the_same(photos, model, tmp_path):
    (photos / "c.webp").rename(photos / "c.jpg")
    assert run(photos / "c.jpg", "--model", model, "--out", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / "c.jpg") as made:
        assert (made.format, made.mode) == ("JPEG", "RGB")


def test_the_same_command_again_gives_the_same_files(photos, model, tmp_path):
    contents = []
    for _ in range(2):
        assert run(photos / "b.PNG", "--model", model, "--out", tmp_path / "out").exit_code == 0
        contents.append((tmp_path / "out" / "b.PNG").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_broken_photo_is_reported_and_the_others_are_done(photos, model, tmp_path, damage):
    data = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").write_bytes({"cut": data[: len(data) // 2], "text": b"no photo", "empty": b""}[damage])
    result = run(photos, "--model", model, "--out", tmp_path / "out")
    assert isinstance(result.exception, CheckFailed)
    assert result.exception.exit_code == 1
    assert "1 of 4 photos failed" in str(result.exception)
    assert "a.jpg" in str(result.exception)
    assert "a.jpg: not coloured (" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.PNG", "c.webp", "d.tif"]


def test_two_photos_of_one_name_are_refused_before_any_work(photos, model, tmp_path):
    other = shutil.copytree(photos, tmp_path / "other")
    result = run(photos / "a.jpg", other / "a.jpg", "--model", model, "--out", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert "another photo would also become a.jpg" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_photo_is_never_overwritten(photos, model, tmp_path):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    for out in (photos, photos / ".." / "photos", tmp_path / "link"):
        result = run(photos, "--model", model, "--out", out)
        assert isinstance(result.exception, ConfigError)
        assert "would be overwritten" in str(result.exception)
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_nothing_to_colour_is_refused(photos, model, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, what in [(tmp_path / "empty", "no photos here"), (tmp_path / "no.jpg", "no such file")]:
        result = run(given, "--model", model, "--out", tmp_path / "out")
        assert isinstance(result.exception, ConfigError)
        assert what in str(result.exception)


def test_a_missing_model_is_a_checkpoint_error_before_any_work(photos, tmp_path):
    result = run(photos, "--model", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert isinstance(result.exception, CheckpointError)
    assert not (tmp_path / "out").exists()
