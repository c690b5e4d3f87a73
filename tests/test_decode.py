"""Decoding: the picture that Pillow gives, crops and flips where they are asked for, errors for the rest."""

import io

import numpy as np
import pytest
from parquet_fixtures import encode
from PIL import Image

from streamgan.data import image as image_module
from streamgan.data.image import to_pixels
from streamgan.data.workers import decode as decode_module
from streamgan.data.workers.decode import CENTER, Crop, decode, sampled_crops, write_luma


def with_pillow(data: bytes, mode: str, size: int, crop: Crop) -> np.ndarray:
    """Full decode, then the square at `crop.position` along the long side, resized."""
    image = Image.open(io.BytesIO(data)).convert(mode)
    short = min(image.size)
    left, top = (round((side - short) * crop.position) for side in image.size)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))
    pixels = np.asarray(image).reshape(size, size, -1)
    return pixels[:, ::-1] if crop.flip else pixels


def difference(data: bytes, mode: str, size: int, crop: Crop) -> float:
    """Mean difference to Pillow in levels of 255."""
    ours = decode(data, mode, size=size, crop=crop)
    assert ours.shape == (size, size, 3 if mode == "RGB" else 1)
    assert ours.dtype == np.uint8
    return float(np.abs(ours.astype(int) - with_pillow(data, mode, size, crop)).mean())


def sampled_crop(seed: int, epoch: int, sample_id: int) -> Crop:
    return sampled_crops(seed, np.array([epoch]), np.array([sample_id]))[0]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("crop", [CENTER, Crop(0.0, False), Crop(1.0, True), Crop(0.3, True)])
@pytest.mark.parametrize("shape", [(256, 192), (192, 300), (301, 257), (90, 400)])
def test_a_jpeg_is_what_a_full_decode_gives_within_two_levels(photo, shape, crop, mode):
    assert difference(encode(photo(3, shape), quality=92), mode, 64, crop) < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [80, 128, 200])
def test_pictures_as_small_as_the_crop_or_smaller_are_exact(photo, kind, size):
    """Nothing to scale down: the very pixels, enlarged where the short side (80) is below `size`."""
    assert difference(encode(photo(5), kind), "RGB", size, Crop(0.7, True)) == 0


@pytest.mark.parametrize("source", ["RGB", "L"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_gray_and_colour_files_give_either(photo, kind, mode, source):
    data = encode(photo(7).convert(source), kind)
    assert difference(data, mode, 80, CENTER) < (1 if kind == "JPEG" else 1e-9)
    if source == "L" and mode == "RGB":
        pixels = decode(data, mode, size=80, crop=CENTER)
        assert (pixels == pixels[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(96, 32), (32, 96)])
def test_the_position_runs_along_the_long_side(kind, shape):
    """Bands of 32 pixels from first to last: red, green, blue."""
    bands = np.repeat(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8), 32, 1).repeat(32, 0)
    image = Image.fromarray(np.ascontiguousarray(bands if shape[0] == 96 else bands.swapaxes(0, 1)))
    data = encode(image, kind)
    for position, channel in [(0.0, 0), (0.5, 1), (1.0, 2)]:
        pixels = decode(data, "RGB", size=32, crop=Crop(position, False))
        assert (pixels.argmax(2) == channel).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [40, 39, 38, 36, 80, 81])  # rows of words, of odd bytes, enlarged ones
def test_a_flip_mirrors_left_and_right(photo, size, kind, mode):
    data = encode(photo(9), kind)
    plain, flipped = (decode(data, mode, size=size, crop=Crop(0.2, flip)) for flip in (False, True))
    assert np.array_equal(plain[:, ::-1], flipped)
    assert not np.array_equal(plain, flipped)


