"""The zoo: sizes, shapes, the gray start, refusals."""

import inspect
import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from marks import slow
from torch import nn

from streamgan.core.color import HEADS, rgb_to_lab
from streamgan.core.errors import ConfigError
from streamgan.core.settings import ModelConfig
from streamgan.losses import r1_penalty
from streamgan.metrics.functional import psnr
from streamgan.models import DISCRIMINATORS, GENERATORS, build_discriminator, build_generator
from streamgan.models.decoder import ShuffleUp, blur, icnr_
from streamgan.models.layers import NORMS
from streamgan.models.padding import crop_like, reflect_to_multiple
from streamgan.models.unet import default_depth
from streamgan.models.unet_discriminator import PooledAttention

SMALL = {
    "paper_cnn": {"width": 4, "depth": 1},
    "unet": {"width": 4, "depth": 3},
    "koalarization": {"width": 4},
    "zhang": {"width": 4},
    "ddcolor": {"width": 8, "depth": 3},
    "timm_unet": {"width": 4, "variant": "test_efficientnet"},
    **{f"{name}_unet": {"width": 4} for name in ("vgg16", "vgg19", "resnet18", "resnet34", "resnet50")},
}
# The larger of two with the same code are left to the slow suite.
LARGE = ("vgg19_unet", "resnet34_unet", "resnet50_unet")
ZOO = [slow(name) if name in LARGE else name for name in GENERATORS]
PUBLISHED = {
    "vgg16_unet": (GENERATORS, {"out_channels": 2}, 19e6, 0.005),
    "vgg19_unet": (GENERATORS, {"out_channels": 2}, 24e6, 0.02),
    "resnet34_unet": (GENERATORS, {"out_channels": 2}, 30e6, 0.02),
    "ddcolor": (GENERATORS, {"out_channels": 2}, 55e6, 0.005),
    "koalarization": (GENERATORS, {"out_channels": 2}, 6.57e6 + 11.69e6, 0.002),
    "zhang": (GENERATORS, {"out_channels": 2}, 32e6, 0.01),
    "unet D": (DISCRIMINATORS, {}, 4.46e6, 0.005),
    "paper_cnn": (GENERATORS, {"out_channels": 3, "bounded": True}, 10.3e6, 0.005),
    "unet": (GENERATORS, {"out_channels": 2}, 54.41e6, 0.001),
    "paper_cnn D": (DISCRIMINATORS, {}, 1.55e6, 0.005),
    "patchgan": (DISCRIMINATORS, {}, 2.77e6, 0.005),
}


