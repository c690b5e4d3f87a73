"""What commit 431b46d wrote is read to the same numbers; `fixtures/old/README.md` says how it was made."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import read_metrics

from streamgan import Colorizer
from streamgan.core.config import load_config
from streamgan.data import build_loader
from streamgan.train.loop import train

OLD = Path(__file__).parent / "fixtures" / "old"
# Per split, in canonical order: id, CRC-32 of the color pixels (H, W, 3), and of the gray twin's.
PIXELS = {
    "train": [
        (1, "34b692d0", "200853ca"), (4, "4be10d26", "aa160401"), (2, "a75671e7", "7eca73a4"),
        (5, "544909e8", "ac4acdc4"), (3, "a78ba48e", "c6ca1ee2"), (6, "6bd743db", "9a2bbd99"),
        (0, "571215b5", "f829c749"), (7, "fbf7fd9a", "0ab3b199"),
    ],
    "val": [(1, "bc0b217b", "5f59aa2e"), (2, "3eb211fc", "3709dbd8"), (0, "253fbd9b", "8cacd27f")],
}  # fmt: skip
# Steps 25 and 26 and the last validation; another processor rounds sums of floats otherwise.
CONTINUED = [
    {"step": 25, "loss/d_total": 1.950816274, "loss/g_rec": 0.210676506, "loss/g_adv": -0.111394197,
     "loss/r1": 0.015010183, "grad/g_norm": 0.130029961, "grad/d_norm": 0.562918425},
    {"step": 26, "loss/d_total": 1.886983633, "loss/g_rec": 0.242022216, "loss/g_adv": -0.094584905,
     "grad/g_norm": 0.254360527, "grad/d_norm": 1.261190295},
    {"step": 26, "val/loss": 0.267299026, "val/psnr": 13.409822782, "val/ssim": 0.482394199,
     "val/cf": 41.609264374, "val/ab_error": 29.359650930},
]  # fmt: skip
FROM_BUNDLE = {"step": 1, "loss/g_rec": 0.239893556, "grad/g_norm": 0.218477950}
REL = 1e-4


def test_the_set_is_whole_in_every_byte_and_image(run_as_program):
    assert run_as_program("verify", OLD / "shards", "--full").code == 0


def test_the_set_gives_the_same_samples_in_the_same_order():
    for split, expected in PIXELS.items():
        found = []
        loader = build_loader(
            OLD / "shards", split, batch=1, size=32, workers=0, epochs=1, gray="twin", cache="none"
        )
        for batch in loader:
            color_HW3 = batch.color_B3HW[0].permute(1, 2, 0).contiguous().numpy()
            gray_1HW = batch.gray_B1HW[0].contiguous().numpy()
            crcs = (f"{zlib.crc32(pixels.tobytes()):08x}" for pixels in (color_HW3, gray_1HW))
            found.append((int(batch.ids_B), *crcs))
        assert found == expected


def test_the_same_photos_give_the_same_shards(run_as_program, tmp_path):
    options = ["--splits", "source", "--samples-per-shard", 4, "--workers", 0]
    assert run_as_program("shard", OLD / "photos", "--out", tmp_path / "set", *options).code == 0
    for path in (OLD / "shards").iterdir():
        assert (tmp_path / "set" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_run_goes_on_as_it_would_have(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(OLD / "run", run)
    words = [f"data.shards={OLD / 'shards'}", f"run.dir={run}", "run.steps=26"]
    result = train(load_config(OLD / "run" / "config.yaml", words))
    assert (result["steps"], result["stopped"]) == (26, False)
    for line, expected in zip(read_metrics(run), CONTINUED, strict=True):
        assert {key: line[key] for key in expected} == pytest.approx(expected, rel=REL)


def test_the_bundle_starts_a_run(tmp_path):
    words = [f"data.shards={OLD / 'shards'}", f"run.dir={tmp_path / 'fine'}", "run.steps=1"]
    train(load_config(OLD / "run" / "config.yaml", [*words, f"run.init_from={OLD / 'bundle'}"]))
    line = read_metrics(tmp_path / "fine")[0]
    assert {key: line[key] for key in FROM_BUNDLE} == pytest.approx(FROM_BUNDLE, rel=REL)


def test_the_bundle_colours_a_photo_as_it_did():
    colorizer = Colorizer.from_pretrained(OLD / "bundle", device="cpu")
    with Image.open(OLD / "gray.png") as gray, Image.open(OLD / "colored.png") as colored:
        made, expected = (np.asarray(image, np.int16) for image in (colorizer(gray), colored))
    assert np.abs(made - expected).max() <= 1  # a level may be rounded otherwise on another processor
    assert expected.std(axis=2).max() > 10, "coloured at all"
