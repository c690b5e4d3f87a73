"""Losses on photos and on classes of colour: perceptual, colourfulness, class-rebalanced cross-entropy."""

import copy
import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from streamgan.core.ab_bins import bin_centres, nearest_bin, soft_encode
from streamgan.core.color import AB_SCALE, HEADS
from streamgan.core.errors import ConfigError
from streamgan.losses import PerceptualLoss, class_weights, colourfulness_loss, rebalanced_cross_entropy
from streamgan.metrics.functional import colourfulness
from streamgan.train.class_prior import count_classes


def save_vgg(path, name: str):
    """Random weights of torchvision's VGG, of the convolutions alone, and its `features`."""
    torch.manual_seed(0)
    with torch.device("meta"):  # the classifier, 120 M parameters, is never filled
        features = getattr(torchvision.models, name)(weights=None).features
    features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, 0, 0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    return features.eval()


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    return save_vgg(path, "vgg16"), PerceptualLoss("vgg16", weights=str(path)), path


@pytest.mark.slow
def test_ddcolors_distance_is_between_first_convolutions_before_norm_and_relu(tmp_path):
    features = save_vgg(tmp_path / "vgg16_bn.pth", "vgg16_bn")
    loss = PerceptualLoss("vgg16_bn", weights=str(tmp_path / "vgg16_bn.pth"))
    photos = torch.rand(4, 3, 32, 32)
    x = torchvision.transforms.functional.normalize(photos, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    weights = dict(zip((0, 7, 14, 24, 34), (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), strict=True))  # conv1_1 ...
    expected = 0.0
    with torch.no_grad():
        for index, layer in enumerate(features):
            x = layer(x)
            if index in weights:
                expected = expected + weights[index] * F.l1_loss(x[:2], x[2:])
    torch.testing.assert_close(loss(photos[:2], photos[2:]), expected)


def test_the_perceptual_distance_is_that_of_torchvisions_features(vgg16, tmp_path):
    for name, (features, loss) in {
        "vgg16": vgg16[:2],
        "vgg19": (
            save_vgg(tmp_path / "vgg19.pth", "vgg19"),
            PerceptualLoss("vgg19", weights=str(tmp_path / "vgg19.pth")),
        ),
    }.items():
        photos = torch.rand(4, 3, 32, 32)
        x = torchvision.transforms.functional.normalize(photos, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        expected, block, first = 0.0, 0, True
        with torch.no_grad():
            for layer in features:
                x = layer(x)
                if isinstance(layer, nn.ReLU) and first:  # relu1_1, relu2_1, ...
                    expected = expected + (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)[block] * F.l1_loss(x[:2], x[2:])
                    block, first = block + 1, False
                elif isinstance(layer, nn.MaxPool2d):
                    first = True
        assert block == 5
        torch.testing.assert_close(loss(photos[:2], photos[2:]), expected, msg=name)


def test_the_perceptual_network_is_frozen_and_only_the_made_photo_gets_a_gradient(vgg16):
    loss = vgg16[1]
    made, real = torch.rand(2, 1, 3, 16, 16).requires_grad_().unbind(0)
    gradient = torch.autograd.grad(loss(made, real), (made, real), allow_unused=True)
    assert gradient[0].isfinite().all()
    assert gradient[0].any()
    assert gradient[1] is None
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not any(module.training for module in loss.modules())
    assert loss(real, real) == 0


def test_the_perceptual_loss_is_fp32_under_autocast(vgg16):
    photos = torch.rand(2, 1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        value = vgg16[1](*photos)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, vgg16[1](*photos), rtol=0.05, atol=0)


def test_the_perceptual_network_goes_where_the_photos_are(vgg16):
    photos = torch.empty(2, 1, 3, 16, 16, device="meta")
    assert copy.deepcopy(vgg16[1])(*photos).is_meta


def test_a_perceptual_network_without_its_weights_is_one_line(vgg16):
    with pytest.raises(ConfigError, match=r"^loss\.perceptual_file: no such file \(got nowhere\.pth\)"):
        PerceptualLoss("vgg16", weights="nowhere.pth")
    with pytest.raises(ConfigError, match=r"^loss\.perceptual_file: the weights do not fit: features\.16"):
        PerceptualLoss("vgg19", weights=str(vgg16[2]))


def test_colourfulness_loss_is_one_minus_a_hundredth_of_the_colourfulness():
    torch.manual_seed(0)
    photos = torch.rand(3, 3, 8, 8) * torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1, 1)
    photos = (photos * 255).round() / 255  # as the metric sees them
    expected = 1 - colourfulness(photos).mean() / 100
    torch.testing.assert_close(colourfulness_loss(photos), expected.float(), atol=1e-4, rtol=0)


def test_colourfulness_loss_has_a_finite_slope_at_gray_and_rewards_colour():
    gray = torch.rand(2, 1, 4, 4).expand(2, 3, 4, 4).clone().requires_grad_()
    loss = colourfulness_loss(gray)
    assert loss.item() == pytest.approx(1, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, gray)
    assert gradient.isfinite().all()
    pale = (gray.detach() + torch.tensor([0.1, 0, -0.1]).view(3, 1, 1)).clamp(0, 1)
    assert colourfulness_loss(pale) < loss


@pytest.mark.parametrize("share", [0.5, 0.9, 1])
def test_class_weights_follow_the_formulas_of_the_paper(share):
    centres = bin_centres()
    counts = torch.zeros(261, dtype=torch.int64)
    middle = centres.tolist().index([0.0, 0.0])
    counts[middle] = 1000
    weights = class_weights(counts, centres, uniform_share=share)
    # Zhang et al., equation 4: 1 / ((1 - lambda) p + lambda / Q), with p smoothed over the plane
    distance = centres.norm(dim=1)
    p = torch.exp(-(distance**2) / 50)
    p = p / p.sum()  # all neighbours of the middle lie in the gamut, so it hands out exactly this
    expected = 1 / ((1 - share) * p + share / 261)
    expected = expected / (p * expected).sum()
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=0)
    assert weights[middle] == weights.min()
    assert weights.isfinite().all()


