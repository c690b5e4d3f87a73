"""What a photo file says beside its pixels comes out again or is named, and never keeps it from colour."""

import io
import struct

import numpy as np
import pytest
from image_fixtures import (
    PLAIN_JPEG,
    PLAIN_PNG,
    SRATIONAL,
    TURNED,
    bomb,
    chunk,
    gray_png,
    tiff,
    turned,
    twelve_bits,
    with_chunks,
    with_segments,
    xmp,
)
from parquet_fixtures import encode, picture
from photo_fixtures import camera_exif, sixteen, sixteen_bit_pixels, swapped_profile
from PIL import ExifTags, Image, TiffImagePlugin
from test_colorize import lightness, save_generator

from streamgan.inference.colorizer import Colorizer
from streamgan.inference.inputs import Target
from streamgan.inference.photo import load_photo, read_photo
from streamgan.inference.saving import save_pages

IPTC = b"\x1c\x02\x78\x00\x05attic"  # record 2, caption
RESOURCES = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC
PHOTOSHOP = (0xED, b"Photoshop 3.0\0" + RESOURCES)
XMP = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))


@pytest.fixture(scope="module")
def colorizer(tmp_path_factory):
    return Colorizer.load(save_generator(tmp_path_factory.mktemp("model") / "ema.safetensors"), device="cpu")


@pytest.fixture
def color(colorizer, tmp_path):
    """The opened result of a file with these bytes, and what was noted."""

    def run(data: bytes, name: str) -> tuple[Image.Image, str]:
        source, target = tmp_path / name, Target(tmp_path / name, tmp_path / "out" / name)
        source.write_bytes(data)
        photo = load_photo(source, kind=target.kind)
        (rgb,) = colorizer.color([photo])
        made = io.BytesIO()
        save_pages([(photo, [rgb])], made, target.kind)
        (tmp_path / f"made {name}").write_bytes(made.getvalue())
        image = Image.open(made)
        image.load()
        return image, "; ".join(photo.notes)

    return run


def ending_of(data: bytes) -> str:
    return {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}[
        Image.open(io.BytesIO(data)).format or ""
    ]


@pytest.mark.parametrize("name", TURNED)
def test_a_photo_is_turned_whatever_else_its_metadata_holds(color, name):
    made, _ = color(TURNED[name], f"a{ending_of(TURNED[name])}")
    assert made.size == (16, 24)
    assert made.getexif().get(ExifTags.Base.Orientation, 1) == 1  # by EXIF or XMP
    upright = lightness(Image.open(io.BytesIO(TURNED[name])))
    upright = upright if name == "TIFF" else np.rot90(upright, -1)
    assert np.corrcoef(lightness(made).ravel(), upright.ravel())[0, 1] > 0.95


def test_exif_stays_byte_for_byte_but_for_the_orientation(color):
    zero = struct.pack("<ii", -1, 0)
    given = turned(6, after=[(282, SRATIONAL, 1, struct.pack("<I", 38))]) + zero
    made, notes = color(with_segments(PLAIN_JPEG, (0xE1, given)), "a.jpg")
    assert notes == ""
    kept = made.info["exif"]
    assert len(kept) == len(given)
    assert kept.endswith(zero)
    assert struct.pack("<HHII", 282, SRATIONAL, 1, 38) in kept
    assert struct.pack("<H", 0x0112) not in kept


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_camera_data_survive_in_every_format(color, kind):
    exif = camera_exif(6)
    data = encode(picture(1), kind, exif=exif)
    made, notes = color(data, f"a{ending_of(data)}")
    assert notes == ""
    assert made.getexif()[ExifTags.Base.Make] == "Kamera"
    assert made.getexif().get_ifd(ExifTags.IFD.Exif)[0x829A] == pytest.approx(0.01)


def test_a_tag_that_no_tiff_can_hold_is_named(color):
    bad = turned(6, after=[(282, SRATIONAL, 1, struct.pack("<I", 38))]) + struct.pack("<ii", -1, 0)
    made, notes = color(with_segments(PLAIN_JPEG, (0xE1, bad)), "a.tif")
    assert made.size == (16, 24)
    assert notes == "TIFF cannot hold its EXIF XResolution"


def test_exif_too_long_for_a_jpeg_is_dropped_with_a_note(color):
    made, notes = color(TURNED["two segments"], "a.jpg")
    assert "exif" not in made.info
    assert notes.startswith("JPEG cannot hold its EXIF of 9")


