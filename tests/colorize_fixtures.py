"""`streamgan colorize` with a tiny model, for tests that say `pytest_plugins = ["colorize_fixtures"]`."""

import pytest
from archive_fixtures import gray_of
from click.testing import CliRunner
from PIL import Image
from test_colorize import save_generator

from streamgan.cli.colorize import colorize


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "ema.safetensors")


@pytest.fixture
def run(model, tmp_path):
    """`run(INPUT..., OPTION...)` colours into tmp_path / "out"."""

    def made(*arguments: object):
        fixed = ("--model", model, "--out", tmp_path / "out", "--device", "cpu")
        return CliRunner().invoke(colorize, [str(one) for one in (*arguments, *fixed)])

    return made


@pytest.fixture
def gray(photo):
    """`gray(seed, size)` makes a structured picture in middle tones of gray."""

    def make(seed: int, size: tuple[int, int] = (72, 60)) -> Image.Image:
        return gray_of(photo(seed, size))

    return make
