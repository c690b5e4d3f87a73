"""The published networks beside their authors' code: `python tests/authors.py NAME CHECKOUT`.

Both networks get the same fixed weights and the same input; the largest difference of their outputs is
printed, and the numbers that tests/test_models_faithful.py holds. CHECKOUT is the authors' repository:

| NAME | repository |
|---|---|
| unet, pix2pix | junyanz/pytorch-CycleGAN-and-pix2pix |
| zhang | richzhang/colorization |
| koalarization | baldassarreFe/deep-koalarization, on Keras 3 (KERAS_BACKEND=torch) |
| ddcolor, ddcolor_d | piddnad/DDColor |
"""

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from streamgan.core.color import gray_value
from streamgan.models import DISCRIMINATORS, GENERATORS
from streamgan.models.koalarization import Koalarization


class Scores(nn.Module):
    """In place of Inception-ResNet-v2: thousand numbers that the brightness of a photo gives."""

    num_classes = 1000

    def forward(self, given: Tensor) -> Tensor:
        return given.mean((1, 2, 3))[:, None] * torch.linspace(-10, 10, self.num_classes)


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: GENERATORS["unet"](out_channels=2, width=8, variant="published"),
    "pix2pix": lambda: DISCRIMINATORS["pix2pix"](width=8),
    "zhang": lambda: GENERATORS["zhang"](out_channels=2),
    "koalarization": lambda: Koalarization(
        2, width=64, norm="none", embedder=Scores(), bounded=False, published=True
    ),
    "ddcolor": lambda: GENERATORS["ddcolor"](out_channels=2, variant="published"),
    "ddcolor_d": lambda: DISCRIMINATORS["ddcolor"](width=8),
}
SIZES = {"unet": 256, "ddcolor_d": 128}  # pixels a side of the input; the others see 64


def fixed(name: str) -> tuple[nn.Module, Tensor]:
    """A published network with fixed weights in eval mode, and an input for it."""
    numbers = np.random.default_rng(17)

    def uniform(shape: torch.Size | tuple[int, ...]) -> Tensor:
        return torch.from_numpy(numbers.random(tuple(shape), dtype=np.float32))

    model = PUBLISHED[name]()
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or key in ("centres_Q2", "class_weights"):
            continue
        drawn = uniform(tensor.shape)
        if tensor.ndim > 1 and tensor.numel() > len(tensor):  # of a linear map
            tensor.copy_((2 * drawn - 1) * (6 / tensor[0].numel()) ** 0.5)
        elif key.endswith(("bias", "running_mean")):
            tensor.copy_(0.4 * drawn - 0.2)
        else:  # scales and variances
            tensor.copy_(0.5 + drawn)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for _ in range(20):
                module.weight  # noqa: B018  (a step of the power iteration)
    side = SIZES.get(name, 64)
    channels = 1 if name in GENERATORS else 3
    return model.eval(), 2 * uniform((1, channels, side, side)) - 1


