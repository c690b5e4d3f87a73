"""Colour in the planes of a film: luma to the level, the hue of the photos, nothing outside the gamut."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from test_colorize import save_generator

from streamgan.inference.colorizer import Chroma, Colorizer
from streamgan.inference.photo import Photo

av = pytest.importorskip("av")

from streamgan.inference.yuv import Painter, Picture, Space, _blocks, space_of  # noqa: E402 (needs av)

WIDTH, HEIGHT = 96, 64
SD = Space(tag=2, full=False, red=0.299, blue=0.114, bits=8)
HD = Space(tag=1, full=False, red=0.2126, blue=0.0722, bits=8)
DEEP = Space(tag=9, full=False, red=0.2627, blue=0.0593, bits=10)
FULL = SD._replace(full=True)


@pytest.fixture(scope="module")
def colorizer(tmp_path_factory):
    weights = save_generator(tmp_path_factory.mktemp("model") / "w.safetensors")
    return Colorizer.load(weights, device="cpu")


def frame_of(levels: np.ndarray, pix_fmt: str, *, full: bool = False):
    """A gray frame with these levels of luma."""
    frame = av.VideoFrame(levels.shape[1], levels.shape[0], pix_fmt)
    bits = frame.format.components[0].bits
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(memoryview(plane), np.uint16 if bits > 8 else np.uint8)
        rows[:] = 1 << (bits - 1)
        if index == 0:
            rows.reshape(plane.height, -1)[:, : plane.width] = levels
    frame.pts, frame.time_base, frame.color_range = 0, Fraction(1, 24), 2 if full else 1
    return frame


def noise(space: Space = SD, seed: int = 0) -> np.ndarray:
    low, high = space.luma
    levels = np.random.default_rng(seed).integers(low, high + 1, (HEIGHT, WIDTH))
    return levels.astype(np.uint16 if space.bits > 8 else np.uint8)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv411p", "nv12", "yuva420p", "gray"]
)
def test_luma_is_that_of_the_film_whatever_its_format(pix_fmt, full):
    frame = frame_of(noise(), pix_fmt, full=full)
    space = space_of(frame, 8)
    assert space.full == (full or pix_fmt == "yuvj420p")
    picture = Picture(frame, (WIDTH, HEIGHT), "yuv420p", space)
    assert np.array_equal(picture.luma_HW, noise())
    assert (picture.frame.pts, picture.frame.time_base) == (0, Fraction(1, 24))


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "gray10le"])
def test_luma_of_ten_bits_is_that_of_the_film(pix_fmt):
    picture = Picture(frame_of(noise(DEEP), pix_fmt), (WIDTH, HEIGHT), "yuv420p10le", DEEP)
    assert np.array_equal(picture.luma_HW, noise(DEEP))


@pytest.mark.parametrize("pix_fmt", ["rgb24", "bgr0", "gbrp"])
def test_a_film_of_rgb_keeps_its_gray(pix_fmt):
    gray = np.repeat(noise(FULL)[..., None], 3, 2)
    frame = av.VideoFrame.from_ndarray(gray, format="rgb24").reformat(format=pix_fmt)
    frame.pts, frame.time_base = 0, Fraction(1, 24)
    space = space_of(frame, 8)
    picture = Picture(frame, (WIDTH, HEIGHT), "yuv420p", space)
    assert np.abs(space.gray()[picture.luma_HW].astype(int) - gray[..., 0]).max() <= 1


def painted(colorizer, luma: np.ndarray, chroma: Chroma, space: Space, *, turn: int = 0) -> np.ndarray:
    """(Cb, Cr) in [-0.5, 0.5], (2, y, x)."""
    size = luma.shape[0] // 2, luma.shape[1] // 2
    levels = Painter(colorizer, space)(luma, chroma, turn, size)
    return (levels.astype(float) - (1 << space.bits - 1)) / space.chroma_levels


def to_rgb(luma: np.ndarray, cbcr: np.ndarray, space: Space) -> np.ndarray:
    """R'G'B' of every pixel, unclipped, by the equations of BT.601 and its followers."""
    low, high = space.luma
    y = (luma - low) / (high - low)
    cb, cr = cbcr.repeat(2, 1).repeat(2, 2)
    red, blue = y + 2 * (1 - space.red) * cr, y + 2 * (1 - space.blue) * cb
    green = (y - space.red * red - space.blue * blue) / (1 - space.red - space.blue)
    return np.stack((red, green, blue), 2)


def predicted(gray: np.ndarray, a: float, b: float, *, size=(16, 24)) -> Chroma:
    """One chroma, in units of the network, for a picture of this mean gray."""
    light = torch.full((1, 1, *size), float(gray.mean()) / 127.5 - 1)
    return Chroma(light, torch.tensor([a, b]).view(1, 2, 1, 1).expand(1, 2, *size).clone())


