"""Bad rows: each reason, the list of them, and the limit."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from parquet_fixtures import HUB_IMAGE, encode, hub, pair, picture, write_rows
from PIL import Image

from streamgan.cli.shard import shard as shard_command
from streamgan.core.errors import DataError
from streamgan.data.format import INDEX_DTYPE
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.sample import check as checks
from streamgan.sharding.sample.check import PIXEL_LIMIT, BadRow, check_image
from streamgan.sharding.source.read import Cell

GOOD = encode(picture(1))
PNG = encode(picture(1), "PNG")
WEBP = encode(picture(1), "WEBP")


def _clear(mode: str) -> Image.Image:
    """A picture with one pixel that is not quite opaque."""
    image = picture(1).convert(mode)
    pixel = image.getpixel((3, 3))
    image.putpixel((3, 3), (*pixel[:-1], 254))
    return image


def _animated(kind: str) -> bytes:
    return encode(picture(1), kind, save_all=True, append_images=[picture(2)])


def _with_thumbnail() -> bytes:
    """A JPEG cut in its scan whose EXIF thumbnail still has an end marker."""
    segment = b"Exif\0\0MM\0*" + GOOD
    whole = GOOD[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + GOOD[2:]
    return whole[:-40]


REASONS = [
    (Cell(None), "missing", ""),
    (Cell(None, "a.jpg"), "only_a_path", "a.jpg"),
    (Cell(b""), "empty", ""),
    (Cell(b"hello, world"), "not_an_image", "starts with 68656c6c6f2c2077"),
    (Cell(b"RIFF\4\0\0\0WAVEfmt "), "not_an_image", "starts with 5249464604000000"),
    (Cell(encode(picture(1), "GIF")), "unsupported_format", "GIF"),
    (Cell(encode(picture(1), "BMP")), "unsupported_format", "BMP"),
    (Cell(encode(picture(1), "AVIF")), "unsupported_format", "avif"),
    (Cell(GOOD[:-30]), "truncated", None),
    (Cell(_with_thumbnail()), "truncated", None),
    (Cell(PNG[:-30]), "truncated", None),
    (Cell(WEBP[:-4]), "truncated", None),
    (Cell(GOOD[:20]), "truncated", None),
    (Cell(GOOD[:2] + GOOD[GOOD.index(b"\xff\xda") :]), "damaged", "its header cannot be read"),
    (Cell(PNG[:8] + PNG[33:]), "damaged", "its header cannot be read"),
    (Cell(WEBP[:12] + b"\0" * (len(WEBP) - 12)), "damaged", "its header cannot be read"),
    (Cell(encode(picture(1, size=(101, 100)))), "too_many_pixels", "101x100"),
    (Cell(encode(picture(1, mode="L").convert("F"), "TIFF")), "unsupported_mode", "F"),
    (Cell(encode(Image.new("LAB", (24, 16)), "TIFF")), "unsupported_mode", "LAB"),
    (Cell(encode(_clear("RGBA"), "PNG")), "transparent", ""),
    (Cell(encode(_clear("LA"), "PNG")), "transparent", ""),
    (Cell(encode(_clear("RGBA"), "WEBP", lossless=True)), "transparent", ""),
    (Cell(_animated("PNG")), "animated", ""),
    (Cell(_animated("WEBP")), "animated", ""),
    (Cell(_animated("TIFF")), "animated", ""),
    (Cell(encode(picture(1), "TIFF")[:-40]), "damaged", "its pixels cannot be read"),
]


@pytest.mark.parametrize("role", ["color", "gray"])
@pytest.mark.parametrize(("cell", "reason", "detail"), REASONS)
def test_each_kind_of_bad_image_has_its_reason(cell, reason, detail, role):
    with pytest.raises(BadRow) as bad:
        check_image(cell, role, check="header", max_pixels=10_000)
    assert bad.value.reason == (f"gray_{reason}" if role == "gray" else reason)
    assert detail is None or bad.value.detail == detail


@pytest.mark.parametrize("role", ["color", "gray"])
@pytest.mark.parametrize("check", ["none", "header"])
def test_an_image_that_the_index_cannot_hold_is_a_bad_row(monkeypatch, role, check):
    assert np.iinfo(INDEX_DTYPE["color_size"]).max == checks.BYTE_LIMIT
    monkeypatch.setattr(checks, "BYTE_LIMIT", len(GOOD))
    check_image(Cell(GOOD), role, check=check, max_pixels=10**9)
    with pytest.raises(BadRow) as bad:
        check_image(Cell(GOOD + b"!"), role, check=check, max_pixels=10**9)
    assert bad.value.reason == ("too_many_bytes" if role == "color" else "gray_too_many_bytes")


def test_the_command_knows_the_largest_image_that_can_be_read():
    [option] = [option for option in shard_command.params if option.name == "max_pixels"]
    assert option.type.max == PIXEL_LIMIT


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
@pytest.mark.parametrize("tail", [b"", b"\0" * 100])
def test_good_images_pass_with_or_without_bytes_behind_the_end(mode, kind, extension, tail):
    for check in ("header", "decode"):
        data = encode(picture(1, mode=mode), kind) + tail
        good = check_image(Cell(data), "gray", check=check, max_pixels=10_000)
        assert (good.extension, good.size, good.data) == (extension, (24, 16), data)


def test_only_decoding_finds_damage_among_the_pixels():
    at = PNG.index(b"IDAT") + 12
    data = PNG[:at] + bytes([PNG[at] ^ 255]) + PNG[at + 1 :]
    check_image(Cell(data), "color", check="header", max_pixels=10_000)
    with pytest.raises(BadRow, match=r"damaged.*its pixels cannot be read"):
        check_image(Cell(data), "color", check="decode", max_pixels=10_000)


def test_check_none_looks_at_the_first_bytes_only():
    good = check_image(Cell(GOOD[:-30]), "color", check="none", max_pixels=1)
    assert (good.extension, good.size) == ("jpg", None)
    with pytest.raises(BadRow, match="not_an_image"):
        check_image(Cell(b"hello"), "color", check="none", max_pixels=1)


def test_an_image_of_many_frames_from_a_phone_counts_as_jpeg():
    data = encode(picture(1), "MPO", save_all=True, append_images=[picture(2)])
    assert check_image(Cell(data), "color", check="decode", max_pixels=10_000).extension == "jpg"


def _bad_rows() -> list[dict]:
    other = picture(3, size=(16, 24), mode="L")
    return [
        {**pair(1), "image": None},
        {**pair(1), "image": hub(None)},
        {**pair(1), "image": hub(None, "x.jpg")},
        {**pair(1), "conditioning_image": None},
        {**pair(1), "conditioning_image": hub(encode(other))},
        {**pair(1), "conditioning_image": hub(encode(other)[:-60])},
    ]


def test_bad_rows_are_listed_and_the_good_ones_arrive(tmp_path):
    rows = [row for i, bad in enumerate(_bad_rows()) for row in (pair(i), bad)]
    write_rows(tmp_path / "a.parquet", rows)
    write_rows(tmp_path / "b.parquet", [pair(100 + i) for i in range(8)])
    result = shard([str(tmp_path)], tmp_path / "set", num_workers=0, max_bad=0.5)
    assert sum(split.samples for split in result.manifest.splits.values()) == 6 + 8
    lines = [json.loads(line) for line in (tmp_path / "set" / "quarantine.jsonl").open()]
    assert [(line["file"], line["row"], line["reason"]) for line in lines] == [
        ("a.parquet", 1, "missing"),
        ("a.parquet", 3, "missing"),
        ("a.parquet", 5, "only_a_path"),
        ("a.parquet", 7, "gray_missing"),
        ("a.parquet", 9, "gray_size_differs"),
        ("a.parquet", 11, "gray_truncated"),
    ]
    assert lines[4]["detail"] == "24x16 colour, 16x24 gray"
    assert all(line.keys() == {"file", "row", "reason", "detail"} for line in lines)  # a row has no name
    assert result.manifest.quarantine["rows"] == 6
    assert result.manifest.quarantine["reasons"]["missing"] == 2


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    table = pa.table(
        {
            "image": pa.array([hub(GOOD)] * 3, HUB_IMAGE),
            "text": pa.array([b"fine", b"\xc3\xa9", b"not \xff fine"]).view(pa.string()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    options = ShardOptions(keep_text=True)
    result = shard([str(tmp_path / "a.parquet")], tmp_path / "set", options=options, num_workers=0, max_bad=1)
    assert result.manifest.quarantine["reasons"] == {"text_not_utf8": 1}


def test_too_many_bad_rows_fail_before_anything_is_published_and_a_higher_limit_continues(tmp_path):
    write_rows(tmp_path / "a.parquet", [pair(1), *_bad_rows(), *[pair(i) for i in range(2, 14)]])
    out = tmp_path / "set"
    with pytest.raises(DataError, match=r"6 of 19 rows are bad.*--max-bad 0\.3 .*missing 2") as failure:
        shard([str(tmp_path / "a.parquet")], out, num_workers=0, max_bad=0.3)
    assert failure.value.exit_code == 3
    assert not (out / "manifest.json").exists()
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 6
    shards = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    result = shard([str(tmp_path / "a.parquet")], out, num_workers=0, max_bad=0.32)
    assert result.manifest.quarantine["rows"] == 6
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} == shards


def test_the_command_fails_with_the_error_of_the_limit(tmp_path):
    write_rows(tmp_path / "a.parquet", [pair(1), *_bad_rows()])
    arguments = [str(tmp_path / "a.parquet"), "--out", str(tmp_path / "set"), "--workers", "0"]
    result = CliRunner().invoke(shard_command, arguments)
    assert isinstance(result.exception, DataError)
    assert result.stdout == ""


def test_a_source_without_one_good_row_is_an_error(tmp_path):
    write_rows(tmp_path / "a.parquet", _bad_rows())
    with pytest.raises(DataError, match=r"no row is usable; read quarantine\.jsonl"):
        shard([str(tmp_path / "a.parquet")], tmp_path / "set", num_workers=0, max_bad=1)
    assert len((tmp_path / "set" / "quarantine.jsonl").read_text().splitlines()) == 6
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_a_decoded_image_equals_the_source(tmp_path):
    write_rows(tmp_path / "a.parquet", [pair(5, kind="PNG")])
    shard(
        [str(tmp_path / "a.parquet")], tmp_path / "set", num_workers=0, options=ShardOptions(check="decode")
    )
    tar = next((tmp_path / "set").glob("*.tar")).read_bytes()
    start = tar.index(b"\x89PNG")
    assert Image.open(io.BytesIO(tar[start:])).tobytes() == picture(5).tobytes()