@pytest.mark.parametrize("data", [b"Exif\0\0nonsense", turned()[:20], b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_is_dropped_with_a_note(color, data):
    made, notes = color(with_segments(PLAIN_JPEG, (0xE1, data)), "a.jpg")
    assert made.size in ((24, 16), (16, 24))
    assert "exif" not in made.info
    assert "without its EXIF, which is damaged" in notes


def test_a_colour_profile_of_which_a_part_is_missing_is_named(color):
    _, notes = color(with_segments(PLAIN_JPEG, (0xE2, b"ICC_PROFILE\0\1\2" + bytes(200))), "a.jpg")
    assert notes == "without its colour profile, which is damaged"


def test_iptc_xmp_and_comments_of_a_jpeg_are_kept(color):
    data = with_segments(PLAIN_JPEG, XMP, PHOTOSHOP, (0xFE, b"first"), (0xFE, b"second"))
    made, notes = color(data, "a.jpg")
    assert notes == ""
    assert made.info["xmp"] == xmp(1)
    assert made.info["photoshop"] == {0x0404: IPTC}
    assert [data for name, data in made.applist if name == "COM"] == [b"first", b"second"]


def test_what_a_jpeg_has_and_its_result_cannot_have_is_named(color):
    extended = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(1).replace(b"attic", b"xmpNote:HasExtendedXMP"))
    _, notes = color(with_segments(PLAIN_JPEG, extended, (0xEB, b"JP\0\0")), "a.jpg")
    assert notes == "without its APP11 data, extended XMP"
    _, notes = color(with_segments(PLAIN_JPEG, PHOTOSHOP, (0xFE, b"first")), "b.webp")
    assert notes == "WEBP cannot hold its comment, IPTC or other Photoshop data"


def test_what_a_jpeg_says_is_kept_in_formats_with_a_place_for_it(color, tmp_path):
    data = with_segments(
        PLAIN_JPEG, XMP, PHOTOSHOP, (0xE1, camera_exif(1)), (0xFE, b"first"), (0xFE, b"second")
    )
    made, notes = color(data, "a.tif")
    assert notes == ""
    assert (made.tag_v2[33723], made.tag_v2[34377]) == (IPTC, RESOURCES)
    assert (made.tag_v2[270], made.info["xmp"]) == ("first\nsecond", xmp(1))
    assert made.getexif()[ExifTags.Base.Make] == "Kamera"
    tiff_data = (tmp_path / "made a.tif").read_bytes()
    made, notes = color(data, "a.png")
    assert notes == ""
    assert made.text["Comment"] == "second"  # of two texts of one name, Pillow tells the last
    assert bytes.fromhex("".join(made.text["Raw profile type iptc"].split("\n")[3:])) == RESOURCES
    png_data = (tmp_path / "made a.png").read_bytes()
    assert png_data.count(b"tEXtComment") == 2
    for name, given in (("b.jpg", tiff_data), ("c.jpg", png_data)):
        made, notes = color(given, name)
        assert notes == ""
        assert made.info["photoshop"] == {0x0404: IPTC}
        assert made.info["xmp"] == xmp(1)
        assert made.getexif()[ExifTags.Base.Make] == "Kamera"


@pytest.mark.parametrize("kind", [1, 4, 7])
def test_iptc_of_a_tiff_is_kept_whatever_type_it_is_said_to_have(color, kind):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    padded = IPTC + bytes(-len(IPTC) % 4)
    tags[33723], tags.tagtype[33723] = padded, 7
    entry = struct.pack("<HHI", 33723, 7, len(padded))
    data = encode(picture(1), "TIFF", tiffinfo=tags)
    assert entry in data
    data = data.replace(entry, struct.pack("<HHI", 33723, kind, len(padded) // (4 if kind == 4 else 1)))
    made, notes = color(data, "a.jpg")
    assert notes == ""
    assert made.info["photoshop"] == {0x0404: padded}
    made, _ = color(data, "a.tif")
    assert made.tag_v2[33723] == padded


def test_text_of_a_png_is_kept_as_comments(color):
    data = with_chunks(PLAIN_PNG, chunk(b"tEXt", b"Title\0Attic"), chunk(b"tEXt", b"Long\0" + b"x" * 70000))
    made, notes = color(data, "a.jpg")
    assert [data for name, data in made.applist if name == "COM"] == [b"Title: Attic"]
    assert notes == "JPEG cannot hold its comment, which is too long"
    made, notes = color(with_chunks(PLAIN_PNG, chunk(b"iTXt", "T\0\0\0\0\0\u00e9".encode())), "a.tif")
    assert made.tag_v2.get(270).encode("latin-1") == "T: \u00e9".encode()
    made, notes = color(with_chunks(PLAIN_PNG, chunk(b"tEXt", b"Title\0Attic")), "a.jp2")
    assert (made.info["comment"], notes) == (b"Title: Attic", "")


@pytest.mark.parametrize("name", ["a.bmp", "a.tga", "a.pcx", "a.ppm", "a.j2k"])
def test_what_a_plain_format_cannot_hold_is_named(color, name):
    data = with_segments(PLAIN_JPEG, XMP, PHOTOSHOP, (0xE1, camera_exif(1)))
    _, notes = color(data, name)
    assert "cannot hold its IPTC or other Photoshop data, EXIF, XMP" in notes


def test_avif_keeps_exif_xmp_and_profile(color):
    data = with_segments(encode(picture(1), "JPEG", icc_profile=swapped_profile()), XMP)
    made, notes = color(with_segments(data, (0xE1, camera_exif(1))), "a.avif")
    assert notes == ""
    assert made.getexif()[ExifTags.Base.Make] == "Kamera"
    assert (made.info["xmp"], made.info["icc_profile"]) == (xmp(1), swapped_profile())


@pytest.mark.parametrize("deep", [False, True])
def test_text_and_xmp_of_a_png_are_kept_also_behind_its_pixels(color, deep):
    png = encode(sixteen(picture(1)), "PNG") if deep else PLAIN_PNG
    text = chunk(b"tEXt", b"Title\0Attic"), chunk(b"iTXt", "Autor\0\0\0de\0\0Jos\u00e9".encode())
    data = with_chunks(png, *text, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(3)), behind=True)
    made, notes = color(data, "a.png")
    assert notes == ""
    assert (made.text["Title"], made.text["Autor"], made.text["Autor"].lang) == ("Attic", "Jos\u00e9", "de")
    assert made.info["xmp"] == xmp(1)
    _, notes = color(data, "a.webp")
    assert "WEBP cannot hold its text (Title, Autor)" in notes


@pytest.mark.parametrize("behind", [False, True])
def test_text_that_explodes_is_dropped_with_a_note(color, behind):
    made, notes = color(
        with_chunks(PLAIN_PNG, bomb(), chunk(b"tEXt", b"Title\0Attic"), behind=behind), "a.png"
    )
    assert notes == "without its zTXt, which cannot be read"
    assert made.text == {"Title": "Attic"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_resolution_of_two_values_is_kept(color, kind):
    data = encode(picture(1), kind, dpi=(300, 150))
    made, notes = color(data, f"a{ending_of(data)}")
    assert notes == ""
    assert made.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_a_resolution_of_two_values_is_kept_in_sixteen_bits(color):
    made, _ = color(encode(sixteen(picture(1)), "PNG", dpi=(300, 150)), "a.png")
    assert made.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_pixels_that_are_not_square_are_named(color):
    _, notes = color(with_chunks(PLAIN_PNG, chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0))), "a.png")
    assert notes == "without its pixels that are not square"


LEVELS = np.asarray(picture(1, mode="L"), np.uint16)
DEEP_TIFFS = {
    "white is zero": tiff(
        (65535 - LEVELS * 257).astype("<u2").tobytes(), (24, 16), bits=(16,), photometric=0
    ),
    "12": tiff(twelve_bits(LEVELS.astype(np.uint32) * 4095 // 255), (24, 16), bits=(12,), photometric=1),
}


@pytest.mark.parametrize("name", DEEP_TIFFS)
def test_deep_gray_tiffs_come_out_as_positives_over_their_whole_range(color, tmp_path, name):
    _, notes = color(DEEP_TIFFS[name], "a.tif")
    assert notes == ""
    deep = sixteen_bit_pixels(tmp_path / "made a.tif")
    assert deep is not None
    off = np.asarray(Image.fromarray((deep >> 8).astype(np.uint8)).convert("L"), int) - LEVELS
    assert np.abs(off).mean() < 4


def test_bits_that_are_not_read_are_named(color):
    rgb = np.asarray(picture(1), np.uint16) * 257
    data = tiff(rgb.astype("<u2").tobytes(), (24, 16), bits=(16, 16, 16), photometric=2)
    assert color(data, "a.tif")[1] == "its 16 bits per channel are read as 8"


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_level_of_gray_is_alpha(color, depth):
    levels = LEVELS * 257 >> 16 - depth
    data = gray_png(levels, depth, chunk(b"tRNS", struct.pack(">H", int(levels[2, 2]))))
    made, notes = color(data, "a.png")
    assert notes == ""
    alpha = read_photo(made).alpha
    assert alpha is not None
    assert np.array_equal(alpha, np.where(levels == levels[2, 2], 0, 255))
