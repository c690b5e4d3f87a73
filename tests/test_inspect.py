"""`streamgan inspect` says what is in a set and shows some of it."""

import json
import shutil
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from parquet_fixtures import encode, hub, pair, picture, tree, write_rows
from PIL import Image
from webdataset import TarWriter

from streamgan.cli.inspect import _source_line
from streamgan.cli.inspect import inspect as inspect_command
from streamgan.cli.main import main
from streamgan.core.errors import ConfigError, DataError
from streamgan.data import inspect as inspect_module
from streamgan.data.format import idx_name, read_idx, read_manifest
from streamgan.data.inspect import CELL, GAP, choose, inspect, write_sheet
from streamgan.sharding.foreign.build import index as index_tars
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.verify import verify

SIZES = [(24, 16)] * 20 + [(32, 32)] * 4


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """24 good rows of two sizes and two bad ones; blue left of red on every picture."""
    rows = []
    for seed, size in enumerate(SIZES):
        color = Image.new("RGB", size, (30, 30, 200))
        color.paste((200, 30, 30), (size[0] // 2, 0, *size))
        gray = Image.new("L", size, 100 + seed)
        rows.append({"image": hub(encode(color, "PNG")), "conditioning_image": hub(encode(gray, "PNG"))})
    rows += [{"image": hub(None), "conditioning_image": rows[0]["conditioning_image"]}] * 2
    source = write_rows(tmp_path_factory.mktemp("source") / "train-00000-of-00001.parquet", rows)
    out = tmp_path_factory.mktemp("original") / "set"
    # splits by content would depend on the encoder's bytes
    shard([str(source)], out, options=ShardOptions(samples_per_shard=10, splits="source"), max_bad=1)
    return out


@pytest.fixture
def copied(original, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(original, tmp_path / "set")


def all_places(root, **options):
    return list(choose(root, **{"count": 1000, "seed": 0, **options}))


def row_of(place):
    return place.reader.index[place.id]


def test_the_summary_counts_what_the_set_holds(original):
    before = tree(original)
    summary = inspect(original)
    manifest = read_manifest(original)
    assert summary.samples == summary.sized == 24
    train = summary.splits["train"]
    assert (train["shards"], train["bytes"]) == (
        len(list(original.glob("*.tar"))),
        manifest.splits["train"].bytes,
    )
    members = [m for t in original.glob("*.idx") for s in read_idx(t) for m in s.members]
    color = [m.size for m in members if m.suffix == "color.png"]
    assert train["color_bytes"] == sum(color)
    assert summary.color_bytes == (min(color), int(np.median(color)), max(color))
    assert dict(summary.sizes) == {(24, 16): 20, (32, 32): 4}
    assert tree(original) == before


def test_of_a_large_set_some_samples_stand_for_all(original, monkeypatch):
    monkeypatch.setattr(inspect_module, "SIZES_OF", 5)
    summary = inspect(original)
    assert (summary.samples, summary.sized, summary.sizes.total()) == (24, 5, 5)


def test_sizes_come_from_the_image_where_nothing_is_written_beside_it(tmp_path):
    source = write_rows(tmp_path / "a.parquet", [pair(seed) for seed in range(3)])
    shard([str(source)], tmp_path / "set", options=ShardOptions(check="none"), num_workers=0)
    assert dict(inspect(tmp_path / "set").sizes) == {(24, 16): 3}


def test_one_split_alone_can_be_asked_for(tmp_path):
    for name, count in (("train", 6), ("val", 2)):
        rows = [pair(seed + 10 * count) for seed in range(count)]
        write_rows(tmp_path / "in" / f"{name}-00000-of-00001.parquet", rows)
    shard([str(tmp_path / "in")], tmp_path / "set", options=ShardOptions(splits="source"), num_workers=0)
    assert list(inspect(tmp_path / "set").splits) == ["train", "val"]
    summary = inspect(tmp_path / "set", split="val")
    assert (list(summary.splits), summary.samples) == (["val"], 2)
    with pytest.raises(DataError, match=r"no samples in split 'test' \(got train \(6\), val \(2\)\)"):
        inspect(tmp_path / "set", split="test")


def test_the_choice_depends_on_the_seed_alone_and_holds_no_sample_twice(original):
    first = [place.sample.key for place in all_places(original, count=6)]
    assert first == [place.sample.key for place in all_places(original, count=6)]
    assert first != [place.sample.key for place in all_places(original, count=6, seed=1)]
    assert len(set(first)) == 6
    every = [place.sample.key for place in all_places(original)]
    listed = [
        s.key
        for entry in read_manifest(original).splits["train"].shards
        for s in read_idx(original / idx_name(entry.name))
    ]
    assert every == listed


def test_the_row_of_a_chosen_sample_is_that_of_its_key(original):
    for place in all_places(original):
        [color] = [m for m in place.sample.members if m.suffix == "color.png"]
        assert (row_of(place)["color_offset"], row_of(place)["color_size"]) == (color.offset, color.size)


def test_the_sheet_shows_gray_beside_colour_in_the_order_of_the_places(original, tmp_path):
    places = [place for place in all_places(original) if place.sample.key == "00000-000000023"]
    write_sheet(original, tmp_path / "new" / "sheet.png", places)
    sheet = Image.open(tmp_path / "new" / "sheet.png").convert("RGB")
    assert sheet.size[0] == 2 * CELL + 3 * GAP
    middle = GAP + CELL // 2
    assert sheet.getpixel((middle, middle)) == (123, 123, 123)  # gray of row 23
    colour = middle + CELL + GAP
    assert sheet.getpixel((colour - 10, middle)) == (30, 30, 200)
    assert sheet.getpixel((colour + 10, middle)) == (200, 30, 30)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_without_twins_the_sheet_shows_the_luminance_of_the_colour(tmp_path):
    source = write_rows(tmp_path / "a.parquet", [{"image": hub(encode(picture(1), "PNG"))}])
    shard([str(source)], tmp_path / "set", num_workers=0)
    summary = inspect(tmp_path / "set")
    assert summary.gray_bytes is None
    write_sheet(tmp_path / "set", tmp_path / "sheet.png", all_places(tmp_path / "set"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    middle = GAP + CELL // 2
    wanted = np.asarray(picture(1).convert("L"))[8, 12]
    assert sheet[middle, middle].tolist() == [wanted] * 3


def test_a_sheet_in_a_link_to_itself_is_one_line(original, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=r"cannot be written .*; it is a link to loop"):
        write_sheet(original, tmp_path / "loop" / "sheet.png", all_places(original)[:1])


def test_a_sheet_inside_the_set_is_refused(original):
    with pytest.raises(ConfigError, match="lies in the folder of the set"):
        write_sheet(original, original / "sheet.png", all_places(original, count=1))
    assert verify(original).findings == []


def test_a_sheet_that_cannot_be_written_is_one_clear_error(original, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_sheet(original, tmp_path / "file" / "sheet.png", all_places(original, count=1))


def test_damage_is_named_with_shard_and_key(copied, tmp_path):
    [place] = all_places(copied, count=1)
    path = copied / place.shard
    data = bytearray(path.read_bytes())
    data[int(row_of(place)["color_offset"]) + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=rf"{place.shard}, key {place.sample.key}: the color image is damaged"
    ):
        write_sheet(copied, tmp_path / "sheet.png", [place])
    assert not (tmp_path / "sheet.png").exists()


def test_an_image_that_does_not_decode_is_named_with_shard_and_key(tmp_path):
    good = encode(picture(0), "PNG")
    at = good.index(b"IDAT") + 12
    bad = good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :]
    source = write_rows(tmp_path / "a.parquet", [{"image": hub(bad)}])
    shard([str(source)], tmp_path / "set", num_workers=0)
    with pytest.raises(
        DataError, match=r"tar, key 00000-000000000: does not decode \(its pixels cannot be read\)"
    ):
        write_sheet(tmp_path / "set", tmp_path / "sheet.png", all_places(tmp_path / "set"))


def test_the_command_prints_aligned_tables(original, tmp_path):
    result = CliRunner().invoke(inspect_command, [str(original), "--out", str(tmp_path / "sheet.png")])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{original}: digest {read_manifest(original).digest}"
    head = next(line for line in lines if line.startswith("split"))
    row = next(line for line in lines if line.startswith("train"))
    assert row.split()[:2] == ["train", "24"]
    assert len(head) == len(row)
    assert any(line.split() == ["32", "x", "32", "4", "16.7%"] for line in lines)
    assert any(line.split() == ["missing", "2"] for line in lines)
    assert any(line.split() == ["samples_per_shard", "10"] for line in lines)
    assert lines[-1] == f"{tmp_path / 'sheet.png'}: 24 pairs, gray | colour"


def test_splits_by_content_are_shown_as_shares(tmp_path):
    source = write_rows(tmp_path / "a.parquet", [pair(seed) for seed in range(5)])
    shard([str(source)], tmp_path / "set", num_workers=0)
    result = CliRunner().invoke(inspect_command, [str(tmp_path / "set")])
    assert "train 70.0%, val 20.0%, test 10.0% by crc32" in result.stdout
    assert "rejected: none" in result.stdout


def test_of_tars_made_elsewhere_there_are_no_options_and_rows_to_show(tmp_path):
    with TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "a", "jpg": encode(picture(1))})
    index_tars(tmp_path)
    lines = CliRunner().invoke(inspect_command, [str(tmp_path)]).stdout.splitlines()
    assert not any(line.startswith("option") for line in lines)
    assert lines[-1] == "source: 1 tar, 0.0 MB: a.tar"


def run(monkeypatch, capsys, *arguments):
    """Exit code and JSON object of the command as a process would give them."""
    monkeypatch.setattr(sys, "argv", ["streamgan", "inspect", *map(str, arguments), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), json.loads(capsys.readouterr().out)


def test_json_is_one_object(original, tmp_path, monkeypatch, capsys):
    code, value = run(monkeypatch, capsys, original, "--out", tmp_path / "sheet.png", "--pairs", "3")
    assert (code, value["ok"], value["samples"], value["sizes_of"]) == (0, True, 24, 24)
    assert value["quarantine"] == {"missing": 2}
    assert value["sizes"][0] == {"width": 24, "height": 16, "samples": 20}
    assert value["options"]["samples_per_shard"] == 10
    assert value["source"]["files"][0]["rows"] == 26
    assert value["sheet"] == str(tmp_path / "sheet.png")
    assert len(value["pairs"]) == 3
    assert set(value["pairs"][0]) == {"split", "shard", "key"}


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [(["nowhere"], 3, "DataError"), (["nowhere", "--out", "sheet.jpg"], 2, "ConfigError")],
)
def test_json_of_an_error_is_one_object(monkeypatch, capsys, arguments, code, kind):
    got, value = run(monkeypatch, capsys, *arguments)
    assert (got, value["ok"], value["error"]["type"]) == (code, False, kind)


def test_pairs_are_those_of_a_sheet(tmp_path, run_as_program):
    done = run_as_program("inspect", tmp_path, "--pairs", "3")
    assert (done.code, "--pairs is for the sheet; name it with --out" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([{"name": "a", "bytes": 1e6, "rows": 1}], "source: 1 file, 1 row, 1.0 MB: a"),
        (
            [{"name": n, "bytes": 1e6, "rows": 2, "listing_sha256": ""} for n in "ab"],
            "source: 2 folders of images, 4 rows, 2.0 MB: a ... b",
        ),
        ([], "source: 0 files, 0 rows, 0.0 MB: "),
    ],
)
def test_the_source_is_told_in_proper_numbers(files, told):
    assert _source_line({"files": files}) == told
