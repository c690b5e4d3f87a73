"""The recipes of launch/recipes: each is read, and its networks and losses can be built."""

from pathlib import Path

import pytest

from streamgan.core.config import load_config
from streamgan.models import GENERATORS
from streamgan.train import build

RECIPES = sorted((Path(__file__).parents[1] / "launch" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_be_built(path):
    config = load_config(path)
    build.check_models(config)
    assert config.run.dir == f"runs/{path.stem}"
    if path.stem.endswith("_cpu"):
        assert not config.model.pretrained
        assert config.loss.perceptual_weight == 0  # needs a download


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_in_its_header_how_to_run_it(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(header) >= 2
    assert any(f"--config launch/recipes/{path.name}" in line for line in header)


def test_every_generator_has_a_recipe():
    used = {load_config(path).model.generator for path in RECIPES}
    assert GENERATORS.keys() - used == {"resnet18_unet", "resnet50_unet"}  # resnet34.yaml names them
