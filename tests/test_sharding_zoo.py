"""Rows of every kind: what becomes of each, that good rows do not notice; images made smaller on demand."""

import io
import json
import struct
import sys
import tarfile
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_fixtures import TURNED, bomb, chunk, gray_png, tiff, twelve_bits, with_chunks
from parquet_fixtures import encode, hub, pair, picture, tree, write_rows, write_source
from PIL import Image, ImageOps

from streamgan.cli.shard import shard as shard_command
from streamgan.core.errors import ConfigError
from streamgan.sharding.engine import local
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.sample.pixels import smaller

GRAY = encode(picture(1, mode="L"))
BIG = (96, 64)


def turned(kind: str, orientation: int = 6, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture(1), kind, exif=exif, **options)


def deep_png(values_HWC: np.ndarray) -> bytes:
    """A 16-bit PNG of uint16 values with one or three channels; Pillow writes none with three."""
    height, width, channels = values_HWC.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


DEEP_RGB = np.asarray(picture(1), np.uint16) * 257 - 3
UPPER_RGB = Image.fromarray((DEEP_RGB >> 8).astype(np.uint8))
DEEP_GRAY = np.asarray(picture(1, mode="L"), np.uint16)[:, :, None] * 257 - 3

UPPER_GRAY = Image.fromarray((DEEP_GRAY[:, :, 0] >> 8).astype(np.uint8))
SIZE = (24, 16)
UPRIGHT = picture(1).transpose(Image.Transpose.ROTATE_270)

# bytes of the source, names of the changes, the pixels that must come out
PLAIN = {
    "palette": (encode(picture(1, mode="P"), "PNG"), ("palette",), picture(1, mode="P").convert("RGB")),
    "cmyk": (encode(picture(1, mode="CMYK")), ("cmyk",), None),
    "opaque alpha": (encode(picture(1, mode="RGBA"), "PNG"), ("alpha",), picture(1)),
    "opaque gray alpha": (encode(picture(1, mode="LA"), "PNG"), ("alpha",), picture(1, mode="L")),
    "bilevel": (encode(picture(1, mode="1"), "PNG"), ("bilevel",), picture(1, mode="1").convert("L")),
    "16-bit": (deep_png(DEEP_RGB), ("16_bit",), UPPER_RGB),
    "16-bit gray": (deep_png(DEEP_GRAY), ("16_bit",), UPPER_GRAY),
    "tiff": (encode(picture(1), "TIFF"), ("tiff",), picture(1)),
    "cmyk tiff": (encode(picture(1, mode="CMYK"), "TIFF"), ("tiff", "cmyk"), picture(1)),
    "turned jpeg": (turned("JPEG"), ("orientation",), None),
    "turned png": (turned("PNG"), ("orientation",), UPRIGHT),
    "turned webp": (turned("WEBP", lossless=True), ("orientation",), UPRIGHT),
    "turned tiff": (turned("TIFF"), ("tiff", "orientation"), UPRIGHT),
    "mirrored": (turned("PNG", 2), ("orientation",), ImageOps.mirror(picture(1))),
    "16-bit tiff": (
        tiff(DEEP_RGB.astype("<u2").tobytes(), SIZE, bits=(16, 16, 16), photometric=2),
        ("tiff", "16_bit"),
        UPPER_RGB,
    ),
    "white is zero": (
        tiff((65535 - DEEP_GRAY).astype("<u2").tobytes(), SIZE, bits=(16,), photometric=0),
        ("tiff", "16_bit"),
        UPPER_GRAY,
    ),
    "12-bit": (
        tiff(twelve_bits(DEEP_GRAY >> 4), SIZE, bits=(12,), photometric=1), ("tiff", "16_bit"), UPPER_GRAY
    ),
    "opaque key": (
        gray_png(DEEP_GRAY[:, :, 0] >> 8, 8, chunk(b"tRNS", b"\0\0")), ("alpha",), UPPER_GRAY
    ),
}  # fmt: skip


def make(folder, rows, *, max_bad=1.0, **options):
    """(manifest, members by row number, rejected lines) of the set of `rows`."""
    source = write_rows(folder / "in" / "a.parquet", rows)
    out = folder / "set"
    manifest = shard(
        [str(source)], out, options=ShardOptions(**options), num_workers=0, max_bad=max_bad
    ).manifest
    found: dict[int, dict[str, bytes]] = {}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.split(".", 1)
                found.setdefault(int(key[6:]), {})[suffix] = tar.extractfile(member).read()
    return manifest, found, [json.loads(line) for line in (out / "quarantine.jsonl").open()]


