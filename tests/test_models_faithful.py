"""The published networks are those of their authors' code: sizes, shapes, and outputs on fixed weights.

The numbers are of `python tests/authors.py NAME CHECKOUT`, which ran the authors' modules with the same
weights beside ours: unet, pix2pix equal to the bit, ddcolor to 8e-6, its discriminator to 5e-6, zhang and
koalarization to 2e-5 of the output's deviation. Parameters were counted in the authors' modules, too.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from authors import digest, fixed
from marks import slow
from test_step_zoo import meta_step
from torch import nn

from streamgan.core.color import HEADS, saturate, unit_rgb
from streamgan.core.config import load_config
from streamgan.core.errors import ConfigError
from streamgan.models import DISCRIMINATORS, GENERATORS
from streamgan.models.query_decoder import sine_positions
from streamgan.train import build
from streamgan.train.schedule import learning_rate_factor
from streamgan.train.step import GanStep
from streamgan.train.terms import MicroBatch, build_losses

OUTPUTS = {
    "unet": ((1, 2, 256, 256), [
        -0.0305305, 0.608988, 0.144673, 0.160128, -0.317378, -0.161528, -0.553165, -0.792984, -0.0500429,
        -0.551054,
    ]),
    "pix2pix": ((1, 1, 6, 6), [
        -1.00069, 0.66365, -1.91283, -1.84214, -1.6096, -2.44528, -0.125373, -0.798235, -1.33892, -1.73993,
    ]),
    "zhang": ((1, 2, 64, 64), [
        0.104982, 0.0343911, 0.12101, 0.112871, 0.112173, 0.132163, 0.0945094, 0.107361, 0.106192, 0.076361,
    ]),
    "koalarization": ((1, 2, 64, 64), [
        0.0925648, 0.132757, 0.261622, 0.0406682, 0.0720564, -0.0348964, 0.0442046, 0.125158, 0.194463,
        0.205739,
    ]),
    "ddcolor": ((1, 2, 64, 64), [
        -0.00033314, 0.00260686, 0.00109524, 0.000333829, 0.00186002, 0.000280719, 0.00515656, 0.0051359,
        0.00256887, 0.0056051,
    ]),
    "ddcolor_d": ((1, 1, 5, 5), [
        -0.116282, 0.0102914, -0.10849, -0.118897, -0.125547, -0.105531, -0.121359, -0.109367, -0.129141,
        -0.127765,
    ]),
}  # fmt: skip
SMALL = {"unet": {"width": 4, "depth": 3}, "ddcolor": {"width": 8, "depth": 3}}


def published(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return GENERATORS[name](out_channels=2, variant="published", **{**SMALL[name], **options})


@pytest.mark.parametrize("name", [slow(name) if name == "ddcolor" else name for name in OUTPUTS])
@torch.no_grad()
def test_the_published_network_gives_what_its_authors_gives(name):
    shape, expected = OUTPUTS[name]
    model, image = fixed(name)
    output = model(image)
    assert output.shape == shape
    assert digest(output) == pytest.approx(expected, rel=2e-4, abs=2e-4 * expected[1])


@pytest.mark.parametrize(
    ("build_it", "options", "theirs"),
    [
        (GENERATORS["unet"], {"out_channels": 2, "variant": "published"}, 54_409_858),
        (GENERATORS["unet"], {"out_channels": 2, "variant": "published", "size": 128}, 41_824_898),
        (DISCRIMINATORS["pix2pix"], {}, 2_765_633),
        # less the norm after the global mean of the encoder, which nothing uses
        slow(GENERATORS["ddcolor"], {"out_channels": 2, "variant": "published"}, 55_006_640 - 1536),
        slow(
            GENERATORS["ddcolor"],
            {"out_channels": 2, "variant": "published", "width": 192},
            227_869_328 - 3072,
        ),
        slow(DISCRIMINATORS["ddcolor"], {}, 5_919_617),
        # 52 bins of 257 numbers fewer, and no convolution from bins to ab
        (GENERATORS["zhang"], {"out_channels": 2}, 32_236_011 - 52 * 257 - 2 * 313),
    ],
)
def test_the_published_network_has_the_parameters_of_its_authors(build_it, options, theirs):
    with torch.device("meta"):
        model = build_it(**options)
    assert sum(parameter.numel() for parameter in model.parameters()) == theirs


@pytest.mark.parametrize("name", SMALL)
def test_a_published_generator_starts_with_colour_learns_everywhere_and_takes_any_size(name):
    model = published(name)
    image = 2 * torch.rand(2, 1, 40, 24) - 1
    output = model(image)
    assert output.shape == (2, 2, 40, 24)
    assert output.std() > 0
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model(image).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    again = published(name).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(image), model.eval()(image))
    assert again(torch.rand(1, 1, 5, 7)).shape == (1, 2, 5, 7)


def test_koalarization_as_published_pads_as_tensorflow_does_and_stays_within_the_tanh():
    with torch.device("meta"):
        model = GENERATORS["koalarization"](out_channels=2, variant="published")
    strided = [m for m in model.encoder.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert [conv.padding for conv in strided] == [(0, 0)] * 3
    assert sum(isinstance(m, nn.ZeroPad2d) for m in model.encoder.modules()) == 3
    # the authors', without the weights of the score that timm leaves out
    ours = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.embedder.parameters())
    assert ours == 6_574_050 - 256
    assert type(model.embedder).__name__ == "InceptionResNetScores"
    with pytest.raises(ConfigError, match=r"^model\.head: koalarization as published predicts Lab ab"):
        GENERATORS["koalarization"](out_channels=3, bounded=True, variant="published")


def test_a_published_generator_travels_by_its_name_and_default_ones_as_before():
    words = ["run.steps=1", "model.generator=ddcolor"]
    spec = build.generator_spec(load_config(None, [*words, "model.variant=published"]))
    assert spec["options"]["variant"] == "published"
    assert "variant" not in build.generator_spec(load_config(None, words))["options"]
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match=r"^model\.head: ddcolor as published predicts"),
    ):
        GENERATORS["ddcolor"](out_channels=3, bounded=True, variant="published")


def test_the_published_unet_has_batch_norm_no_biases_beside_it_and_dropout_in_three_steps():
    for size in (128, 256):
        with torch.device("meta"):
            ours, theirs = (
                GENERATORS["unet"](out_channels=2, size=size, variant=v) for v in (None, "published")
            )
        for model in (ours, theirs):
            dropped = [any(isinstance(m, nn.Dropout) for m in up) for up in model.ups]
            assert dropped == [True] * 3 + [False] * (len(dropped) - 3)
        norms = [m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 2 * len(theirs.ups) - 1
        with_bias = [key for key, _ in theirs.named_parameters() if key.endswith("bias") and ".1." not in key]
        assert with_bias == ["last.bias"]


def test_the_published_patchgan_sees_real_and_made_photos_apart():
    torch.manual_seed(0)
    model = DISCRIMINATORS["pix2pix"](width=4)
    real, made = torch.rand(2, 3, 32, 32), 3 * torch.rand(2, 3, 32, 32)
    apart = torch.cat((model(real), model(made)))
    both = torch.cat((real, made))
    torch.testing.assert_close(model(both, parts=2), apart)
    assert not torch.allclose(model(both), apart, atol=0.1)
    spectral = DISCRIMINATORS["patchgan"](width=4).eval()
    assert torch.equal(spectral(both, parts=2), spectral(both))


def test_published_positions_lie_half_a_pixel_further_with_sines_and_cosines_in_turn():
    ours = sine_positions(3, 5, 16, device=torch.device("cpu"))
    theirs = sine_positions(3, 5, 16, device=torch.device("cpu"), published=True)
    assert ours[0, 0].item() == pytest.approx(math.sin(0.5 / 3 * 2 * math.pi))
    assert theirs[0, :2].tolist() == pytest.approx(
        [math.sin(2 * math.pi / 3), math.cos(2 * math.pi / 3)], abs=1e-6
    )


def test_a_discriminator_that_judges_photos_sees_real_ones_saturated(monkeypatch):
    words = ["loss.judge=photo", "loss.real_saturation=1.2", "loss.gan_weight=1"]
    config = load_config(None, ["run.steps=1", *words])
    losses = build_losses(config)
    assert (losses.judge_photos, losses.real_saturation) == (True, 1.2)
    networks = SimpleNamespace(plain_generator=nn.Identity(), plain_discriminator=None)
    step = GanStep(None, networks, HEADS["lab"], losses, seed=0)  # type: ignore[arg-type]
    photo = torch.randint(60, 190, (2, 3, 8, 8), dtype=torch.uint8)
    real = MicroBatch(HEADS["lab"], *HEADS["lab"].encode(photo, None), saturation=losses.real_saturation)
    torch.testing.assert_close(step._view(real, real.target_BCHW), unit_rgb(photo), atol=1e-3, rtol=0)
    judged = step._view(real)
    torch.testing.assert_close(judged, saturate(unit_rgb(photo), 1.2), atol=2e-3, rtol=0)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close((judged * luma).sum(1), (unit_rgb(photo) * luma).sum(1), atol=2e-3, rtol=0)
    assert judged.std(1).mean() > 1.15 * unit_rgb(photo).std(1).mean()


@pytest.mark.slow
def test_the_published_networks_train_in_a_step_that_never_waits():
    small = [f"model.{key}={value}" for key, value in SMALL["ddcolor"].items()]
    words = ["model.variant=published", "model.d_width=4", "loss.gan=bce"]
    meta_step("model.generator=ddcolor", *small, "model.discriminator=ddcolor", *words, accumulate=2)
    meta_step("model.width=4", "model.depth=3", "model.discriminator=pix2pix", *words)
    saturated = ["loss.judge=photo", "loss.real_saturation=1.2", "loss.gan_weight=1", "model.d_width=4"]
    meta_step(*saturated, "model.discriminator=ddcolor", "model.width=4", "model.depth=3")


def test_learning_rates_may_fall_later_than_the_first_interval():
    words = ["run.steps=400000", "optim.schedule=step", "optim.decay_every=40000", "optim.decay_after=40000"]
    config = load_config(None, words)
    factors = [
        learning_rate_factor(config, step, 400_000) for step in (0, 79_999, 80_000, 119_999, 120_000, 399_999)
    ]
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.5**8]
