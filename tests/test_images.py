"""What an image file means, to sharding and colouring alike: what is up, white or transparent."""

import io
import struct

import numpy as np
import pytest
from image_fixtures import PLAIN_PNG, TURNED, bomb, chunk, gray_png, tiff, twelve_bits, with_chunks
from parquet_fixtures import encode, picture
from PIL import Image

from streamgan.core.images import UnknownRange, bits, plain
from streamgan.core.png import readable_png

LEVELS = np.asarray(picture(1, mode="L"), np.uint16)
SIZE = (24, 16)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("name", TURNED)
def test_an_image_is_turned_whatever_else_its_metadata_holds(name):
    upright = np.asarray(opened(TURNED[name]).convert("RGB"))
    if not name.startswith("TIFF") or name == "TIFF, BYTE":  # the other one Pillow turns by itself
        upright = np.rot90(upright, -1)
    assert upright.shape[:2] == (24, 16)
    assert np.array_equal(plain(opened(TURNED[name])).image, upright)


DEEP = LEVELS * 257 - np.arange(24, dtype=np.uint16) % 3  # not 8 bits that were made wider
NEGATIVE = (65535 - DEEP).astype("<u2").tobytes()
TWELVE = LEVELS.astype(np.uint32) * 4095 // 255


def packed_bits(levels_HW: np.ndarray, depth: int) -> bytes:
    spread = (levels_HW[..., None].astype(np.uint8) >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(spread.reshape(len(levels_HW), -1), axis=1).tobytes()


# file, levels out of 255 or 65535
GRAY = {
    "16, white is zero": (tiff(NEGATIVE, SIZE, bits=(16,), photometric=0), DEEP),
    "16, white is zero, packed": (tiff(NEGATIVE, SIZE, bits=(16,), photometric=0, packed=True), DEEP),
    "16, black is zero": (tiff(DEEP.astype("<u2").tobytes(), SIZE, bits=(16,), photometric=1), DEEP),
    "16, big-endian": (tiff(DEEP.astype(">u2").tobytes(), SIZE, bits=(16,), photometric=1, order=">"), DEEP),
    "12": (tiff(twelve_bits(TWELVE), SIZE, bits=(12,), photometric=1), (TWELVE * 65535 + 2048) // 4095),
    **{
        f"{depth}, white is zero": (
            tiff(packed_bits((255 - LEVELS) >> 8 - depth, depth), SIZE, bits=(depth,), photometric=0),
            (LEVELS >> 8 - depth) * 255 // ((1 << depth) - 1),
        )
        for depth in (1, 2, 4, 8)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GRAY)
def test_gray_tiffs_are_positives_over_their_whole_range(name):
    data, expected = GRAY[name]
    image, alpha = plain(opened(data))
    assert alpha is None
    assert image.mode == ("I;16" if expected.max() > 255 else "L")
    assert np.array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(
    ("dtype", "sample_format", "kind"),
    [
        ("<u4", 1, "32-bit"),
        ("<i4", 2, "signed"),
        ("<i2", 2, "signed"),
        ("<i1", 2, "signed"),
        ("<f4", 3, "floating"),
    ],
)
def test_numbers_of_which_nobody_tells_the_range_are_refused(dtype, sample_format, kind):
    depth = np.dtype(dtype).itemsize * 8
    data = tiff(
        LEVELS.astype(dtype).tobytes(), SIZE, bits=(depth,), photometric=1, sample_format=sample_format
    )
    with pytest.raises(UnknownRange, match=f"pixels are {kind}.* numbers, whose range nobody tells"):
        plain(opened(data))


KEYED = {
    **{
        f"{depth} bits": (gray_png(LEVELS.astype(np.uint32) >> 8 - depth, depth), LEVELS >> 8 - depth)
        for depth in (1, 2, 4, 8)
    },
    "16 bits": (gray_png(DEEP, 16), DEEP),
}


@pytest.mark.parametrize("name", KEYED)
def test_the_transparent_level_of_a_gray_png_is_one_of_its_own_depth(name):
    data, levels = KEYED[name]
    key = int(levels[3, 5])
    image = opened(with_chunks(data, chunk(b"tRNS", struct.pack(">H", key))))
    alpha = plain(image).alpha
    assert alpha is not None
    assert np.array_equal(np.asarray(alpha), np.where(levels == key, 0, 255))


def test_the_transparent_colour_of_an_rgb_or_palette_png_is_its_alpha():
    pixels = np.asarray(picture(1))
    key = pixels[3, 5]
    data = with_chunks(PLAIN_PNG, chunk(b"tRNS", struct.pack(">3H", *map(int, key))))
    assert np.array_equal(plain(opened(data)).alpha, np.where((pixels == key).all(2), 0, 255))
    palette = picture(1, mode="P")
    index = palette.getpixel((5, 3))
    image = opened(encode(palette, "PNG", transparency=index))
    assert np.array_equal(plain(image).alpha, np.where(np.asarray(palette) == index, 0, 255))


def test_the_depth_of_a_file_is_known_though_pillow_reads_eight_bits():
    rgb = np.asarray(picture(1), np.uint16) * 257
    deep = tiff(rgb.astype("<u2").tobytes(), SIZE, bits=(16, 16, 16), photometric=2)
    assert [bits(opened(data)) for data in (deep, KEYED["16 bits"][0], PLAIN_PNG, KEYED["4 bits"][0])] == [
        16,
        16,
        8,
        4,
    ]


REFUSED = {
    "zTXt bomb": bomb(),
    "iTXt bomb": bomb(b"iTXt"),
    "iCCP bomb": bomb(b"iCCP"),
    "unknown packing": chunk(b"zTXt", b"Comment\0\7abc"),
    "wrong CRC": chunk(b"tEXt", b"Comment\0hello", crc=1),
    "short gAMA": chunk(b"gAMA", b"\0"),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_metadata_that_pillow_refuses_is_left_out_of_a_png_and_named(name, behind):
    kept = chunk(b"tEXt", b"Title\0Attic")
    file, lost = readable_png(io.BytesIO(with_chunks(PLAIN_PNG, kept, REFUSED[name], behind=behind)))
    assert lost == (REFUSED[name][4:8].decode(),)
    assert file.read() == with_chunks(PLAIN_PNG, kept, behind=behind)


def test_a_good_png_is_not_touched():
    for data in (with_chunks(PLAIN_PNG, chunk(b"tEXt", b"Title\0Attic")), PLAIN_PNG[:50], b"hello"):
        given = io.BytesIO(data)
        file, lost = readable_png(given)
        assert (file, lost, file.tell()) == (given, (), 0)