def pixels(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("kind", PLAIN)
def test_an_image_that_readers_see_differently_is_made_plain_without_loss(tmp_path, kind):
    data, changes, expected = PLAIN[kind]
    if expected is None:
        expected = ImageOps.exif_transpose(pixels(data)).convert("RGB")
    manifest, found, bad = make(tmp_path, [{"image": hub(data)}, {"image": hub(encode(picture(2)))}])
    assert not bad
    plain = pixels(found[0]["color.png"])
    assert (plain.mode, plain.size) == (expected.mode, expected.size)
    assert plain.tobytes() == expected.tobytes()
    assert not plain.getexif()
    about = json.loads(found[0]["json"])
    assert (about["changed"], about["width"]) == (list(changes), expected.width)
    assert "changed" not in json.loads(found[1]["json"])
    assert manifest.quarantine["changed"] == dict.fromkeys(sorted(changes), 1)
    from streamgan.data.workers.decode import CENTER, decode  # with torch, of which sharding knows nothing

    decode(found[0]["color.png"], "RGB", size=16, crop=CENTER)


@pytest.mark.parametrize("name", TURNED)
def test_an_image_is_turned_whatever_else_its_metadata_holds(tmp_path, name):
    _, found, bad = make(tmp_path, [{"image": hub(TURNED[name])}])
    assert not bad
    plain = pixels(found[0]["color.png"])
    assert plain.size == (16, 24)
    upright = pixels(TURNED[name]).convert("RGB")
    if name != "TIFF":  # which Pillow turns by itself
        upright = upright.transpose(Image.Transpose.ROTATE_270)
    assert plain.tobytes() == upright.tobytes()


def keyed_gray(depth: int) -> bytes:
    levels = DEEP_GRAY[:, :, 0] >> 16 - depth
    return gray_png(levels, depth, chunk(b"tRNS", struct.pack(">H", int(levels[2, 2]))))


KEYED = {
    **{f"{depth} bits": keyed_gray(depth) for depth in (1, 2, 4, 8, 16)},
    "RGB": encode(picture(1), "PNG", transparency=picture(1).getpixel((2, 2))),
    "palette": encode(picture(1, mode="P"), "PNG", transparency=picture(1, mode="P").getpixel((2, 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYED)
def test_a_transparent_colour_is_transparency(tmp_path, name):
    _, _, bad = make(tmp_path, [{"image": hub(KEYED[name])}, {"image": hub(encode(picture(2)))}])
    assert [(line["row"], line["reason"]) for line in bad] == [(0, "transparent")]


@pytest.mark.parametrize("behind", [False, True])
def test_metadata_that_readers_refuse_is_left_out_and_counted(tmp_path, behind):
    png = encode(picture(1), "PNG")
    data = with_chunks(png, bomb(), behind=behind)
    manifest, found, bad = make(tmp_path, [{"image": hub(data)}, {"image": hub(png)}])
    assert not bad
    assert found[0]["color.png"] == png
    assert json.loads(found[0]["json"])["changed"] == ["metadata"]
    assert manifest.quarantine["changed"] == {"metadata": 1}


def test_a_twin_is_made_plain_too(tmp_path):
    row = {"image": hub(encode(picture(1))), "conditioning_image": hub(encode(picture(1, mode="L"), "TIFF"))}
    manifest, found, bad = make(tmp_path, [row])
    assert not bad
    assert found[0]["color.jpg"] == row["image"]["bytes"]
    assert pixels(found[0]["gray.png"]).tobytes() == picture(1, mode="L").tobytes()
    assert manifest.quarantine["changed"] == {"gray_tiff": 1}


def test_the_encoding_of_plain_images_can_be_chosen(tmp_path):
    _, found, _ = make(tmp_path, [{"image": hub(turned("PNG"))}], encode="jpeg", quality=90)
    assert pixels(found[0]["color.jpg"]).size == (16, 24)


# as a scanner or a strong compression tints gray
TINTED = Image.merge(
    "RGB", [picture(1, mode="L").point(lambda value, by=by: value + by) for by in (0, 6, 12)]
)

PAIRS = [
    (encode(picture(1)), encode(picture(1)), "gray_is_color"),
    (encode(picture(1)), encode(picture(1), "PNG"), "gray_is_color"),
    (encode(picture(1)), encode(picture(1, mode="P"), "PNG"), "gray_is_color"),
    (encode(picture(1)), encode(picture(1, mode="L").convert("RGB"), quality=20), None),
    (encode(picture(1)), encode(picture(1, mode="L").convert("RGB"), "PNG"), None),
    (encode(picture(1)), encode(TINTED, "PNG"), None),
    (turned("JPEG", 3), GRAY, "gray_orientation_differs"),
    (turned("JPEG", 3), encode(picture(1, mode="L").rotate(180)), None),
    (turned("JPEG"), encode(UPRIGHT.convert("L"), "PNG"), None),
    (turned("JPEG"), encode(UPRIGHT.rotate(180).convert("L"), "PNG"), "gray_orientation_differs"),
    (encode(UPRIGHT), turned("JPEG"), "gray_is_color"),
    (TURNED["XMP"], encode(UPRIGHT.convert("L")), None),
    (turned("JPEG"), GRAY, "gray_size_differs"),
    (turned("JPEG"), turned("JPEG"), "gray_is_color"),
]


@pytest.mark.parametrize("check", ["header", "decode"])
@pytest.mark.parametrize(("color", "gray", "reason"), PAIRS)
def test_a_twin_that_does_not_fit_is_rejected(tmp_path, color, gray, reason, check):
    row = {"image": hub(color), "conditioning_image": hub(gray)}
    _, found, bad = make(tmp_path, [row, pair(2)], check=check)
    assert [line["reason"] for line in bad] == ([reason] if reason else [])
    assert found[1]["gray.jpg"] == pair(2)["conditioning_image"]["bytes"]


def test_a_gray_column_of_colours_fails_the_run_at_the_usual_limit(tmp_path):
    rows = [{**pair(i), "conditioning_image": pair(i)["image"]} for i in range(40)]
    source = write_rows(tmp_path / "a.parquet", rows)
    arguments = [str(source), "--out", str(tmp_path / "set"), "--workers", "0"]
    error = CliRunner().invoke(shard_command, arguments).exception
    assert "gray_is_color 3" in str(error)  # one row in 16 is looked at
    assert getattr(error, "exit_code", None) == 3


BAD = [None, b"", b"hello", GRAY[:-20], encode(picture(1), "GIF"), encode(picture(5, size=(101, 100)))]
CHANGED = [data for data, _, _ in PLAIN.values()]


@given(
    rows=st.lists(st.one_of(st.integers(0, 99), st.sampled_from(BAD), st.sampled_from(CHANGED)), min_size=1)
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_good_rows_do_not_notice_the_others(tmp_path_factory, rows):
    """Any mixture: good in, good out, bytes equal; every other row is in exactly one place."""
    kinds = ("JPEG", "PNG", "WEBP")
    good = {i: encode(picture(n), kinds[n % 3]) for i, n in enumerate(rows) if isinstance(n, int)}
    table = [{"image": hub(good.get(i, row))} for i, row in enumerate(rows)]
    changed = {i for i, row in enumerate(rows) if any(row is data for data in CHANGED)}
    if not good and not changed:
        table.append({"image": hub(GRAY)})
        good[len(rows)] = GRAY
    manifest, found, bad = make(tmp_path_factory.mktemp("any"), table, max_pixels=10_000, samples_per_shard=7)
    images = {
        row: next(data for suffix, data in one.items() if suffix != "json") for row, one in found.items()
    }
    assert {row: images[row] for row in good} == good
    assert set(images) == set(good) | changed
    assert {line["row"] for line in bad} == set(range(len(table))) - set(images)
    assert sum(manifest.quarantine["reasons"].values()) == len(bad)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 1000))
def test_a_smaller_size_keeps_the_shape_and_never_grows(width, height, short):
    size = smaller((width, height), short)
    if min(width, height) <= short:
        assert size is None
    else:
        assert size is not None
        assert min(size) == short
        assert abs(max(size) - max(width, height) * short / min(width, height)) <= 0.5


def sized_pair(seed: int, size: tuple[int, int], kind: str = "JPEG") -> dict:
    color = picture(seed, size=size)
    gray = color.convert("L").convert("RGB")
    return {"image": hub(encode(color, kind)), "conditioning_image": hub(encode(gray, kind))}


@pytest.mark.parametrize(("kind", "extension"), [(None, "jpg"), ("jpeg", "jpg"), ("png", "png")])
def test_large_images_are_made_smaller_with_their_twins_and_small_ones_keep_their_bytes(
    tmp_path, kind, extension
):
    rows = [sized_pair(1, BIG), sized_pair(2, (64, 200), "PNG"), sized_pair(3, (32, 60))]
    rows.append(sized_pair(4, (20, 30), "PNG"))
    manifest, found, bad = make(tmp_path, rows, size=32, encode=kind)
    assert not bad
    sizes = {0: (48, 32), 1: (32, 100)}
    for row, size in sizes.items():
        color, gray = (pixels(found[row][f"{role}.{extension}"]) for role in ("color", "gray"))
        assert (color.mode, gray.mode, color.size, gray.size) == ("RGB", "L", size, size)
        about = json.loads(found[row]["json"])
        assert about == {"width": size[0], "height": size[1], "changed": ["resized"]}
        wanted = pixels(rows[row]["image"]["bytes"]).convert("RGB").resize(size, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(color, float) - np.asarray(wanted, float)).mean() < 3
    for row in (2, 3):
        assert rows[row]["image"]["bytes"] in found[row].values()
        assert rows[row]["conditioning_image"]["bytes"] in found[row].values()
    assert manifest.quarantine["changed"] == {"resized": 2}
    assert (manifest.options["size"], manifest.options["encode"]) == (32, kind)


def test_quality_decides_the_bytes_of_smaller_images(tmp_path):
    sizes = []
    for quality in (30, None, 100):
        _, found, _ = make(tmp_path / str(quality), [sized_pair(1, BIG)], size=32, quality=quality)
        sizes.append(len(found[0]["color.jpg"]))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def test_a_smaller_image_stays_in_its_split(tmp_path):
    rows = [sized_pair(i, BIG) for i in range(30)]
    splits = []
    for number, size in enumerate((None, 32)):
        make(tmp_path / str(number), rows, size=size)
        keys = {}
        for path in (tmp_path / str(number) / "set").glob("*.tar"):
            with tarfile.open(path) as tar:
                keys |= {member.name.split(".")[0]: path.name.split("-")[0] for member in tar}
        splits.append(keys)
    assert splits[0] == splits[1]
    assert len(set(splits[0].values())) == 3


def test_damage_that_only_resizing_finds_is_a_bad_row(tmp_path):
    data = encode(picture(1, size=BIG), "PNG")
    at = data.index(b"IDAT") + 12
    damaged = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
    rows = [{"image": hub(damaged)}, {"image": hub(encode(picture(2)))}]
    _, found, bad = make(tmp_path, rows, size=32)
    assert [(line["row"], line["reason"]) for line in bad] == [(0, "damaged")]
    assert list(found) == [1]


@pytest.mark.slow
def test_a_smaller_set_does_not_depend_on_workers(tmp_path):
    write_source(tmp_path / "in")
    options = ShardOptions(samples_per_shard=20, size=8)
    for workers in (0, 1):
        shard([str(tmp_path / "in")], tmp_path / f"set{workers}", options=options, num_workers=workers)
    assert tree(tmp_path / "set0") == tree(tmp_path / "set1")


def test_another_size_is_another_set(tmp_path):
    write_source(tmp_path / "in", files=1)
    shard([str(tmp_path / "in")], tmp_path / "set", options=ShardOptions(size=8), num_workers=0)
    with pytest.raises(ConfigError, match="option size is 9, was 8"):
        shard([str(tmp_path / "in")], tmp_path / "set", options=ShardOptions(size=9), num_workers=0)


def test_sizes_cannot_be_changed_unseen():
    with pytest.raises(ConfigError, match="--size: needs the size of every image"):
        ShardOptions(size=8, check="none")


@pytest.mark.parametrize(("most", "said"), [(3, True), (2, False)])
def test_the_command_says_that_there_are_fewer_rows_than_were_asked_for(tmp_path, most, said):
    source = write_rows(tmp_path / "a.parquet", [pair(0), pair(1)])
    arguments = [str(source), "--workers", "0", "--max-samples", str(most), "--out", str(tmp_path / "set")]
    result = CliRunner().invoke(shard_command, arguments)
    assert result.exit_code == 0, result.exception
    assert ("--max-samples 3: the source has 2 rows, and all are taken\n" in result.stdout) == said


def test_the_command_counts_what_it_changed(tmp_path):
    rows = [{"image": hub(turned("PNG"))}, {"image": hub(encode(picture(2, size=BIG)))}]
    source = write_rows(tmp_path / "a.parquet", rows)
    arguments = [str(source), "--workers", "0", "--size", "32", "--encode", "png", "--splits", "train=1"]
    text = CliRunner().invoke(shard_command, [*arguments, "--out", str(tmp_path / "a")]).stdout
    assert "changed       1 turned upright, as its EXIF or XMP says (orientation)\n" in text
    assert "changed       1 made smaller (resized)\n" in text
    value = json.loads(
        CliRunner().invoke(shard_command, [*arguments, "--out", str(tmp_path / "b"), "--json"]).stdout
    )
    assert value["changed"] == {"orientation": 1, "resized": 1}


@pytest.mark.slow
def test_resizing_imports_no_torch(tmp_path):
    lock, unit = tmp_path / "workers.lock", local.Unit(0, ())
    lock.touch()
    assert list(local.run_local(_resize, [unit], num_workers=1, lock=lock, watch=print)) == [True]


def _resize(unit, heartbeat):
    from streamgan.sharding.sample.pixels import resize

    return resize(picture(1), (4, 4), "RGB").size == (4, 4) and sys.modules.get("torch") is None