@pytest.mark.parametrize(
    "shape", [(80, 80), (79, 80), (160, 160), (161, 161), (300, 200), (41, 40), (39, 39)]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_written_where_it_is_wanted(photo, shape, kind, flip):
    data, out = encode(photo(4, shape), kind), np.full((3, 40, 40, 3), 99, np.uint8)
    assert decode(data, "RGB", size=40, crop=Crop(0.6, flip), out=out[1]).base is out
    assert np.array_equal(out[1], decode(data, "RGB", size=40, crop=Crop(0.6, flip)))
    assert np.abs(out[1].astype(int) - with_pillow(data, "RGB", 40, Crop(0.6, flip))).mean() < 5
    assert (out[[0, 2]] == 99).all()


@pytest.mark.parametrize("side", range(37, 90))
@pytest.mark.parametrize("long", [0, 1, 5, 41])
def test_a_jpeg_of_the_wanted_size_lands_in_the_memory_given(side, long):
    """Whether it will is foreseen from its header: `out` of another size would be refused as damage."""
    data = encode(Image.new("RGB", (side, side + long), (9, 90, 200)), "JPEG")
    pixels = to_pixels(data, "RGB", short=37)
    out = np.zeros(pixels.shape, np.uint8)
    assert np.shares_memory(to_pixels(data, "RGB", short=37, out=out), out)
    assert np.array_equal(out, pixels)
    other = np.zeros((pixels.shape[0] - 1, *pixels.shape[1:]), np.uint8)
    assert np.array_equal(to_pixels(data, "RGB", short=37, out=other), pixels)


@pytest.mark.parametrize("at_once", [1, 5 * 7 * 4, 1 << 19])  # pixels: one image, four, all
def test_the_luma_of_many_images_is_what_pillow_makes_of_each(at_once, monkeypatch):
    monkeypatch.setattr(decode_module, "_AT_ONCE", at_once)
    color = np.random.default_rng(0).integers(0, 256, (11, 5, 7, 3), np.uint8)
    gray = np.zeros((11, 5, 7, 1), np.uint8)
    write_luma(color, gray)
    for image, made in zip(color, gray[..., 0], strict=True):
        assert np.array_equal(made, np.asarray(Image.fromarray(image).convert("L")))


@pytest.mark.parametrize(("side", "size", "decoded"), [(1024, 200, 256), (512, 300, 320), (512, 321, 384)])
def test_a_jpeg_is_decoded_at_the_smallest_eighth_that_covers_the_crop(
    photo, monkeypatch, side, size, decoded
):
    shapes = []
    cut = decode_module._cut
    monkeypatch.setattr(decode_module, "_cut", lambda *args: (shapes.append(args[0].shape), cut(*args))[1])
    decode(encode(photo(1, (side, side))), "RGB", size=size, crop=CENTER)
    assert shapes == [(decoded, decoded, 3)]


def test_a_sampled_crop_is_a_function_of_seed_epoch_and_sample():
    assert sampled_crop(1, 2, 3) == Crop(0.8292883888570846, False)
    assert len({sampled_crop(*keys) for keys in [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0)]}) == 4
    crops = [sampled_crop(0, 0, i) for i in range(2000)]
    assert 0.45 < np.mean([crop.flip for crop in crops]) < 0.55
    positions = np.histogram([crop.position for crop in crops], bins=4, range=(0, 1))[0]
    assert positions.min() > 420
    assert abs(np.corrcoef([crop.position for crop in crops], [crop.flip for crop in crops])[0, 1]) < 0.1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("keep", [0.5, 30, 12])
def test_a_cut_image_is_a_value_error(photo, kind, mode, keep):
    data = encode(photo(2), kind)
    part = data[: int(len(data) * keep) if keep < 1 else keep]
    with pytest.raises(ValueError, match=r"."):
        decode(part, mode, size=32, crop=CENTER)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"hello world", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBP"])
def test_what_is_no_image_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"."):
        decode(data, "RGB", size=32, crop=CENTER)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_more_pixels_than_the_cap_are_refused_before_decoding(photo, kind, monkeypatch):
    monkeypatch.setattr(image_module, "MAX_PIXELS", 96 * 80 - 1)
    data = encode(photo(2), kind)
    monkeypatch.setattr(image_module.simplejpeg, "decode_jpeg", None)
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(ValueError, match=r"96 x 80 pixels, over the cap of 7679"):
        decode(data, "RGB", size=32, crop=CENTER)


def test_a_decompression_bomb_is_a_value_error(photo, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="too many pixels"):
        decode(encode(photo(2), "PNG"), "RGB", size=32, crop=CENTER)
