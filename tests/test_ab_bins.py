"""Colour as classes: the bins, soft encoding, annealed mean, and the network that predicts them."""

import pytest
import torch

from streamgan.core.ab_bins import annealed_mean, bin_centres, nearest_bin, soft_encode
from streamgan.core.color import AB_SCALE, rgb_to_lab
from streamgan.models import GENERATORS


def colors(count: int = 64) -> torch.Tensor:
    """ab / 110 of random sRGB colours, (1, 2, count, count)."""
    torch.manual_seed(0)
    return rgb_to_lab(torch.rand(1, 3, count, count))[:, 1:] / AB_SCALE


def distances(ab_n: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Between pixels and bins in Lab units, (pixels, Q)."""
    return torch.cdist(ab_n.permute(0, 2, 3, 1).reshape(-1, 2).double() * AB_SCALE, centres.double())


def test_there_are_261_bins_and_every_colour_of_srgb_lies_in_one():
    centres = bin_centres()
    assert centres.shape == (261, 2)
    assert len(centres.unique(dim=0)) == 261
    assert (centres.frac() == 0).all()
    assert (centres % 10 == 0).all()
    assert [0.0, 0.0] in centres.tolist()
    offset = colors().flatten(2)[0].T * AB_SCALE - centres[nearest_bin(colors(), centres)].reshape(-1, 2)
    assert offset.abs().max() <= 5 + 1e-3
    assert nearest_bin(colors(), centres).unique().numel() > 200  # most bins are met


def test_the_bins_are_the_same_on_every_default_device():
    with torch.device("meta"):
        assert bin_centres().is_meta
    assert not bin_centres().is_meta


def test_soft_encoding_shares_a_pixel_among_its_five_nearest_bins():
    centres, ab_n = bin_centres(), colors(16)
    bins, shares = soft_encode(ab_n, centres)
    assert bins.shape == shares.shape == (1, 5, 16, 16)
    expected, index = distances(ab_n, centres).topk(5, largest=False)
    weight = torch.exp(-(expected**2) / 50)
    weight = (weight / weight.sum(1, keepdim=True)).float()
    torch.testing.assert_close(shares[0].flatten(1).T, weight, atol=1e-4, rtol=1e-3)
    clear = (expected.diff() > 1e-3).all(1)  # no two bins at the same distance
    assert clear.float().mean() > 0.9
    assert torch.equal(bins[0].flatten(1).T[clear][:, :4], index[clear][:, :4])


def test_the_annealed_mean_lies_between_the_mean_and_the_mode():
    centres = bin_centres()
    torch.manual_seed(1)
    logits = 3 * torch.randn(2, 261, 3, 4)
    mean = torch.einsum("bqhw,qc->bchw", logits.softmax(1), centres) / AB_SCALE
    mode = centres[logits.argmax(1)].permute(0, 3, 1, 2) / AB_SCALE
    torch.testing.assert_close(annealed_mean(logits, centres, temperature=1.0), mean)
    torch.testing.assert_close(annealed_mean(logits, centres, temperature=1e-3), mode, atol=1e-3, rtol=0)
    sharper = (logits.softmax(1) ** (1 / 0.38)).permute(0, 2, 3, 1)
    sharper = (sharper / sharper.sum(-1, keepdim=True)) @ centres / AB_SCALE
    torch.testing.assert_close(annealed_mean(logits, centres), sharper.permute(0, 3, 1, 2))


def test_bins_are_exact_under_autocast():
    ab_n, centres = colors(8), bin_centres()
    with torch.autocast("cpu", torch.bfloat16):
        inside = soft_encode(ab_n, centres), annealed_mean(torch.randn(1, 261, 2, 2).bfloat16(), centres)
    assert inside[1].dtype == torch.float32
    torch.testing.assert_close(inside[0], soft_encode(ab_n, centres), rtol=0, atol=0)


@pytest.mark.parametrize(("size", "quarter"), [((64, 64), (16, 16)), ((33, 47), (10, 12))])
def test_the_classifier_gives_logits_at_a_quarter_of_the_padded_image(size, quarter):
    model = GENERATORS["zhang"](out_channels=2, width=4).eval()
    torch.nn.init.normal_(model.logits.weight)
    image = torch.rand(2, 1, *size)
    ab, logits = model(image, with_logits=True)
    assert logits.shape == (2, 261, *quarter)
    assert torch.equal(ab, model(image))
    small = annealed_mean(logits, bin_centres())
    rows, columns = (side // 4 - 1 for side in size)
    # bilinear x4 keeps the mean of a quarter-size pixel up to its neighbours
    patch = ab[..., : 4 * rows, : 4 * columns].unflatten(-1, (-1, 4)).unflatten(-3, (-1, 4))
    assert (patch.mean((-3, -1)) - small[..., :rows, :columns]).abs().mean() < small.std() / 2


def test_the_classifier_keeps_its_class_weights_with_its_own():
    model = GENERATORS["zhang"](out_channels=2, width=4)
    assert torch.equal(model.class_weights, torch.ones(261))
    model.set_class_weights(torch.arange(261.0))
    again = GENERATORS["zhang"](out_channels=2, width=4)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.class_weights, torch.arange(261.0))


def test_the_first_guess_loses_no_class():
    bias = GENERATORS["zhang"](out_channels=2, width=4).logits.bias
    assert bias.softmax(0).min() > 1e-6
