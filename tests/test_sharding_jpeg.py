"""The short way through a JPEG's header never says anything else than PIL."""

import numpy as np
import pytest
from marks import slow
from parquet_fixtures import encode, picture
from PIL import Image

from streamgan.core.seeding import hash64
from streamgan.sharding.sample import check
from streamgan.sharding.sample.check import BadRow, check_image, check_pair
from streamgan.sharding.sample.jpeg import plain_size
from streamgan.sharding.source.read import Cell

ORDINARY = {
    "plain": encode(picture(1)),
    "gray": encode(picture(1, mode="L")),
    "progressive": encode(picture(1), progressive=True),
    "4:4:4": encode(picture(1), subsampling=0),
    "restarts": encode(picture(1), restart_marker_blocks=2),
    "comment": encode(picture(1), comment=b"a \xff\xda comment \xff\xd9"),
    "best": encode(picture(1), quality=100),
    "one pixel": encode(picture(1, size=(1, 1))),
}
EXIF = Image.Exif()
EXIF[0x0112] = 6
XMP = b'<rdf:Description tiff:Orientation="6"/>'
OTHERS = {
    "CMYK": encode(picture(1, mode="CMYK")),
    "turned": encode(picture(1), exif=EXIF),
    "turned by XMP": encode(picture(1), xmp=XMP),
    "profile": encode(picture(1), icc_profile=b"x" * 400),
    "phone": encode(picture(1), "MPO", save_all=True, append_images=[picture(2)]),
    "RGB": encode(picture(1), keep_rgb=True),
}


def verdict(data: bytes) -> tuple:
    try:
        return check_image(Cell(memoryview(data)), "color", check="header", max_pixels=10_000).size
    except BadRow as bad:
        return bad.reason, bad.detail


def verdict_of_pil(data: bytes, monkeypatch) -> tuple:
    with monkeypatch.context() as patch:
        patch.setattr(check, "plain_size", lambda data: None)
        return verdict(data)


@pytest.mark.parametrize("kind", ORDINARY)
def test_an_ordinary_jpeg_needs_no_pil(kind, monkeypatch):
    monkeypatch.setattr(check.Image, "open", None)
    assert verdict(ORDINARY[kind]) == ((1, 1) if kind == "one pixel" else (24, 16))


def test_an_ordinary_gray_twin_needs_no_pil_to_be_gray(monkeypatch):
    monkeypatch.setattr(check.Image, "open", None)
    color, gray = (
        check_image(Cell(memoryview(ORDINARY[kind])), "gray", check="header", max_pixels=10_000)
        for kind in ("plain", "gray")
    )
    check_pair(color, gray, look=True)
    with pytest.raises(BadRow):
        check_pair(color, color, look=True)


@pytest.mark.parametrize("kind", OTHERS)
def test_any_other_is_left_to_pil(kind):
    assert plain_size(OTHERS[kind]) is None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("plain", "progressive", "RGB") else slow(kind)
        for kind in (*ORDINARY, "turned by XMP", "RGB")
    ],
)
def test_damage_of_any_byte_of_the_header_gives_the_verdict_of_pil(kind, monkeypatch):
    data = {**ORDINARY, **OTHERS}[kind]
    scan = data.rindex(b"\xff\xda")
    for at in range(2, min(scan + 12, len(data), 900)):
        for value in {0, 1, 3, 0xFF, int(hash64(at, np.arange(1))[0]) & 255}:
            damaged = data[:at] + bytes([value]) + data[at + 1 :]
            assert verdict(damaged) == verdict_of_pil(damaged, monkeypatch), (at, value)


@pytest.mark.parametrize("kind", ORDINARY)
def test_a_header_cut_anywhere_gives_the_verdict_of_pil(kind, monkeypatch):
    data = ORDINARY[kind]
    for length in range(3, data.rindex(b"\xff\xda") + 20):
        for cut in (data[:length], data[:length] + b"\xff\xd9"):
            assert verdict(cut) == verdict_of_pil(cut, monkeypatch), length


def test_too_many_pixels_are_counted_without_pil(monkeypatch):
    data = encode(picture(1, size=(101, 100)))
    assert verdict(data) == verdict_of_pil(data, monkeypatch) == ("too_many_pixels", "101x100")


@pytest.mark.parametrize(
    "extra", [b"\0", b"\0" * 64, b"\0" * 65, b"\x10" + b"\0" * 64, b"\x10" + b"\0" * 128]
)
def test_quantization_tables_of_any_length_give_the_verdict_of_pil(extra, monkeypatch):
    data = ORDINARY["plain"]
    at = data.index(b"\xff\xdb")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    longer = data[: at + 2] + (end - at - 2 + len(extra)).to_bytes(2, "big") + data[at + 4 : end] + extra
    longer += data[end:]
    assert verdict(longer) == verdict_of_pil(longer, monkeypatch)
