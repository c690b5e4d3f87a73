"""The model card: it says what the model was trained on and what its figures mean, and its code runs."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from test_colorize import save_generator
from training import ROOT

from streamgan.cli.export import export
from streamgan.core.config import load_config
from streamgan.core.storage.hub import READY
from streamgan.data.format import read_manifest
from streamgan.inference.bundle import bundle_files
from streamgan.inference.weights import find_weights, load_weights
from streamgan.train.loop import train


def card_of(model, out, *words: str) -> str:
    done = CliRunner().invoke(
        export, [str(model), "--to", "bundle", "--out", str(out), *words], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return (out / "README.md").read_text()


def test_the_card_of_a_run_says_what_it_was_trained_on_and_how_gray_does(whole_run, shard_set, tmp_path):
    card = card_of(whole_run, tmp_path / "old-photos")
    digest = read_manifest(shard_set).digest
    assert f"- 64 photos, in the shard set with the digest `{digest}`" in card
    assert "crops of 48 x 48 pixels, 10 steps of 8" in card
    assert "with a discriminator" in card
    assert "Whoever publishes this model: say here whose photos they are" in card
    scores = json.loads((tmp_path / "old-photos" / "metrics.json").read_text())
    ours, gray, median = (scores[f"val/{name}psnr"] for name in ("", "gray_", "median_ab_"))
    assert f"| PSNR, dB | {ours:.4g} | {gray:.4g} | {median:.4g} |" in card
    assert f"| {scores['val/cf_truth']:.4g} |" in card
    assert 'Colorizer.load("old-photos")' in card


def test_training_goes_on_with_the_command_of_the_card(whole_run, shard_set, tmp_path):
    card = card_of(whole_run, tmp_path / "old-photos")
    (command,) = re.findall(r"Training goes on from it with `streamgan train (.*)`", card)
    words = command.replace("run.init_from=", f"run.init_from={tmp_path}/").split()
    given = [f"data.shards={shard_set}", f"run.dir={tmp_path / 'run'}", "run.steps=1"]
    assert [word for word in words if word.endswith("=...")] == [
        "data.shards=...",
        "run.dir=...",
        "run.steps=...",
    ]
    words = [*given, *words[3:], "data.batch=4", "data.workers=0", "run.validate_images=4"]
    assert train(load_config(None, words))["steps"] == 1


def test_what_the_publisher_says_of_the_photos_stays_with_the_bundle(whole_run, tmp_path):
    first = card_of(whole_run, tmp_path / "our-photos", "--data-note", "By the town's archive, CC BY.")
    assert "**Terms of the photos.** By the town's archive, CC BY." in first
    assert "`our-photos` stands for this folder; on the Hub write ORG/NAME." in first
    again = card_of(tmp_path / "our-photos", tmp_path / "town-photos")
    assert again == first.replace("our-photos", "town-photos")


def test_weights_that_say_little_get_a_card_without_figures(tmp_path):
    card = card_of(save_generator(tmp_path / "w.safetensors", head="rgb"), tmp_path / "bundle")
    assert "photos whose number was not recorded" in card
    assert "It was not validated." in card
    assert "skimage" not in card  # what its code does is for Lab


def test_a_note_for_a_card_needs_one(tmp_path, run_as_program):
    model = save_generator(tmp_path / "w.safetensors")
    done = run_as_program("export", model, "--to", "safetensors", "--out", tmp_path / "o", "--data-note", "x")
    assert done.code == 2
    assert "--data-note: is for the card of a bundle" in done.stderr


def test_the_card_of_the_packaged_model_is_what_the_code_makes():
    weights = load_weights(find_weights(READY))
    made = bundle_files(weights, title=READY)
    for name in ("README.md", "config.json", "metrics.json"):
        assert (weights.path.parent / name).read_bytes() == made[name], name


@pytest.mark.slow
def test_the_code_on_a_card_runs_and_gives_the_same_colours_with_onnx(tmp_path, photo):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("skimage")
    card = card_of(READY, tmp_path / "mine", "--saturation", "1.5")
    (tmp_path / "old").mkdir()
    photo(3, (160, 120)).convert("L").save(tmp_path / "old" / "one.jpg", quality=95)
    shutil.copy(tmp_path / "old" / "one.jpg", tmp_path / "old.jpg")
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    blocks = re.findall(r"```(\w*)\n(.*?)```", card, re.DOTALL)
    assert [language for language, _ in blocks] == ["", "python", "", "python"]
    for language, text in blocks:
        text = text.replace("pip install streamgan\n", "")
        program = [sys.executable, "-c"] if language else ["bash", "-euc"]
        subprocess.run([*program, text], cwd=tmp_path, env=environment, check=True)
    colored, by_onnx, by_command = (
        np.asarray(Image.open(tmp_path / name).convert("RGB"), float)
        for name in ("colored.png", "colored-by-onnx.png", "colored/one.jpg")
    )
    assert np.ptp(colored, axis=2).mean() > 3
    assert np.abs(colored - by_onnx).mean() < 3  # Pillow enlarges the chroma, not along edges
    assert np.abs(colored - by_command).mean() < 2  # a JPEG