def generator(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return build_generator(name, **{"out_channels": 2, **SMALL[name], **options})


def disturb(model: nn.Module) -> nn.Module:
    """Every parameter away from its start, so that a zero-initialised layer lets the image through."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    return model


@pytest.mark.parametrize("option", ["width", "depth", "norm", "dropout"])
@pytest.mark.parametrize("name", GENERATORS)
def test_every_option_changes_the_model_or_is_refused(name, option):
    values = {"width": [24, 48], "depth": [4, 5], "norm": ["batch", "none"], "dropout": [0.1, 0.2]}[option]
    made = []
    with torch.device("meta"):
        for value in values:
            with suppress(ConfigError):
                made.append(repr(generator(name, **{option: value})))
    assert len(made) == len(set(made))


def test_a_u_net_deeper_than_any_photo_can_be_halved_is_refused():
    with pytest.raises(ConfigError, match=r"^model.depth: too large \(got 100\); give at most 12$"):
        generator("unet", depth=100)


@pytest.mark.parametrize("name", [slow(name) if name == "unet D" else name for name in PUBLISHED])
def test_the_published_size_is_reached_at_full_width(name):
    table, options, num_parameters, tolerance = PUBLISHED[name]
    with torch.device("meta"):
        model = table[name.removesuffix(" D")](**options)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(num_parameters, rel=tolerance)


@pytest.mark.parametrize("table", [GENERATORS, DISCRIMINATORS], ids=["G", "D"])
def test_a_builder_declares_the_options_that_it_has_which_are_settings(table):
    given = {"out_channels", "bounded"} if table is GENERATORS else {"in_channels"}
    for name, build in table.items():
        parameters = inspect.signature(build).parameters
        assert given <= set(parameters) <= given | {"size"} | set(ModelConfig.model_fields), name
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values()), name


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 7), (16, 16), (97, 131)])
@pytest.mark.parametrize("name", ZOO)
def test_any_image_size_comes_back_as_it_went_in(name, size):
    output = disturb(generator(name).eval())(torch.rand(2, 1, *size))
    assert output.shape == (2, 2, *size)
    assert output.isfinite().all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ZOO)
def test_every_norm_trains_and_keeps_the_input_visible_at_a_bottleneck_of_one_pixel(name, norm):
    model = disturb(generator(name, norm=norm))
    image = torch.rand(2, 1, 8, 8, requires_grad=True)
    output = model(image)
    (gradient,) = torch.autograd.grad(output.square().sum(), image)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("norm", ["instance", "group", "none"])
@pytest.mark.parametrize("name", sorted(GENERATORS.keys() - {"timm_unet"}))  # its backbone's norm is timm's
def test_an_image_is_coloured_alike_alone_and_in_a_batch(name, norm):
    model = disturb(generator(name, norm=norm))
    images = torch.rand(3, 1, 24, 24)
    alone = torch.cat([model(image) for image in images.split(1)])
    torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *((name, "lab") for name in GENERATORS),
        ("unet", "ycbcr"),
        ("unet", "rgb"),
        ("resnet18_unet", "rgb"),
        ("ddcolor", "rgb"),
        ("koalarization", "rgb"),
    ],
)
def test_an_untrained_generator_gives_the_gray_baseline(name, head):
    color = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    channels = HEADS[head].channels
    given, _ = HEADS[head].encode(color, None)
    model = generator(name, out_channels=channels, bounded=head == "rgb")
    gray = torch.zeros(2, 2, 32, 32)
    baseline = HEADS["lab" if head == "rgb" else head].decode(given, gray)
    difference = psnr(HEADS[head].decode(given, model(given)), color / 255) - psnr(baseline, color / 255)
    assert difference.abs().max() < 0.01
    assert rgb_to_lab(HEADS[head].decode(given, model(given)))[:, 1:].abs().max() < 0.1


@pytest.mark.parametrize("name", sorted(GENERATORS.keys() - {"zhang"}))
def test_a_bounded_generator_stays_within_0_and_1(name):
    output = disturb(generator(name, out_channels=3, bounded=True))(10 * torch.randn(2, 1, 16, 16))
    assert ((output >= 0) & (output <= 1)).all()
    assert output.std() > 0


def test_subpixels_start_as_nearest_neighbours_and_blur_keeps_a_constant():
    up = ShuffleUp(8, 3)
    up.factor = 3  # of the same kernel, without the blur
    up.conv = nn.Conv2d(8, 27, 1)
    icnr_(up.conv.weight, 3)
    nn.init.zeros_(up.conv.bias)
    image = torch.rand(1, 8, 4, 5)
    large = up(image)
    assert large.shape == (1, 3, 12, 15)
    assert torch.equal(large, large[..., ::3, ::3].repeat_interleave(3, -1).repeat_interleave(3, -2))
    assert large.std() > 0
    constant = torch.full((1, 1, 4, 4), 0.7)
    torch.testing.assert_close(blur(constant), constant)
    stripes = torch.tensor([[0.0, 1.0]]).repeat(6, 3)[None, None]
    for pattern in (stripes, stripes.mT):
        torch.testing.assert_close(blur(pattern)[..., 1:, 1:], torch.full((1, 1, 5, 5), 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 8, 1, 6), (1, 8, 6, 1)])
def test_blur_is_the_same_in_training_to_the_bit_and_keeps_the_layout(dtype, layout, shape):
    image = torch.randn(shape).to(dtype, memory_format=layout)
    with torch.no_grad():
        plain = blur(image)
    training = blur(image.clone().requires_grad_())
    assert training.grad_fn is not None
    assert torch.equal(training, plain)
    if shape[1] > 1 and min(shape[2:]) > 1:
        assert training.is_contiguous(memory_format=layout)


def test_the_gradient_of_blur():
    for shape in ((2, 3, 5, 4), (1, 2, 1, 3), (1, 2, 3, 1)):
        image = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(blur, (image,))


def test_the_unet_normalises_neither_its_first_nor_its_innermost_map():
    norms = [m for m in generator("unet", depth=5, norm="batch").modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (5 - 2) + (5 - 1)  # down steps but two, up steps but the last


@pytest.mark.parametrize("name", ZOO)
def test_a_generator_starts_from_the_seed_alone_and_survives_its_state_dict(name):
    first, again = generator(name).eval(), generator(name).eval()
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    disturb(first)
    again.load_state_dict(first.state_dict())
    image = torch.rand(2, 1, 33, 47)
    assert torch.equal(first(image), again(image))
    assert torch.equal(first(image), first(image))


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.slow
def test_published_generators_run_on_meta_at_training_sizes(name, size):
    with torch.device("meta"):
        model = build_generator(name, out_channels=2, size=size)
        assert model(torch.rand(2, 1, size, size)).shape == (2, 2, size, size)


def test_the_bounded_paper_generator_gives_rgb_and_is_not_zero_at_the_start():
    output = generator("paper_cnn", out_channels=3, bounded=True)(torch.rand(2, 1, 16, 16))
    assert ((output > 0) & (output < 1)).all()
    assert output.std() > 0


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_of_a_generator_learns_once_the_last_layer_has_moved(name):
    model = generator(name, norm="group")
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model(torch.rand(2, 1, 64, 64)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (GENERATORS, "unet"),
        (DISCRIMINATORS, "patchgan"),
        *(slow(GENERATORS, name) for name in GENERATORS if name != "unet"),
        *(slow(DISCRIMINATORS, name) for name in DISCRIMINATORS if name != "patchgan"),
    ],
)
def test_models_run_under_bf16_autocast_in_channels_last_and_on_meta(table, name):
    def build() -> nn.Module:
        return generator(name) if table is GENERATORS else table[name](width=4)

    channels = 1 if table is GENERATORS else 3
    model = build().to(memory_format=torch.channels_last)
    image = torch.rand(2, channels, 29, 31).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(image)
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
    with torch.device("meta"):
        assert build()(torch.rand(2, channels, 29, 31)).shape == output.shape


def test_the_unet_follows_the_image_down_to_one_pixel():
    assert [default_depth(size) for size in (1, 16, 64, 96, 128, 256, 512)] == [2, 4, 6, 6, 7, 8, 8]
    with torch.device("meta"):
        deep, shallow = (GENERATORS["unet"](out_channels=2, size=size) for size in (256, 32))
    dropouts = [sum(isinstance(m, nn.Dropout) for m in model.modules()) for model in (deep, shallow)]
    assert dropouts == [3, 0]


@pytest.mark.parametrize(("depth", "count"), [(2, 1), (4, 3), (8, 3)])
def test_a_rate_of_dropout_reaches_the_innermost_up_steps_of_any_depth(depth, count):
    model = GENERATORS["unet"](out_channels=2, width=2, depth=depth, dropout=0.3)
    dropped = [[m.p for m in up if isinstance(m, nn.Dropout)] for up in model.ups]
    assert dropped == [[0.3]] * count + [[]] * (depth - 1 - count)


@pytest.mark.parametrize("name", sorted(GENERATORS.keys() - {"unet", "timm_unet"}))
def test_dropout_is_refused_where_there_is_none(name):
    with torch.device("meta"), pytest.raises(ConfigError, match=r"^model\.dropout: "):
        build_generator(name, out_channels=2, dropout=0.3)


def test_a_refusal_names_the_options_that_there_are():
    for value, got in ((0.1, "0.1"), (0.0, "0.0")):
        with pytest.raises(ConfigError) as error:
            build_generator("paper_cnn", out_channels=2, dropout=value)
        assert str(error.value) == (
            f"model.dropout: paper_cnn does not have this option (got {got}); "
            "leave it out, or choose another model (paper_cnn has depth, norm, width)"
        )


def test_a_new_option_is_a_keyword_of_its_model_alone(monkeypatch):
    class Model(nn.Module):
        def __init__(self, *, out_channels: int, bounded: bool = False, spots: int = 3):
            super().__init__()
            self.spots = spots

    monkeypatch.setitem(GENERATORS, "spotted", Model)
    options = {"out_channels": 2, "size": 64, "bounded": False, "width": None, "pretrained": False}
    assert build_generator("spotted", **options).spots == 3
    assert build_generator("spotted", **options, spots=5).spots == 5
    with pytest.raises(ConfigError, match=r"^model\.spots: unet does not have this option \(got 5\)"):
        build_generator("unet", **options, spots=5)


def test_the_patches_of_patchgan_have_70_pixels():
    model = DISCRIMINATORS["patchgan"](width=2).eval()
    image = torch.rand(1, 3, 160, 160, requires_grad=True)
    logits = model(image)
    (gradient,) = torch.autograd.grad(logits[0, 0, 9, 9], image)
    seen = gradient.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]
    assert logits.shape == (1, 1, 18, 18)


def test_patchgan_has_unit_spectral_norm_and_no_batch_norm():
    model = DISCRIMINATORS["patchgan"](width=4)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 5
    for _ in range(20):
        model(torch.rand(1, 3, 32, 32))
    for conv in convs:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def test_patchgan_says_when_an_image_is_too_small():
    model = DISCRIMINATORS["patchgan"](width=2)
    assert model(torch.rand(1, 3, 24, 40)).shape == (1, 1, 1, 3)
    with pytest.raises(ConfigError, match="got 23 x 40"):
        model(torch.rand(1, 3, 23, 40))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 47)])
def test_the_unet_discriminator_judges_every_pixel_of_any_image(size):
    model = disturb(DISCRIMINATORS["unet"](width=4).eval())
    image = torch.rand(2, 3, *size, requires_grad=True)
    logits = model(image)
    assert logits.shape == (2, 1, *size)
    (gradient,) = torch.autograd.grad(logits[0].sum(), image)
    assert (gradient[0].abs().sum(0) > 0).all()
    assert not gradient[1].any()


@pytest.mark.parametrize("name", ["unet", "ddcolor"])
def test_r1_reaches_every_parameter_of_a_discriminator_with_attention(name):
    model = disturb(DISCRIMINATORS[name](width=8))
    real = torch.rand(2, 3, 64, 64, requires_grad=True)
    r1_penalty(model(real, full_precision=True), real).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # a bias moves the slopes of ReLU only
        assert parameter.grad.any() or name.endswith("bias"), name


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooled_attention_is_softmax_of_products(pool, layout):
    model = disturb(PooledAttention(16, pool=pool).eval())
    x = torch.randn(2, 16, 6, 8).to(memory_format=layout)
    small = nn.functional.max_pool2d(x, pool)
    query, key, value = (
        layer(one).flatten(2)
        for layer, one in zip((model.query, model.key, model.value), (x, small, small), strict=True)
    )
    weight = torch.einsum("bcn,bcm->bnm", query, key).softmax(-1)
    attended = torch.einsum("bcm,bnm->bcn", value, weight)
    made = model(x)
    torch.testing.assert_close(made, x + model.gamma * attended.view(x.shape))
    assert made.is_contiguous(memory_format=layout)
    assert (made - x).abs().max() > 0.01


def test_attention_of_the_unet_discriminator_starts_switched_off_and_sees_the_whole_image():
    model = DISCRIMINATORS["unet"](width=8).eval()
    assert model.attention.gamma.item() == 0
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    for gamma, everywhere in ((0.0, False), (1.0, True)):
        nn.init.constant_(model.attention.gamma, gamma)
        (gradient,) = torch.autograd.grad(model(image)[0, 0, 0, 0], image)
        assert (gradient[..., -8:, -8:].abs().sum() > 0) == everywhere


def test_the_paper_discriminator_gives_one_logit_an_image_of_any_size():
    model = DISCRIMINATORS["paper_cnn"](width=4)
    for size in ((16, 16), (33, 50)):
        assert model(torch.rand(3, 3, *size)).shape == (3, 1)


@pytest.mark.parametrize(
    ("build", "name", "options", "where"),
    [
        (build_generator, "paper_cnn", {"out_channels": 2, "pretrained": True}, "model.pretrained"),
        (build_generator, "unet", {"out_channels": 2, "pretrained": True}, "model.pretrained"),
        (build_generator, "vgg16_unet", {"out_channels": 2, "depth": 3}, "model.depth"),
        (build_generator, "resnet34_unet", {"out_channels": 2, "depth": 3}, "model.depth"),
        (
            build_generator,
            "resnet18_unet",
            {"out_channels": 2, "pretrained": True, "norm": "group"},
            "model.norm",
        ),
        (build_generator, "zhang", {"out_channels": 3, "bounded": True}, "model.head"),
        (build_generator, "zhang", {"out_channels": 2, "pretrained": True}, "model.pretrained"),
        (build_generator, "koalarization", {"out_channels": 2, "depth": 3}, "model.depth"),
        (build_generator, "ddcolor", {"out_channels": 2, "pretrained": True, "width": 8}, "model.width"),
        (build_discriminator, "unet", {"depth": 1}, "model.depth"),
        (build_discriminator, "unet", {"norm": "batch"}, "model.norm"),
        (build_generator, "unet", {"out_channels": 2, "depth": 1}, "model.depth"),
        (build_generator, "paper_cnn", {"out_channels": 2, "width": 0}, "model.width"),
        (build_generator, "unet", {"out_channels": 2, "width": 2, "norm": "layer"}, "model.norm"),
        (build_discriminator, "paper_cnn", {"depth": 3}, "model.depth"),
        (build_discriminator, "patchgan", {"norm": "batch"}, "model.norm"),
    ],
)
def test_an_option_that_a_model_does_not_have_is_refused(build, name, options, where):
    with pytest.raises(ConfigError, match=f"^{where}: "):
        build(name, **options)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"model.generator: .*'papercnn'.*'paper_cnn'.*choose from .*paper_cnn, .*unet"
    ):
        build_generator("papercnn", out_channels=2)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (8, 8), (9, 17)])
def test_padding_reflects_as_numpy_does_and_crops_back(size):
    image = torch.rand(1, 2, *size)
    padded = reflect_to_multiple(image, 8)
    extra = [math.ceil(side / 8) * 8 - side for side in size]
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, extra[0]), (0, extra[1])), mode="reflect")
    assert torch.equal(padded, torch.from_numpy(expected))
    assert torch.equal(crop_like(padded, image), image)
