"""The table of the zoo: counts against hand-made ones, receptive fields against arithmetic."""

import importlib
import json
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from streamgan.cli.main import streamgan
from streamgan.models import DISCRIMINATORS, GENERATORS
from streamgan.models.summary import PAPERS, receptive_field, summarise

TABLES = {"generator": GENERATORS, "discriminator": DISCRIMINATORS}


class PlusMean(nn.Module):
    """Every output depends on all inputs, as with attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("kind", TABLES)
def test_every_model_names_a_paper_that_its_module_names_too(kind):
    assert PAPERS[kind].keys() == TABLES[kind].keys()
    for name, build in TABLES[kind].items():
        function = build.func if isinstance(build, partial) else build
        assert PAPERS[kind][name][1] in importlib.import_module(function.__module__).__doc__, name


@pytest.mark.slow
def test_a_model_that_names_no_paper_yet_has_a_summary_all_the_same(monkeypatch):
    monkeypatch.setitem(DISCRIMINATORS, "mine", partial(DISCRIMINATORS["patchgan"], width=4, depth=1))
    found = summarise("discriminator", "mine", size=32)
    assert (found.name, found.sees, found.paper, found.url) == ("mine", 16, "", "")


@pytest.mark.parametrize(
    ("layers", "sees"),
    [
        ([nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)], 5),
        ([nn.Conv2d(1, 4, 3, padding=2, dilation=2), nn.MaxPool2d(8), nn.Conv2d(4, 2, 3, padding=1)], 28),
        ([nn.Conv2d(1, 2, 1), PlusMean()], None),
        ([nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()], None),
    ],
)
def test_a_receptive_field_is_what_arithmetic_says(layers, sees):
    assert receptive_field(nn.Sequential(*layers), in_channels=1) == sees


@pytest.mark.slow
def test_figures_of_models_known_from_arithmetic():
    patches = summarise("discriminator", "patchgan")
    assert patches.sees == 70
    # convolutions of 4 x 4: channels in x out x positions
    macs = 16 * (3 * 64 * 128**2 + 64 * 128 * 64**2 + 128 * 256 * 32**2 + 256 * 512 * 31**2 + 512 * 30**2)
    assert patches.gmacs == pytest.approx(macs / 1e9)
    paper = summarise("generator", "paper_cnn")
    # three halvings, 16 convolutions at stride 8, transposed ones at 8, 4 and 2, the last one
    assert paper.sees == 15 + 16 * 2 * 8 + 8 + 4 + 2 + 2
    assert paper.parameters == sum(p.numel() for p in GENERATORS["paper_cnn"](out_channels=2).parameters())


@pytest.mark.slow
def test_attention_sees_everything():
    assert receptive_field(DISCRIMINATORS["unet"](width=4), in_channels=3) is None
    model = GENERATORS["resnet18_unet"](out_channels=2, width=4, norm="none")
    assert receptive_field(model, in_channels=1) is None


@pytest.mark.slow
def test_the_command_lists_all_models():
    done = CliRunner().invoke(streamgan, ["models", "--json"])
    rows = json.loads(done.stdout)["models"]
    assert [(row["kind"], row["name"]) for row in rows] == [
        (kind, name) for kind, table in TABLES.items() for name in table
    ]
    assert all(row["parameters"] > 1e6 and row["gmacs"] > 0.5 for row in rows)
    text = CliRunner().invoke(streamgan, ["models"]).stdout
    assert all(any(line.split()[:1] == [row["name"]] for line in text.splitlines()) for row in rows)
