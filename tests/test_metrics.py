"""Metrics against scikit-image and by hand; masks, ranges, sums; the trivial baselines."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from streamgan.core.color import HEADS, rgb_to_lab, to_uint8, unit_rgb
from streamgan.core.errors import DataError
from streamgan.metrics import (
    PROTOCOL,
    ColorizationMetrics,
    GainOverGray,
    SaturationSweep,
    constant_ab,
    gray_passthrough,
    median_ab,
    protocol,
)
from streamgan.metrics import functional as F
from streamgan.metrics.baselines import BIN_WIDTH, ab_histogram, histogram_median
from streamgan.metrics.saturation import psnr_at_colourfulness


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth uint8 colour images and noisy copies, each with its own amount of noise: (6, 3, 40, 48)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 5, 6, generator=generator)
    truth = torch.nn.functional.interpolate(coarse, (40, 48), mode="bicubic").clamp(0, 1)
    amount = torch.linspace(0.01, 0.3, 6).view(6, 1, 1, 1)
    pred = (truth + amount * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    return to_uint8(pred), to_uint8(truth)


def as_numpy(image_3HW: torch.Tensor) -> np.ndarray:
    return unit_rgb(image_3HW).permute(1, 2, 0).double().numpy()


def solid(red: int, green: int, blue: int) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)


def of_each(name: str, pred: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return F.per_image(pred, truth)[name]


def test_psnr_is_that_of_scikit_image_for_each_image(images):
    values = F.psnr(*images)
    for value, pred, truth in zip(values, *images, strict=True):
        assert value.item() == pytest.approx(
            peak_signal_noise_ratio(as_numpy(truth), as_numpy(pred), data_range=1), abs=1e-4
        )


def test_psnr_of_equal_images_is_capped(images):
    assert F.psnr(images[0], images[0]).tolist() == [F.PSNR_CAP_DB] * 6


def skimage_ssim(pred: torch.Tensor, truth: torch.Tensor) -> float:
    return structural_similarity(
        as_numpy(truth),
        as_numpy(pred),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=2,
    )


def test_ssim_is_that_of_scikit_image_for_each_image(images):
    pred, truth = images
    for value, one, other in zip(of_each("ssim", pred, truth), pred, truth, strict=True):
        assert value.item() == pytest.approx(skimage_ssim(one, other), abs=1e-4)


def test_ssim_of_flat_bright_images_does_not_drown_in_rounding():
    noise = torch.Generator().manual_seed(0)
    pred, truth = (
        torch.randint(252, 254, (1, 3, 32, 32), generator=noise, dtype=torch.uint8) for _ in range(2)
    )
    assert of_each("ssim", pred, truth).item() == pytest.approx(skimage_ssim(pred[0], truth[0]), abs=1e-7)


def test_ssim_has_a_fixed_range_and_does_not_depend_on_the_rest_of_the_batch(images):
    darker = torch.arange(1, 7, dtype=torch.uint8).view(
        6, 1, 1, 1
    )  # their own ranges would give other values
    pred, truth = images[0] // darker, images[1] // darker
    together = of_each("ssim", pred, truth)
    alone = torch.cat([of_each("ssim", p, t) for p, t in zip(pred.split(1), truth.split(1), strict=True)])
    torch.testing.assert_close(together, alone)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(DataError, match="got 10 x 30"):
        of_each("ssim", torch.zeros(1, 3, 10, 30), torch.zeros(1, 3, 10, 30))
    assert of_each("ssim", torch.zeros(1, 3, 11, 11), torch.zeros(1, 3, 11, 11)).item() == pytest.approx(1)


def test_colourfulness_by_hand():
    assert F.colourfulness(solid(90, 90, 90)).item() == 0
    # pure red: rg = 255, yb = 127.5, no spread
    assert F.colourfulness(solid(255, 0, 0)).item() == pytest.approx(0.3 * math.hypot(255, 127.5), rel=1e-6)
    halves = torch.cat((solid(255, 0, 0), solid(0, 255, 0)), 3)
    # rg = +-255 (population sigma 255, mean 0), yb = 127.5 on both sides
    assert F.colourfulness(halves).item() == pytest.approx(255 + 0.3 * 127.5, rel=1e-6)


def test_colourfulness_of_ddcolor_takes_absolute_values_first(images):
    halves = torch.cat((solid(255, 0, 0), solid(0, 255, 0)), 3)
    # |rg| = 255 and yb = 127.5 everywhere: no spread
    expected = 0.3 * math.hypot(255, 127.5)
    assert F.colourfulness(halves, "ddcolor").item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(F.colourfulness(solid(9, 8, 7), "ddcolor"), F.colourfulness(solid(9, 8, 7)))
    metrics, curve = ColorizationMetrics("ddcolor"), SaturationSweep("ddcolor")
    metrics.update(*images)
    curve.update(*HEADS["lab"].encode(images[0], None), images[1])
    cf = F.colourfulness(images[0], "ddcolor").mean().item()
    assert metrics.compute()["cf"] == pytest.approx(cf, rel=1e-5)
    assert metrics.compute()["cf_truth"] < F.colourfulness(images[1]).mean().item()
    assert curve.compute()["sweep"]["cf"][4] == pytest.approx(cf, rel=1e-3)  # s = 1
    assert "--cf ddcolor" in protocol()
    assert "absolute" in protocol("ddcolor")


def test_chroma_ratio_and_ab_error_by_hand():
    truth_lab = torch.tensor([60.0, 30.0, -20.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    half_lab = truth_lab * torch.tensor([1.0, 0.5, 0.5]).view(1, 3, 1, 1)
    decode = HEADS["lab"].decode
    truth, half = (decode(lab[:, :1] / 50 - 1, lab[:, 1:] / 110) for lab in (truth_lab, half_lab))
    assert (of_each("chroma", half, truth) / of_each("chroma_truth", half, truth)).item() == pytest.approx(
        0.5, abs=0.02
    )  # uint8 costs about half a unit
    assert of_each("ab_error", half, truth).item() == pytest.approx((15 + 10) / 2, abs=0.5)
    assert of_each("chroma", truth, truth).item() == pytest.approx(math.hypot(30, 20), abs=0.5)
    assert of_each("ab_error", truth, truth).item() == 0


@pytest.mark.parametrize("value", [-0.01, 1.01, math.inf])
@pytest.mark.parametrize("side", ["pred", "truth"])
def test_values_outside_0_to_1_are_refused_and_named(value, side):
    good, bad = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    bad[1, 2, 3, 4] = value
    pair = (bad, good) if side == "pred" else (good, bad)
    with pytest.raises(DataError, match=f"{side} leaves"):
        ColorizationMetrics().update(*pair)


def test_wrong_shapes_and_masks_are_refused():
    image = torch.rand(2, 3, 16, 16)
    with pytest.raises(DataError, match="differ in shape"):
        F.psnr(image, image[..., :8])
    with pytest.raises(DataError, match="not \\(B, 3, H, W\\)"):
        F.colourfulness(image[:, :1])
    with pytest.raises(DataError, match="one bool an image"):
        ColorizationMetrics().update(image, image, torch.ones(2))


def test_floats_are_compared_as_the_uint8_file_they_would_become(images):
    pred, truth = images
    shifted = (unit_rgb(pred) + 0.4 / 255).clamp(0, 1)
    for name, values in F.per_image(pred, truth).items():
        assert torch.equal(values, F.per_image(shifted, truth)[name])


def test_the_collection_gives_means_over_images(images):
    metrics = ColorizationMetrics()
    metrics.update(*images, torch.ones(6, dtype=torch.bool))
    result = metrics.compute()
    assert set(result) == {
        "psnr", "psnr_pooled", "ssim", "cf", "cf_truth", "dcf", "chroma_ratio", "ab_error", "num_images",
    }  # fmt: skip
    assert all(type(value) is float for value in result.values())
    assert result["num_images"] == 6
    assert result["psnr"] == pytest.approx(F.psnr(*images).mean().item(), abs=1e-4)
    assert result["ssim"] == pytest.approx(of_each("ssim", *images).mean().item(), abs=1e-6)
    assert result["ab_error"] == pytest.approx(of_each("ab_error", *images).mean().item(), abs=1e-5)
    cf, cf_truth = (F.colourfulness(side).mean().item() for side in images)
    assert result["dcf"] == pytest.approx(abs(cf - cf_truth), abs=1e-4)
    swapped = ColorizationMetrics()
    swapped.update(images[1], images[0])
    assert swapped.compute()["dcf"] == pytest.approx(result["dcf"])
    assert result["chroma_ratio"] == pytest.approx(
        (of_each("chroma", *images).mean() / of_each("chroma_truth", *images).mean()).item()
    )
    pooled = -10 * math.log10((unit_rgb(images[0]) - unit_rgb(images[1])).square().mean().item())
    assert result["psnr_pooled"] == pytest.approx(pooled, abs=1e-4)
    assert result["psnr"] > result["psnr_pooled"] + 1


def test_padding_does_not_count_whatever_it_holds(images):
    pred, truth = (unit_rgb(side) for side in images)
    metrics = ColorizationMetrics()
    metrics.update(pred, truth)
    expected = metrics.compute()
    garbage = torch.full((2, 3, 40, 48), math.nan)
    metrics.reset()
    for part in (slice(0, 3), slice(3, 6)):
        valid = torch.tensor([True, False, True, True, False])
        padded = [
            torch.cat((side[part][:1], garbage[:1], side[part][1:], garbage[:1])) for side in (pred, truth)
        ]
        metrics.update(*padded, valid)
    metrics.update(garbage, garbage, torch.zeros(2, dtype=torch.bool))
    assert metrics.compute() == pytest.approx(expected, abs=1e-6)
    assert metrics.compute()["num_images"] == 6


def test_sums_are_float64_and_added_over_ranks(images):
    metrics = ColorizationMetrics()
    assert metrics.sums.dtype == torch.float64
    assert metrics.float().sums.dtype == torch.float64
    halves = []
    for part in (slice(0, 2), slice(2, 6)):
        metrics.reset()
        metrics.update(images[0][part], images[1][part])
        halves.append((metrics.sums.clone(), metrics.num_images.clone()))
    assert all(reduce is torch.sum or "sum" in reduce.__name__ for reduce in metrics._reductions.values())
    merged = ColorizationMetrics()
    merged.update(*images)
    torch.testing.assert_close(halves[0][0] + halves[1][0], merged.sums, rtol=1e-6, atol=0)
    assert halves[0][1] + halves[1][1] == merged.num_images


def test_no_images_is_an_error_and_gray_truth_has_no_chroma_ratio():
    metrics = ColorizationMetrics()
    metrics.update(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), torch.tensor([False]))
    with pytest.raises(DataError, match="no image"):
        metrics.compute()
    metrics.update(solid(200, 30, 90), solid(80, 80, 80))
    assert math.isnan(metrics.compute()["chroma_ratio"])


def test_autocast_changes_nothing(images):
    plain = F.per_image(*images)
    with torch.autocast("cpu", torch.bfloat16):
        under = F.per_image(*images)
        assert torch.equal(of_each("ssim", *images), plain["ssim"])
    assert all(torch.equal(plain[name], under[name]) for name in plain)


def test_a_model_that_has_diverged_is_named():
    good = torch.rand(2, 3, 16, 16)
    with pytest.raises(DataError, match="pred is not a number: the model has diverged; lower the learning"):
        ColorizationMetrics().update(good * math.nan, good)


def test_gray_passthrough_keeps_the_luminance_and_has_no_colour(images):
    given_B1HW, _ = HEADS["lab"].encode(images[1], None)
    gray = HEADS["lab"].decode(given_B1HW, gray_passthrough(given_B1HW))
    lab = rgb_to_lab(gray)
    assert lab[:, 1:].abs().max() < 0.01
    torch.testing.assert_close(lab[:, :1] / 50 - 1, given_B1HW, atol=1e-4, rtol=0)
    assert F.colourfulness(gray).max() == 0


def test_the_median_colour_is_that_of_all_pixels_to_a_bin(images):
    median = median_ab(images[1].split(4))
    assert torch.equal(median, median_ab(images[1].flip(0).split(1)))
    assert torch.equal(median, histogram_median(ab_histogram(images[1][:1]) + ab_histogram(images[1][1:])))
    exact = rgb_to_lab(unit_rgb(images[1]))[:, 1:].transpose(0, 1).flatten(1).median(1).values
    assert (median - exact).abs().max() <= BIN_WIDTH / 2 + 1e-5
    given_B1HW, target = HEADS["lab"].encode(images[1], None)
    predicted = constant_ab(given_B1HW, median)
    assert predicted.shape == target.shape
    assert (predicted - target).abs().mean() < (gray_passthrough(given_B1HW) - target).abs().mean()


def test_the_median_of_gray_photos_is_exactly_gray_and_of_nothing_an_error():
    assert median_ab([solid(10, 10, 10), solid(250, 250, 250)]).tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match="no pixel"):
        median_ab([])


def sweep(given_B1HW: torch.Tensor, ab_B2HW: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    metrics = SaturationSweep()
    metrics.update(given_B1HW[:2], ab_B2HW[:2], truth[:2])
    rest = [torch.cat((side[2:], 0 * side[:1])) for side in (given_B1HW, ab_B2HW, truth)]
    metrics.update(*rest, torch.arange(len(rest[0])) < len(truth) - 2)  # the last one is padding
    return metrics.compute()


def test_the_saturation_sweep_rewards_the_right_colour_and_not_the_amount(images):
    truth = images[1]
    given_B1HW, ab_B2HW = HEADS["lab"].encode(truth, None)
    right, pale, wrong = (sweep(given_B1HW, ab, truth) for ab in (ab_B2HW, ab_B2HW / 2, -ab_B2HW))
    gray = F.psnr(HEADS["lab"].decode(given_B1HW, gray_passthrough(given_B1HW)), truth).mean().item()
    assert right["psnr_gray"] == pytest.approx(gray, abs=1e-4)
    assert right["saturation_at_cf50"] == pytest.approx(0.5, abs=0.1)
    assert pale["saturation_at_cf50"] == pytest.approx(2 * right["saturation_at_cf50"], abs=0.05)
    assert pale["psnr_at_cf50"] == pytest.approx(right["psnr_at_cf50"], abs=0.3)
    assert right["psnr_at_cf50"] > gray + 3 > gray - 1 > wrong["psnr_at_cf50"]


def test_the_gain_over_gray_comes_with_the_interval_of_its_mean(images):
    truth = images[1]
    lightness_B1HW, ab_B2HW = HEADS["lab"].encode(truth, None)
    ab_B2HW = ab_B2HW * torch.linspace(0.2, 0.9, len(truth)).view(-1, 1, 1, 1)
    made, gray = (HEADS["lab"].decode(lightness_B1HW, ab) for ab in (ab_B2HW, 0 * ab_B2HW))
    gains = (F.psnr(made, truth) - F.psnr(gray, truth)).double().numpy()
    gain = GainOverGray()
    for part in (slice(0, 2), slice(2, None)):
        rows = [torch.cat((one[part], one[:1])) for one in (made, lightness_B1HW, truth)]
        gain.update(*rows, torch.arange(len(rows[0])) < len(rows[0]) - 1)  # the last one is padding
    found = gain.compute()
    assert found["psnr_gain"] == pytest.approx(gains.mean(), abs=1e-6)
    assert found["psnr_gain_95"] == pytest.approx(1.96 * gains.std(ddof=1) / len(gains) ** 0.5, rel=1e-5)
    one = GainOverGray()
    one.update(made[:1], lightness_B1HW[:1], truth[:1], torch.tensor([True]))
    assert math.isnan(one.compute()["psnr_gain_95"])


def test_psnr_at_a_colourfulness_is_read_where_the_curve_first_reaches_it_linearly_in_between():
    psnr_S, cf_S = [20.0, 24.0, 30.0, 28.0, 26.0], [0.0, 10.0, 30.0, 20.0, 40.0]
    assert psnr_at_colourfulness(psnr_S, cf_S, 25.0) == pytest.approx((28.5, 0.4375))
    assert psnr_at_colourfulness(psnr_S, cf_S, 10.0) == pytest.approx((24.0, 0.25))
    assert psnr_at_colourfulness(psnr_S, cf_S, 35.0) == pytest.approx((26.5, 0.9375))
    for never in (0.0, 40.5):
        assert all(map(math.isnan, psnr_at_colourfulness(psnr_S, cf_S, never)))


def test_the_saturation_sweep_is_nan_where_there_is_no_colour_and_an_error_without_images(images):
    given_B1HW, ab_B2HW = HEADS["lab"].encode(images[1], None)
    assert math.isnan(sweep(given_B1HW, 0 * ab_B2HW, images[1])["psnr_at_cf50"])
    assert math.isnan(sweep(given_B1HW, ab_B2HW, images[1][:, :1].repeat(1, 3, 1, 1))["psnr_at_cf50"])
    with pytest.raises(DataError, match="no image"):
        sweep(given_B1HW[:0], ab_B2HW[:0], images[1][:0])


def test_the_protocol_is_one_line():
    assert "\n" not in PROTOCOL
    assert "100 dB" in PROTOCOL