@pytest.mark.parametrize("space", [SD, HD, DEEP, FULL])
@pytest.mark.parametrize(("a", "b"), [(0.7, 0.5), (-0.6, 0.6), (0.2, -0.5), (0.1, 0.8)])
def test_chroma_is_as_strong_as_the_gamut_lets_it_be(colorizer, space, a, b):
    ramp = np.linspace(*space.luma, WIDTH)[None] + np.zeros((HEIGHT, 1))
    luma = ((ramp + noise(space) * 0.1).clip(*space.luma)).astype(noise(space).dtype)
    chroma = predicted(np.full(1, 127.5), a, b)
    made, step = painted(colorizer, luma, chroma, space), 2 / space.chroma_levels
    red, green, blue = colorizer.colors(chroma)[0, :, 0, 0].tolist()
    y = space.red * red + (1 - space.red - space.blue) * green + space.blue * blue
    wanted = np.array([(blue - y) / (2 - 2 * space.blue), (red - y) / (2 - 2 * space.red)])[:, None, None]
    low, high = np.zeros(made.shape[1:]), np.ones(made.shape[1:])
    for _ in range(20):  # the largest factor with which no pixel leaves the cube of R'G'B'
        factor = (low + high) / 2
        rgb = to_rgb(luma, wanted * factor, space).reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3)
        fits = ((rgb > -1e-4) & (rgb < 1 + 1e-4)).all((1, 3, 4))
        low, high = np.where(fits, factor, low), np.where(fits, high, factor)
    assert np.abs(made - wanted * low).max() < step
    assert (low > 0.99).any()
    assert (low < 0.5).any()
    rgb = to_rgb(luma, made, space)
    assert -2 * step < rgb.min()
    assert rgb.max() < 1 + 2 * step


def test_least_mean_and_largest_luma_of_four_pixels():
    luma = np.array([[10, 20, 255, 255, 7], [30, 41, 255, 254, 9]], np.uint8)
    low, mean, high = _blocks(luma, (1, 3))
    assert (low.tolist(), mean.tolist(), high.tolist()) == ([[10, 254, 7]], [[25, 255, 8]], [[41, 255, 9]])


def test_levels_that_ten_bits_do_not_have_are_white(colorizer):
    frame = frame_of(np.full((HEIGHT, WIDTH), 60_000, np.uint16), "yuv420p10le")
    picture = Picture(frame, (WIDTH, HEIGHT), "yuv420p10le", DEEP)
    assert (picture.luma_HW == 1023).all()
    picture.paint(Painter(colorizer, DEEP), predicted(np.full(1, 255.0), 0.1, 0.1), 0)


def test_no_chroma_is_exactly_gray(colorizer):
    levels = Painter(colorizer, SD)(noise(), predicted(noise(), 0, 0), 0, (HEIGHT // 2, WIDTH // 2))
    assert (levels == 128).all()


@pytest.mark.parametrize("space", [SD, HD])
def test_a_film_has_the_colours_that_a_photo_has(colorizer, space):
    gray = (60 + np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))).clip(0, 200).astype(np.uint8)
    (seen,) = colorizer.predict([Photo(gray)])
    chroma = Chroma(seen.input_11hw, torch.tensor([0.15, 0.1]).view(1, 2, 1, 1).expand_as(seen.chroma_12hw))
    rgb = colorizer.paint(Photo(gray), chroma) / 255
    luma = (space.luma[0] + gray / 255 * (space.luma[1] - space.luma[0])).round().astype(np.uint8)
    made = to_rgb(luma, painted(colorizer, luma, chroma, space), space)
    assert np.abs(made - rgb).mean() < 0.01
    assert (rgb.max(2) - rgb.min(2)).mean() > 0.05


@pytest.mark.parametrize("turn", range(4))
def test_the_chroma_of_a_turned_film_lies_where_it_was_seen(colorizer, turn):
    upright = np.rot90(np.zeros((HEIGHT, WIDTH)), turn).shape
    chroma = torch.zeros(1, 2, upright[0] // 4, upright[1] // 4)
    chroma[:, 0, : upright[0] // 8, : upright[1] // 8] = 0.4  # red in the first quarter of what is seen
    light = torch.zeros(1, 1, *chroma.shape[-2:])
    luma = np.full((HEIGHT, WIDTH), 126, np.uint8)
    cr = painted(colorizer, luma, Chroma(light, chroma), SD, turn=turn)[1]
    seen = np.rot90(cr, turn)
    quarters = [part.mean() for half in np.array_split(seen, 2) for part in np.array_split(half, 2, 1)]
    assert quarters[0] > 0.1
    assert np.abs(quarters[1:]).max() < 0.02


def test_each_field_of_an_interlaced_picture_has_the_chroma_that_its_own_lines_allow(colorizer):
    luma = np.full((HEIGHT, WIDTH), 126, np.uint8)
    luma[1::2] = 235  # white lines of the second field, with no room for any colour
    picture = Picture(frame_of(luma, "yuv420p"), (WIDTH, HEIGHT), "yuv420p", SD)
    picture.paint(Painter(colorizer, SD), predicted(luma, 0.4, 0.3), 0, num_fields=2)
    cr = picture.frame.to_ndarray(format="yuv420p")[HEIGHT * 5 // 4 :].reshape(HEIGHT // 2, WIDTH // 2)
    assert (cr[0::2] > 140).all()
    assert (cr[1::2] == 128).all()


def test_a_film_that_does_not_say_its_matrix_is_taken_as_players_take_it():
    def of(width: int, height: int) -> tuple[float, float]:
        return space_of(av.VideoFrame(width, height, "yuv420p"), 8)[2:4]

    assert of(720, 576) == (0.299, 0.114)
    assert of(1280, 720) == (0.2126, 0.0722)
