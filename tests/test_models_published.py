"""Layers of the published networks, as their papers and their authors' code list them; forms of a model."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from streamgan.core.config import load_config
from streamgan.core.errors import ConfigError
from streamgan.models import DISCRIMINATORS, GENERATORS, build_generator
from streamgan.train import build

# kernel, stride, dilation, channels in -> out, side of the output for images of 256 pixels; "up": transposed
PAPER_CNN = [
    "3 s2 1>64 128", "3 s2 64>128 64", "3 s2 128>256 32", *["3 256>256 32"] * 16, "1 256>256 32",
    "3 s2 up 256>128 64", "3 s2 up 128>64 128", "3 s2 up 64>64 256", "3 64>3 256",
]  # fmt: skip
PAPER_D = ["3 s2 3>64 128", "3 s2 64>128 64", "3 s2 128>256 32", "3 s2 256>512 16"]
PIX2PIX = [
    "4 s2 1>64 128", "4 s2 64>128 64", "4 s2 128>256 32", "4 s2 256>512 16", "4 s2 512>512 8",
    "4 s2 512>512 4", "4 s2 512>512 2", "4 s2 512>512 1",
    "4 s2 up 512>512 2", "4 s2 up 1024>512 4", "4 s2 up 1024>512 8", "4 s2 up 1024>512 16",
    "4 s2 up 1024>256 32", "4 s2 up 512>128 64", "4 s2 up 256>64 128", "4 s2 up 128>2 256",
]  # fmt: skip
PATCHGAN = ["4 s2 3>64 128", "4 s2 64>128 64", "4 s2 128>256 32", "4 256>512 31", "4 512>1 30"]
KOALA = [
    "3 s2 1>64 128", "3 64>128 128", "3 s2 128>128 64", "3 128>256 64", "3 s2 256>256 32", "3 256>512 32",
    "3 512>512 32", "3 512>256 32", "1 1256>256 32",
    "3 256>128 32", "3 128>64 64", "3 64>64 64", "3 64>32 128", "3 32>2 128",
]  # fmt: skip
ZHANG = [
    "3 1>64 256", "3 s2 64>64 128", "3 64>128 128", "3 s2 128>128 64",
    "3 128>256 64", "3 256>256 64", "3 s2 256>256 32", "3 256>512 32", "3 512>512 32", "3 512>512 32",
    *["3 d2 512>512 32"] * 6, *["3 512>512 32"] * 3,
    "4 s2 up 512>256 64", "3 256>256 64", "3 256>256 64", "1 256>313 64",
]  # fmt: skip


@pytest.fixture(scope="module")
def bins_313(tmp_path_factory) -> str:
    """A file of 313 bins on the grid of the published ones."""
    grid = np.stack(np.meshgrid(np.arange(-90, 91, 10), np.arange(-110, 111, 10)), -1).reshape(-1, 2)
    path = tmp_path_factory.mktemp("bins") / "pts_in_hull.npy"
    np.save(path, grid[np.argsort((grid**2).sum(1), kind="stable")[:313]])
    return str(path)


def layers(model: nn.Module, in_channels: int) -> list[str]:
    """The convolutions in the order in which an image passes them."""
    seen: list[str] = []

    def note(conv: nn.Module, _: object, output: torch.Tensor) -> None:
        stride = f" s{conv.stride[0]}" if conv.stride[0] > 1 else ""
        dilation = f" d{conv.dilation[0]}" if conv.dilation[0] > 1 else ""
        up = " up" if isinstance(conv, nn.ConvTranspose2d) else ""
        width = f"{conv.in_channels}>{conv.out_channels}"
        seen.append(f"{conv.kernel_size[0]}{stride}{dilation}{up} {width} {output.shape[-1]}")

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(note)
    model(torch.empty(2, in_channels, 256, 256, device="meta"))
    return seen


@pytest.mark.parametrize(
    ("expected", "name", "options"),
    [
        (PAPER_CNN, "paper_cnn", {"out_channels": 3, "bounded": True}),
        (PIX2PIX, "unet", {"out_channels": 2}),
        (PAPER_D, "paper_cnn D", {}),
        (PATCHGAN, "patchgan D", {}),
        (KOALA, "koalarization", {"out_channels": 2}),
        (ZHANG, "zhang", {"out_channels": 2, "variant": "313"}),
    ],
)
def test_the_layers_are_those_of_the_paper(expected, name, options, bins_313):
    if "variant" in options:
        options = {**options, "variant": bins_313}
    table = DISCRIMINATORS if name.endswith(" D") else GENERATORS
    with torch.device("meta"):
        model = table[name.removesuffix(" D")](**options)
        if name == "koalarization":
            model.embedder.scores = lambda image: torch.empty(len(image), 1000)  # convolutions of its own
        assert layers(model, 3 if table is DISCRIMINATORS else 1) == expected


@pytest.mark.slow
def test_ddcolor_has_its_queries_layers_and_scales():
    with torch.device("meta"):
        model = GENERATORS["ddcolor"](out_channels=2)
    queries = model.queries
    assert queries.content.shape == queries.places.shape == (100, 256)
    assert (len(queries.layers), len(queries.project)) == (9, 3)
    assert [conv.in_channels for conv in queries.project] == [512, 512, 256]
    layer = queries.layers[0]
    assert (layer.cross.num_heads, layer.among.num_heads, layer.feed[0].out_features) == (8, 8, 2048)
    assert (model.last.in_channels, model.last.kernel_size) == (100 + 1, (1, 1))
    seen: list[int] = []
    for each in queries.layers:
        each.cross.register_forward_hook(lambda _, given, __: seen.append(given[1].shape[1]))
    model(torch.empty(1, 1, 64, 64, device="meta"))
    assert seen == [16, 64, 256] * 3  # H/16, H/8, H/4, three times


@pytest.mark.slow
def test_a_classifier_takes_bins_from_a_file_and_keeps_them_with_its_weights(bins_313):
    model = GENERATORS["zhang"](out_channels=2, width=4, variant=bins_313)
    assert model.centres_Q2.shape == (313, 2)
    assert model.centres_Q2.dtype == torch.float32
    assert torch.equal(model.centres_Q2, torch.from_numpy(np.load(bins_313)).float())
    assert model(torch.rand(1, 1, 16, 16)).abs().max() < 0.1 / 110  # still gray at first
    nn.init.normal_(model.logits.weight)
    model.set_class_weights(torch.rand(313))
    again = GENERATORS["zhang"](out_channels=2, width=4)  # as a weights file describes it
    again.load_state_dict(model.state_dict())
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(again.eval()(image), model.eval()(image))
    assert torch.equal(again.class_weights, model.class_weights)
    config = load_config(None, ["run.steps=1", "model.generator=zhang", f"model.variant={bins_313}"])
    build.check_models(config)
    assert "variant" not in build.generator_spec(config)["options"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (np.zeros((313, 3)), "does not hold pairs of a and b"),
        (np.zeros((4, 2)), "does not hold pairs"),
        (np.full((313, 2), np.nan), "leaves the ab plane"),
        (np.arange(626).reshape(313, 2), "leaves the ab plane"),
        (np.zeros((313, 2)), "holds a bin twice"),
        (b"not an array", "cannot be read"),
        (pickle.dumps(GENERATORS["unet"], protocol=2), "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_of_bins_is_one_line(content, what, tmp_path):
    path = tmp_path / "bins.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(ConfigError, match=rf"^model\.variant: .*{what}") as caught:
        GENERATORS["zhang"](out_channels=2, width=4, variant=str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_published_embedder_is_there():
    words = ["run.steps=1", "model.generator=koalarization", "model.variant=inception_resnet_v2"]
    config = load_config(None, words)
    build.check_models(config)
    assert build.generator_spec(config)["options"]["variant"] == "inception_resnet_v2"
    with torch.device("meta"):
        model = GENERATORS["koalarization"](out_channels=2, variant="inception_resnet_v2", pretrained=True)
        assert model(torch.empty(2, 1, 97, 131)).shape == (2, 2, 97, 131)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model, model.embedder)]
    assert sizes[0] - sizes[1] == pytest.approx(6.57e6, rel=0.002)
    assert sizes[1] == pytest.approx(55.84e6, rel=0.002)
    model.train()
    assert model.training
    assert not model.embedder.network.training  # frozen, as published
    assert {p.requires_grad for p in model.embedder.parameters()} == {False}


@pytest.mark.parametrize("name", sorted(GENERATORS.keys() - {"zhang"}))
def test_a_variant_that_a_model_does_not_have_is_refused(name):
    with torch.device("meta"), pytest.raises(ConfigError, match=r"^model\.variant: "):
        build_generator(name, out_channels=2, variant="other")


@pytest.mark.slow
def test_weights_of_the_published_embedder_come_from_a_file(tmp_path):
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("inception_resnet_v2", pretrained=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    more = {"out_channels": 2, "width": 4, "variant": "inception_resnet_v2"}
    model = GENERATORS["koalarization"](**more, pretrained=str(tmp_path / "weights.pth"))
    image = torch.rand(1, 1, 40, 50)
    with torch.no_grad():
        large = nn.functional.interpolate(image, (299, 299), mode="bilinear").expand(-1, 3, -1, -1)
        torch.testing.assert_close(model.embedder(image), theirs(large))
    model(image).square().sum().backward()
    assert all(p.grad is None for p in model.embedder.parameters())
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"^model\.pretrained: no weights of timm's"):
        GENERATORS["koalarization"](**more, pretrained=str(tmp_path / "other.pth"))
