"""Colour against scikit-image and Pillow, and gradients at the points where the formulas have none."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from streamgan.core.color import (
    HEADS,
    _gamma,
    _linear,
    gray_value,
    lab_to_rgb,
    luma,
    rgb_to_lab,
    to_uint8,
    unit_rgb,
    without_autocast,
)

EXTREMES = torch.tensor(
    [[r, g, b] for r in (0.0, 0.5, 1.0) for g in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)]
).T.reshape(1, 3, 3, 9)


@pytest.fixture
def rgb_B3HW() -> torch.Tensor:
    return torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))


def channels_last(image_B3HW: torch.Tensor) -> np.ndarray:
    return image_B3HW.permute(0, 2, 3, 1).double().numpy()


def test_lab_equals_scikit_image(rgb_B3HW):
    for image in (rgb_B3HW, EXTREMES):
        ours = channels_last(rgb_to_lab(image))
        assert np.abs(ours - rgb2lab(channels_last(image))).max() < 0.01


def test_rgb_from_lab_equals_scikit_image(rgb_B3HW):
    lab = rgb_to_lab(rgb_B3HW)
    assert np.abs(channels_last(lab_to_rgb(lab)) - lab2rgb(channels_last(lab))).max() < 1e-3


def test_every_gray_has_no_chroma():
    gray = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert rgb_to_lab(gray)[:, 1:].abs().max() < 1e-4


@pytest.mark.parametrize("name", ["lab", "ycbcr", "rgb"])
def test_a_head_gives_back_what_it_encoded(name, rgb_B3HW):
    color = to_uint8(torch.cat((rgb_B3HW.flatten(2), EXTREMES.flatten(2).expand(2, 3, 27)), 2)[..., None])
    given_B1HW, target = HEADS[name].encode(color, None)
    assert given_B1HW.abs().max() <= 1 + 1e-5
    assert target.shape[1] == HEADS[name].channels
    assert (unit_rgb(color) - HEADS[name].decode(given_B1HW, target)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["lab", "ycbcr", "rgb"])
def test_the_gray_twin_gives_the_same_input_as_a_gray_colour_image(name):
    gray = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    derived, _ = HEADS[name].encode(gray.repeat(1, 3, 1, 1), None)
    given_B1HW, _ = HEADS[name].encode(
        gray.flip(2).repeat(1, 3, 1, 1), gray
    )  # the twin counts, not the color
    torch.testing.assert_close(derived, given_B1HW, atol=1e-5, rtol=0)


def test_a_discriminator_sees_the_chroma_with_its_luminance_or_the_image(rgb_B3HW):
    for name, head in HEADS.items():
        given_B1HW, target = head.to_pair(rgb_B3HW)
        expected = target if name.startswith("rgb") else torch.cat((given_B1HW, target), 1)
        assert torch.equal(head.pair(given_B1HW, target), expected)


def test_the_published_bug_learns_targets_in_minus_one_to_one(rgb_B3HW):
    assert torch.equal(HEADS["rgb"].to_target(rgb_B3HW), rgb_B3HW)
    assert torch.equal(HEADS["rgb_as_published"].to_target(rgb_B3HW), rgb_B3HW * 2 - 1)


def test_the_gray_value_of_a_lightness_is_the_one_that_it_comes_from():
    gray = torch.arange(256).view(1, 1, 16, 16) / 255
    torch.testing.assert_close(gray_value(HEADS["lab"].gray_to_input(gray)), gray, atol=1e-5, rtol=0)


def test_ycbcr_sees_the_luma_of_jpeg(rgb_B3HW):
    color = to_uint8(rgb_B3HW)
    ours = (HEADS["ycbcr"].encode(color, None)[0] + 1) / 2 * 255
    for index, image in enumerate(color):
        pillow = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert np.abs(ours[index, 0].round().numpy() - pillow).max() <= 1
        assert np.abs(luma(unit_rgb(color))[index, 0].numpy() * 255 - pillow).max() < 0.51


level = st.sampled_from([0.0, 1e-6, 0.003, 0.0031308, 0.04045, 0.2, 0.5, 1.0]) | st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(color=st.tuples(level, level, level))
@example(color=(0.0, 0.0, 0.0))
@example(color=(1.0, 1.0, 1.0))
@example(color=(0.5, 0.5, 0.5))
def test_gradients_through_encode_and_decode_are_finite(color):
    for head in HEADS.values():
        rgb = torch.tensor(color).view(1, 3, 1, 1).requires_grad_()
        given_B1HW, target = head.to_input(rgb), head.to_target(rgb)
        decoded = head.decode(given_B1HW, target)
        for output in (given_B1HW, target, decoded):
            (gradient,) = torch.autograd.grad(output.sum(), rgb, retain_graph=True)
            assert gradient.isfinite().all()


def test_the_transfer_functions_have_finite_gradients_at_black_and_beside_the_range():
    value = torch.tensor([-0.1, 0.0, 1e-9, 1.0, 1.1], requires_grad=True)
    for function in (_gamma, _linear):
        (gradient,) = torch.autograd.grad(function(value).sum(), value)
        assert gradient.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(lightness=st.floats(-1, 1, width=32), a=st.floats(-2, 2, width=32), b=st.floats(-2, 2, width=32))
@example(lightness=-1.0, a=0.0, b=0.0)
@example(lightness=1.0, a=0.0, b=0.0)
@example(lightness=-1.0, a=1.0, b=-1.0)
def test_any_prediction_decodes_to_a_colour_with_finite_gradients(lightness, a, b):
    for name in ("lab", "ycbcr"):
        given_B1HW = torch.full((1, 1, 1, 1), lightness)
        ab = torch.tensor([a, b]).view(1, 2, 1, 1).requires_grad_()
        rgb = HEADS[name].decode(given_B1HW, ab)
        assert ((rgb >= 0) & (rgb <= 1 + 1e-6)).all()
        (gradient,) = torch.autograd.grad(rgb.sum(), ab)
        assert gradient.isfinite().all()


def test_autocast_does_not_lower_the_precision_of_colour(rgb_B3HW):
    with torch.autocast("cpu", torch.bfloat16):
        under = rgb_to_lab(rgb_B3HW)
        back = lab_to_rgb(under)
    assert torch.equal(under, rgb_to_lab(rgb_B3HW))
    assert torch.equal(back, lab_to_rgb(under))


def test_colour_runs_on_the_meta_device():
    color = torch.empty(2, 3, 8, 8, dtype=torch.uint8, device="meta")
    for head in HEADS.values():
        given_B1HW, target = head.encode(color, color[:, :1])
        assert head.decode(given_B1HW, target).device.type == "meta"
    with without_autocast(color):
        assert not torch.is_autocast_enabled("cpu")
