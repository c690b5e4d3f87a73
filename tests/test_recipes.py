"""The recipes of launch/recipes: each is read, and its networks and losses can be built."""

from pathlib import Path

import pytest
from marks import slow

from streamgan.compare.settings import load_comparison
from streamgan.core.config import load_config
from streamgan.core.inert import without_effect
from streamgan.models import GENERATORS
from streamgan.train import build

FOLDER = Path(__file__).parents[1] / "launch" / "recipes"
COMPARISON = FOLDER / "compare.yaml"
FILES = sorted(FOLDER.glob("*.yaml"))
FAST = ("paper_cpu", "unet64_cpu")  # to be built; the others are larger
RECIPES = [path for path in FILES if path != COMPARISON]


@pytest.mark.parametrize(
    "path", [path if path.stem in FAST else slow(path) for path in RECIPES], ids=lambda path: path.stem
)
def test_a_recipe_can_be_built(path):
    build.check_models(load_config(path))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_setting_of_a_recipe_has_an_effect(path):
    config = load_config(path)
    assert without_effect(config) == []
    assert config.run.dir == f"runs/{path.stem}"
    if path.stem.endswith("_cpu"):
        assert not config.model.pretrained
        assert config.loss.perceptual_weight == 0  # needs a download


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_says_in_its_header_how_to_run_it(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(header) >= 2
    assert any(f"--config launch/recipes/{path.name}" in line for line in header)


def test_every_generator_has_a_recipe():
    used = {load_config(path).model.generator for path in RECIPES}
    assert GENERATORS.keys() - used == {"resnet18_unet", "resnet50_unet"}  # resnet34.yaml names them


@pytest.mark.slow
def test_the_comparison_trains_every_small_recipe_under_one_budget(shard_set, tmp_path):
    config, rows, _ = load_comparison(COMPARISON, shards=str(shard_set), out=str(tmp_path))
    assert config.budget.minutes == 10
    assert {row.recipe.resolve() for row in rows} == {
        path
        for path in RECIPES
        if (path.stem.endswith("_cpu") or path.stem == "tiny64_pretrained") and path.stem != "tiny64_cpu"
    }
    assert {row.config.data.batch for row in rows} == {32}  # equal steps are equal images
    heads = {row.name: row.config.model.head for row in rows if row.config.model.generator == "paper_cnn"}
    assert heads == {"paper_as_published": "rgb_as_published", "paper_repaired": "lab"}
