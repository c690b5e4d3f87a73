"""Losses against their formulas, under autocast, and through DDP's eyes."""

import math

import pytest
import torch
from torch import nn

from streamgan.losses import ADVERSARIAL, RECONSTRUCTION, gradient_penalty, log_mse, mix, r1_penalty
from streamgan.models import DISCRIMINATORS


def test_adversarial_losses_are_what_their_formulas_say():
    x = torch.tensor([[-2.0], [0.5], [3.0]])
    sigmoid = x.sigmoid()
    expected = {
        "bce": (-sigmoid.log(), -(1 - sigmoid).log(), -sigmoid.log()),
        "hinge": ((1 - x).clamp_min(0), (1 + x).clamp_min(0), -x),
        "lsgan": ((x - 1) ** 2, x**2, (x - 1) ** 2),
        "wgan": (-x, x, -x),
    }
    assert expected.keys() == ADVERSARIAL.keys()
    for name, formulas in expected.items():
        for function, values in zip(ADVERSARIAL[name], formulas, strict=True):
            torch.testing.assert_close(function(x), values.mean())


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_losses_push_logits_the_right_way(name):
    loss = ADVERSARIAL[name]
    for function, sign in ((loss.d_real, -1), (loss.d_fake, 1), (loss.g, -1)):
        logits = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
        (gradient,) = torch.autograd.grad(function(logits), logits)
        wanted = (
            logits.detach() - (1 if sign < 0 else 0) if name == "lsgan" else torch.full((3,), float(sign))
        )
        assert torch.equal(gradient.sign(), wanted.sign())


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_losses_stay_finite_and_fp32_for_huge_bf16_logits(name):
    logits = torch.tensor([-300.0, 300.0], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [function(logits) for function in ADVERSARIAL[name]]
    assert all(loss.dtype == torch.float32 and loss.ndim == 0 and loss.isfinite() for loss in losses)
    (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("shape", [(8, 1), (8, 1, 5, 7)])
def test_the_mean_over_micro_batches_is_the_loss_of_the_batch(name, shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for function in ADVERSARIAL[name]:
        parts = torch.stack([function(part) for part in logits.split(2)])
        torch.testing.assert_close(parts.mean(), function(logits))


def test_reconstruction_losses_are_what_their_formulas_say():
    error = torch.tensor([0.0, 0.05, -0.5, 1.0]).view(1, 2, 1, 2)
    target = torch.tensor([0.25, -0.5, 0.75, 0.5]).view(1, 2, 1, 2)
    size = error.abs()
    huber = torch.where(size < 0.1, size**2 / 0.2, size - 0.05)  # quadratic below 0.1
    expected = {"l1": size.mean(), "mse": (size**2).mean(), "smooth_l1": huber.mean()}
    assert expected.keys() == RECONSTRUCTION.keys()
    for name, value in expected.items():
        torch.testing.assert_close(RECONSTRUCTION[name](target + error, target), value)
        assert RECONSTRUCTION[name](target.bfloat16(), target).dtype == torch.float32


def test_log_mse_is_the_mean_of_logarithms_and_hears_a_nearly_gray_image_as_well_as_a_colourful_one():
    target = torch.full((2, 2, 4, 4), 0.5)
    target[0] += 1.0
    target[1] += 0.1  # MSE 1 and 0.01
    pred = torch.full_like(target, 0.5, requires_grad=True)
    loss = log_mse(pred, target)
    expected = (math.log(1.001) + math.log(0.011)) / 2
    torch.testing.assert_close(loss, torch.tensor(expected))
    (slope,) = torch.autograd.grad(loss, pred)
    assert slope[1].norm() > 5 * slope[0].norm()  # the mean square's is a tenth
    assert log_mse(pred.bfloat16(), target).dtype == torch.float32


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight():
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(2))
    real = torch.rand(5, 3, 4, 4, requires_grad=True)
    logits = (real * weight).sum((1, 2, 3)).view(5, 1)
    torch.testing.assert_close(r1_penalty(logits, real), 0.5 * weight.square().sum())


def test_r1_of_patches_does_not_grow_with_the_image():
    values = []
    for patches in (2, 6):
        real = torch.rand(2, 3, 4 * patches, 4 * patches, requires_grad=True)
        conv = nn.Conv2d(3, 1, 4, stride=4)
        nn.init.constant_(conv.weight, 0.1)
        values.append(r1_penalty(conv(real), real).item())
    assert values[0] == pytest.approx(values[1]) == pytest.approx(0.5 * 48 * 0.01)


def test_r1_reaches_every_parameter_and_has_finite_second_derivatives():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))
    real = torch.rand(2, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = r1_penalty(model(real), real)
    assert penalty.dtype == torch.float32
    assert math.isfinite(penalty.item())
    penalty.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"DDP would wait for {name}"
        assert parameter.grad.isfinite().all()
    assert model[0].weight.grad.abs().sum() > 0
    assert model[2].bias.grad.abs().sum() == 0


@pytest.mark.parametrize("num_logits", [1, 4])
def test_the_gradient_penalty_of_a_linear_critic_is_its_distance_from_slope_one(num_logits):
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(2))
    mixed = torch.rand(5, 3, 4, 4, requires_grad=True)
    logits = (mixed * weight).sum((1, 2, 3)).view(5, 1).expand(5, num_logits)
    slope = weight.square().sum().sqrt() * num_logits / math.sqrt(num_logits)
    torch.testing.assert_close(gradient_penalty(logits, mixed), (slope - 1).square())


def test_the_gradient_penalty_reaches_every_parameter_and_is_smooth_where_the_slope_is_zero():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))
    for scale in (1.0, 0.0):
        model[2].weight.data *= scale
        mixed = torch.rand(2, 3, 8, 8, requires_grad=True)
        penalty = gradient_penalty(model(mixed), mixed)
        assert penalty.dtype == torch.float32
        model.zero_grad()
        penalty.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"DDP would wait for {name}"
            assert parameter.grad.isfinite().all()
        assert model[0].weight.grad.any() == (scale > 0)


def test_a_critic_that_minimises_the_penalty_comes_to_slope_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 36, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    penalties = []
    for _ in range(60):
        mixed = torch.rand(16, 3, 8, 8, requires_grad=True)
        penalty = gradient_penalty(model(mixed), mixed)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        penalties.append(penalty.item())
    assert penalties[0] > 0.1
    assert penalties[-1] < 0.01


def test_a_mixture_lies_between_an_image_and_its_fake():
    real, fake = torch.ones(64, 3, 2, 2), torch.zeros(64, 3, 2, 2, requires_grad=True)
    mixed = mix(real, fake * 1, torch.linspace(0, 1, 64))
    assert mixed.is_leaf
    assert mixed.requires_grad
    share = mixed.detach().flatten(1)
    assert (share == share[:, :1]).all()
    assert torch.equal(share[:, 0], torch.linspace(0, 1, 64))


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminator_computes_in_fp32_on_request_even_under_autocast(name):
    torch.manual_seed(0)
    model = DISCRIMINATORS[name](width=4).eval()
    image = torch.rand(2, 3, 32, 32)
    expected = model(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(image, full_precision=True), expected)
        assert model(image).dtype == torch.bfloat16


def test_r1_of_a_batch_is_the_mean_over_its_images():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3))
    images = torch.rand(4, 3, 8, 8)

    def penalty(part: torch.Tensor) -> torch.Tensor:
        real = part.clone().requires_grad_()
        return r1_penalty(model(real), real)

    torch.testing.assert_close(
        torch.stack([penalty(part) for part in images.split(1)]).mean(), penalty(images)
    )