def test_without_a_uniform_share_a_colour_that_never_occurs_weighs_as_one_of_a_single_pixel():
    centres = bin_centres()
    middle = centres.tolist().index([0.0, 0.0])
    counts = torch.zeros(261, dtype=torch.int64)
    counts[middle] = 1000
    weights = class_weights(counts, centres, uniform_share=0)
    p = torch.exp(-centres.square().sum(1) / 50)
    rare = p / p.sum() < 1 / 1000
    assert rare.sum() > 200
    torch.testing.assert_close(
        weights[rare] / weights[middle], (1000 * p[middle] / p.sum()).expand(rare.sum())
    )


def test_cross_entropy_is_the_papers_sum_over_pixels_and_classes():
    torch.manual_seed(0)
    centres, weights = bin_centres(), torch.rand(261) + 0.5
    target = (torch.rand(2, 2, 12, 16) - 0.5) * 0.8
    logits = torch.randn(2, 261, 3, 4)
    small = target.unflatten(2, (3, 4)).unflatten(4, (4, 4)).mean((3, 5))
    bins, shares = soft_encode(small, centres)
    z = torch.zeros(2, 261, 3, 4).scatter(1, bins, shares)
    v = weights[nearest_bin(small, centres)]
    expected = -(v * (z * logits.log_softmax(1)).sum(1)).mean()
    value = rebalanced_cross_entropy(logits, target, centres_Q2=centres, weights_Q=weights)
    torch.testing.assert_close(value, expected)


def test_cross_entropy_of_a_padded_image_ignores_the_padding():
    centres, weights = bin_centres(), torch.ones(261)
    logits = torch.randn(1, 261, 6, 6)
    target = torch.rand(1, 2, 21, 18) * 0.2
    value = rebalanced_cross_entropy(logits, target, centres_Q2=centres, weights_Q=weights)
    whole = rebalanced_cross_entropy(
        logits[..., :5, :4], target[..., :20, :16], centres_Q2=centres, weights_Q=weights
    )
    assert torch.equal(value, whole)


def test_cross_entropy_falls_to_the_entropy_of_the_soft_encoding():
    torch.manual_seed(0)
    centres, weights = bin_centres(), torch.ones(261)
    target = torch.tensor([12.0, 13.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4) / AB_SCALE
    bins, shares = soft_encode(target[..., :1, :1], centres)
    perfect = torch.full((1, 261, 1, 1), -1e4).scatter(1, bins, shares.log())
    value = rebalanced_cross_entropy(perfect, target, centres_Q2=centres, weights_Q=weights)
    assert value.item() == pytest.approx(-(shares * shares.log()).sum().item(), abs=1e-4)
    assert value < math.log(5)


def test_classes_are_counted_at_a_quarter_of_the_size():
    gray = torch.full((2, 3, 16, 24), 100, dtype=torch.uint8)
    red = gray[:1].clone()
    red[:, 0], red[:, 1:] = 255, 0
    centres = bin_centres()
    counts = count_classes([gray, red], centres)
    assert counts.sum() == 3 * 4 * 6
    ab = HEADS["lab"].to_target(red / 255)[0, :, 0, 0] * AB_SCALE
    assert counts[centres.tolist().index([0.0, 0.0])] == 48
    assert counts[(centres - ab).norm(dim=1).argmin()] == 24
