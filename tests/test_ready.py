"""The model that comes with streamgan: what takes it when no other is given, and that it is worth it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageOps
from shared import make_photo

import streamgan
from streamgan.cli.colorize import colorize
from streamgan.core.color import HEADS, unit_rgb
from streamgan.core.config import load_config
from streamgan.core.errors import CheckpointError
from streamgan.core.storage.hub import READY, model_path
from streamgan.inference.weights import find_weights, load_weights
from streamgan.metrics.functional import psnr
from streamgan.train.loop import train

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "launch" / "recipes" / "finetune.yaml"


def test_it_is_small_and_says_where_it_comes_from():
    folder = model_path(READY)
    assert folder.parent == Path(streamgan.__file__).parent
    assert (folder / "model.safetensors").stat().st_size < 12e6
    assert sum(file.stat().st_size for file in folder.iterdir()) < 13e6  # a wheel of less than 20 MB
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["generator"] == "timm_unet"
    assert config["training"]["run"]["init_from"] == "runs/tiny64_pretrained"
    assert "research" in (folder / "README.md").read_text()
    assert (folder / "LICENSE").is_file()


def test_photos_are_coloured_by_it_unless_another_is_given(tmp_path):
    make_photo(1, (128, 96)).convert("L").save(tmp_path / "old.png")
    result = CliRunner().invoke(colorize, [str(tmp_path / "old.png"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "colouring with the packaged model" in result.stderr
    assert "--model" in result.stderr
    colored = np.asarray(Image.open(tmp_path / "out" / "old.png"))
    assert colored.shape == (96, 128, 3)
    assert np.ptp(colored, axis=2).max() > 0
    again = streamgan.Colorizer.load()(Image.open(tmp_path / "old.png"))
    assert np.array_equal(np.asarray(again), colored)


def test_a_folder_of_its_name_is_what_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_weights(READY).parent == model_path(READY)
    Path(READY).mkdir()
    assert model_path(READY) == Path(READY)


def test_a_run_starts_from_it_and_leaves_its_encoder_alone(shard_set, tmp_path):
    small = [
        f"data.shards={shard_set}",
        f"run.dir={tmp_path}",
        "data.batch=4",
        "data.workers=0",
        "run.steps=2",
    ]
    few = [
        "run.validate_images=8",
        "run.sample_images=4",
        "run.threads=1",
        "loss.warmup_steps=1",
        "loss.ramp_steps=0",
    ]
    assert train(load_config(RECIPE, [*small, *few]))["steps"] == 2
    ours = load_weights(find_weights(READY)).generator.state_dict()
    trained = load_weights(find_weights(tmp_path, "last")).generator.state_dict()
    moved = {name for name, tensor in trained.items() if not torch.equal(tensor, ours[name])}
    assert not any(name.startswith("encoder.") for name in moved)
    assert "last.weight" in moved


@pytest.mark.slow
def test_it_goes_on_at_another_size_and_a_network_of_another_shape_is_told_so(shard_set, tmp_path):
    words = [
        f"data.shards={shard_set}", "data.batch=4", "data.workers=0", "data.size=128", "loss.gan_weight=0",
        "run.steps=1", "run.validate_images=4",
    ]  # fmt: skip
    train(load_config(RECIPE, [*words, f"run.dir={tmp_path / 'larger'}"]))
    assert load_weights(find_weights(tmp_path / "larger", "last")).generator.enlargement == 2
    with pytest.raises(CheckpointError, match=r"\(enlarge=1\); give model\.enlarge=null$"):
        train(load_config(RECIPE, [*words, f"run.dir={tmp_path / 'other'}", "model.enlarge=1"]))


def test_it_is_nearer_to_the_truth_than_gray_on_photos_that_it_never_saw():
    skimage, sklearn = pytest.importorskip("skimage"), pytest.importorskip("sklearn")
    paths = [
        Path(skimage.__file__).parent / "data" / f"{name}"
        for name in ("astronaut.png", "chelsea.png", "coffee.png")
    ]
    paths += [
        Path(sklearn.__file__).parent / "datasets" / "images" / f"{name}.jpg" for name in ("china", "flower")
    ]
    squares = [np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), (64, 64))) for path in paths]
    truth_B3HW = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    weights = load_weights(find_weights(READY))
    input_B1HW = weights.head.to_input(unit_rgb(truth_B3HW))
    with torch.inference_mode():
        made_B3HW = weights.head.decode(input_B1HW, weights.generator(input_B1HW))
    gray_B3HW = HEADS["lab"].decode(input_B1HW, torch.zeros(len(paths), 2, 64, 64))
    assert psnr(made_B3HW, truth_B3HW).mean() > psnr(gray_B3HW, truth_B3HW).mean() + 0.5