def digest(output: Tensor) -> list[float]:
    """Ten numbers of an output: its mean, its deviation, and eight values."""
    values = output.flatten()
    return [values.mean().item(), values.std().item(), *values[:: len(values) // 8][:8].tolist()]


def _give(theirs: nn.Module | list[nn.Module], ours: nn.Module | list[nn.Module]) -> None:
    """Copy weights in their order; they may differ in names and in sides of length 1."""
    mine, other = (
        [t for m in (side if isinstance(side, list) else [side]) for t in m.state_dict().values()]
        for side in (ours, theirs)
    )
    for to, tensor in zip(other, mine, strict=True):
        to.copy_(tensor.reshape(to.shape))


def _package(name: str, folder: Path) -> None:
    """An empty package of this name, so that its own __init__, which imports everything, is not run."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def _unet(ours, checkout: Path):
    theirs = importlib.import_module("networks").UnetGenerator(1, 2, 8, ngf=8, use_dropout=True)
    _give(theirs, ours)
    return theirs


def _pix2pix(ours, checkout: Path):
    theirs = importlib.import_module("networks").NLayerDiscriminator(3, ndf=8)
    _give(theirs, ours)
    return theirs


def _zhang(ours, checkout: Path):
    """Theirs scales L otherwise; its demo decodes at temperature 1, which it has put into its weights."""
    sys.modules["IPython"] = types.ModuleType("IPython")
    sys.modules["IPython"].embed = None  # type: ignore[attr-defined]
    _package("colorizers", checkout / "colorizers")
    theirs = importlib.import_module("colorizers.eccv16").ECCVGenerator()
    convs = nn.Sequential(*(getattr(theirs, f"model{index}") for index in range(1, 9)))
    count = len(ours.centres_Q2)
    convs[-1][-1] = nn.Conv2d(256, count, 1)
    _give(convs, [ours.blocks, ours.up, ours.refine, ours.logits])
    theirs.model1[0].weight.data *= 2  # (L - 50) / 100 there
    convs[-1][-1].weight.data /= 0.38
    convs[-1][-1].bias.data /= 0.38
    theirs.model_out = nn.Conv2d(count, 2, 1, bias=False)
    theirs.model_out.weight.data = ours.centres_Q2.T[:, :, None, None] / 110
    return lambda given: theirs.eval()((given + 1) * 50) / 110


def _koalarization(ours, checkout: Path):
    keras = importlib.import_module("keras")
    engine = types.ModuleType("keras.engine")
    engine.InputLayer = lambda input_shape: keras.layers.InputLayer(shape=input_shape)  # type: ignore[attr-defined]
    engine.Layer = keras.layers.Layer  # type: ignore[attr-defined]
    sys.modules["keras.engine"] = engine
    _package("koalarization", checkout / "src" / "koalarization")
    theirs = importlib.import_module("koalarization.network_definition")
    encoder, decoder = theirs._build_encoder(), theirs._build_decoder(256)
    fusion = theirs.Colorization(256).after_fusion
    fusion.build((None, None, None, 256 + ours.embedder.num_classes))
    layers = [*encoder.layers, fusion, *(layer for layer in decoder.layers if layer.weights)]
    convs = [m for part in (ours.encoder, ours.fusion, ours.decoder, ours.last) for m in part.modules()]
    for layer, conv in zip(layers, [m for m in convs if isinstance(m, nn.Conv2d)], strict=True):
        layer.set_weights([conv.weight.detach().permute(2, 3, 1, 0).numpy(), conv.bias.detach().numpy()])

    def run(given: Tensor) -> Tensor:
        code = encoder(given.permute(0, 2, 3, 1))
        scores = ours.embedder(given)[:, None, None].expand(*code.shape[:3], -1)
        return decoder(fusion(torch.cat((code, scores), -1))).permute(0, 3, 1, 2) * 127 / 110

    return run


def _ddcolor(ours, checkout: Path):
    for name in ("basicsr", "basicsr.archs", "basicsr.utils"):
        _package(name, checkout / name.replace(".", "/"))
    arch = importlib.import_module("basicsr.archs.ddcolor_arch")
    theirs = arch.DDColor("convnext-t", num_output_channels=2, last_norm="Spectral", num_queries=100)
    encoder, colours = theirs.encoder.arch, theirs.decoder.color_decoder
    for level in range(4):
        _give(encoder.downsample_layers[level], ours.encoder.features[2 * level])
        _give(encoder.stages[level], ours.encoder.features[2 * level + 1])
        _give(getattr(encoder, f"norm{level}"), ours.encoder.norms[level])
    _give([theirs.decoder.layers, theirs.decoder.last_shuf.conv], [ours.ups, ours.full])
    for level, layer in enumerate(ours.queries.layers):
        cross = colours.transformer_cross_attention_layers[level]
        among = colours.transformer_self_attention_layers[level]
        feed = colours.transformer_ffn_layers[level]
        _give([cross, among, feed], [layer.cross, layer.norms[0], layer.among, layer.norms[1], layer.feed,
                                     layer.norms[2]])  # fmt: skip
    queries = ours.queries
    _give([colours.decoder_norm, colours.input_proj, colours.color_embed],
          [queries.norm, queries.project, queries.embed])  # fmt: skip
    colours.query_feat.weight.data = queries.content
    colours.query_embed.weight.data = queries.places
    colours.level_embed.weight.data = queries.scales
    _give(theirs.refine_net, ours.last)
    return lambda given: theirs.eval()(gray_value(given).expand(-1, 3, -1, -1)) / 110


def _ddcolor_d(ours, checkout: Path):
    for name in ("basicsr", "basicsr.archs", "basicsr.utils"):
        _package(name, checkout / name.replace(".", "/"))
    theirs = importlib.import_module("basicsr.archs.discriminator_arch").DynamicUNetDiscriminator(3, nf=8)
    attention = next(m for m in ours.modules() if type(m).__name__ == "PooledAttention")
    attention.query, attention.key = attention.key, attention.query  # it means them the other way round
    _give(theirs, ours)
    attention.query, attention.key = attention.key, attention.query
    return theirs


@torch.no_grad()
def main(name: str, checkout: str) -> None:
    ours, image = fixed(name)
    sys.path[:0] = [checkout, f"{checkout}/models"]
    theirs = globals()[f"_{name}"](ours, Path(checkout))
    if isinstance(theirs, nn.Module):
        theirs.eval()
    mine, other = ours(image), theirs(image)
    difference = (mine.flatten() - other.flatten()).abs().max() / other.std()
    print(f"{name}: difference {difference:.1e} of the deviation; {tuple(mine.shape)}, {tuple(other.shape)}")
    print([float(f"{value:.6g}") for value in digest(mine)])


if __name__ == "__main__":
    main(*sys.argv[1:])
