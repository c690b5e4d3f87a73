"""`streamgan shard` from parquet to a set that other tools read."""

import errno
import json
import os
import re
import subprocess
import sys
import tarfile
import zlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from marks import slow
from parquet_fixtures import encode, hub, pair, picture, tree, write_rows, write_source

from streamgan.cli.shard import shard as shard_command
from streamgan.core.errors import ConfigError, DataError
from streamgan.data.format import open_index, read_idx, read_manifest
from streamgan.sharding import run
from streamgan.sharding.engine import execute, local
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.unit.writer import disk_errors

SMALL = ShardOptions(samples_per_shard=10)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """A finished set, not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "set"
    shard([str(source)], out, options=SMALL, num_workers=0)
    return out


def source_bytes(source) -> dict[str, tuple[bytes, bytes]]:
    """(colour, gray) by key."""
    pairs = {}
    for index, path in enumerate(sorted(source.glob("*.parquet"))):
        for number, row in enumerate(pq.read_table(path).to_pylist()):
            images = row["image"]["bytes"], row["conditioning_image"]["bytes"]
            pairs[f"{index:05d}-{number:09d}"] = images
    return pairs


@pytest.mark.parametrize("workers", [2, slow(1), slow(4)])
def test_the_bytes_do_not_depend_on_the_number_of_workers(source, finished, tmp_path, workers):
    shard([str(source)], tmp_path / "set", options=SMALL, num_workers=workers)
    assert tree(tmp_path / "set") == tree(finished)


def test_the_progress_of_a_unit_counts_rows_and_the_bytes_of_their_samples(
    source, finished, tmp_path, monkeypatch
):
    units, make_unit = [], execute.make_unit

    def one(job, unit, heartbeat):
        units.append([])
        return make_unit(job, unit, lambda *at: units[-1].append(at) or heartbeat(*at))

    monkeypatch.setattr(execute, "make_unit", one)
    shard([str(source)], tmp_path / "set", options=SMALL, num_workers=0)
    sizes = {
        sum(member.size for member in sample.members)
        for path in finished.glob("*.idx")
        for sample in read_idx(path)
    }
    for told in units:
        steps = [(row - last, size - before) for (_, last, before), (_, row, size) in pairwise(told)]
        assert set(steps) <= {(0, 0), *((1, size) for size in sizes)}  # a row is told before it is read
        assert told[-1][1] == len([step for step in steps if step[0]]) > 0


def test_a_failure_to_write_names_the_file_or_else_the_set(tmp_path):
    for filename, named in ((str(tmp_path / "a.tar"), tmp_path / "a.tar"), (None, tmp_path)):
        error = OSError(errno.ENOSPC, "No space left on device", filename)
        with pytest.raises(DataError) as caught, disk_errors(tmp_path):
            raise error
        assert str(caught.value).startswith(f"{named}: cannot be written (No space left on device)")
        assert "run the same command again: finished shards are kept" in str(caught.value)


def test_a_disk_that_takes_nothing_any_more_does_not_hide_why_a_run_ended(source, tmp_path, monkeypatch):
    def fail(*_) -> None:
        raise DataError("unit", "failed", "look")

    def read_only(*_) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(execute, "make_unit", fail)
    monkeypatch.setattr(execute, "remove_temporary", read_only)
    with pytest.raises(DataError, match="unit: failed"):
        shard([str(source)], tmp_path / "set", num_workers=0)


def test_the_digest_does_not_depend_on_where_the_source_lies(source, finished, tmp_path):
    write_source(tmp_path / "elsewhere" / "deep")
    result = shard([str(tmp_path / "elsewhere")], tmp_path / "set", options=SMALL, num_workers=0)
    assert result.manifest.digest == read_manifest(finished).digest


def test_every_row_arrives_once_with_its_bytes(source, finished):
    found = {}
    for path in finished.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.split(".", 1)
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    assert {key: (one["color.jpg"], one["gray.jpg"]) for key, one in found.items()} == source_bytes(source)
    assert {json.dumps(json.loads(one["json"])) for one in found.values()} == {'{"width": 24, "height": 16}'}


def test_offsets_sizes_and_checksums_are_those_of_tarfile(finished):
    manifest = read_manifest(finished)
    for name, split in manifest.splits.items():
        index = open_index(finished, name, split)
        row = 0
        for entry in split.shards:
            data = (finished / entry.name).read_bytes()
            with tarfile.open(finished / entry.name) as tar:
                members = iter(tar.getmembers())
            for sample in read_idx(finished / entry.name.replace(".tar", ".idx")):
                for member in sample.members:
                    seen = next(members)
                    assert seen.name == f"{sample.key}.{member.suffix}"
                    assert (seen.offset_data, seen.size) == (member.offset, member.size)
                    content = data[member.offset : member.offset + member.size]
                    assert zlib.crc32(content) == member.crc32
                assert sample.offset + sample.span <= len(data)
                color, gray = sample.members[:2]
                assert tuple(index[row]) == (
                    *(color.offset, color.size, color.crc32),
                    *(gray.offset, gray.size, gray.crc32),
                )
                row += 1
            assert next(members, None) is None
        assert row == split.samples


def test_webdataset_reads_equal_bytes(source, finished):
    import webdataset

    tars = sorted(str(path) for path in finished.glob("*.tar"))
    read = {
        sample["__key__"]: (sample["color.jpg"], sample["gray.jpg"])
        for sample in webdataset.WebDataset(tars, shardshuffle=False)
    }
    assert read == source_bytes(source)


def test_datasets_reads_equal_bytes(source, finished, tmp_path):
    from datasets import Image, load_dataset

    files = {"train": sorted(str(path) for path in finished.glob("train-*.tar"))}
    rows = load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path), split="train")
    rows = rows.cast_column("color.jpg", Image(decode=False)).cast_column("gray.jpg", Image(decode=False))
    wanted = source_bytes(source)
    assert len(rows) == read_manifest(finished).splits["train"].samples
    for row in rows:
        assert (row["color.jpg"]["bytes"], row["gray.jpg"]["bytes"]) == wanted[row["__key__"]]


def test_gnu_tar_reads_equal_bytes(source, finished, tmp_path):
    for path in finished.glob("*.tar"):
        subprocess.run(["tar", "-xf", path, "-C", tmp_path], check=True)
    wanted = source_bytes(source)
    assert len(list(tmp_path.iterdir())) == 3 * len(wanted)
    for key, (color, gray) in wanted.items():
        assert (tmp_path / f"{key}.color.jpg").read_bytes() == color
        assert (tmp_path / f"{key}.gray.jpg").read_bytes() == gray


def test_the_format_page_holds_a_reader_that_works(finished, monkeypatch, capsys):
    page = (run.Path(__file__).parent.parent / "shards" / "README.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(finished.parent)
    exec(compile(code.replace("shards/photos", finished.name), "README", "exec"), {})
    assert capsys.readouterr().out.count("\n") == read_manifest(finished).splits["train"].samples


def test_a_rerun_says_that_there_is_nothing_to_do(source, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    result = CliRunner().invoke(
        shard_command, [str(source), "--out", str(finished), "--samples-per-shard", "10"]
    )
    assert result.exit_code == 0
    assert "nothing to do" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


@pytest.mark.parametrize("name", ["train-000000.tar", "val-000001.idx", "test.index", "quarantine.jsonl"])
@pytest.mark.parametrize("damage", [os.remove, lambda path: os.truncate(path, path.stat().st_size // 2)])
def test_a_finished_set_that_lacks_a_listed_file_is_not_called_finished(tmp_path, name, damage):
    write_rows(tmp_path / "a.parquet", [pair(i) for i in range(40)] + [{**pair(0), "image": hub(None)}])
    out = tmp_path / "set"
    options = ShardOptions(samples_per_shard=20)
    shard([str(tmp_path / "a.parquet")], out, options=options, num_workers=0, max_bad=1)
    damage(out / name)
    for run_again in (
        lambda: shard([str(tmp_path / "a.parquet")], out, options=options, num_workers=0, max_bad=1),
        lambda: run.finish(out, max_bad=1),
    ):
        with pytest.raises(DataError, match=rf"{re.escape(name)}: missing, cut or changed in a finished set"):
            run_again()


def test_json_is_one_object_on_stdout(source, tmp_path):
    arguments = [str(source), "--out", str(tmp_path / "set"), "--workers", "0", "--json"]
    first, second = (json.loads(CliRunner().invoke(shard_command, arguments).stdout) for _ in range(2))
    assert (first["ok"], first["nothing_to_do"], second["nothing_to_do"]) == (True, False, True)
    assert sum(split["samples"] for split in first["splits"].values()) == 60
    assert first["quarantine"] == {}
    assert first["digest"] == second["digest"] == read_manifest(tmp_path / "set").digest


def test_help_imports_neither_torch_nor_pyarrow():
    code = (
        "import sys; from click.testing import CliRunner; from streamgan.cli.shard import shard\n"
        "from streamgan.cli.verify import verify\n"
        "assert all(CliRunner().invoke(c, ['--help']).exit_code == 0 for c in (shard, verify))\n"
        "assert not {'torch', 'pyarrow', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_max_samples_counts_exactly(source, tmp_path):
    options = ShardOptions(samples_per_shard=10, max_samples=23)
    result = shard([str(source)], tmp_path / "set", options=options, num_workers=0)
    assert sum(split.samples for split in result.manifest.splits.values()) == 23


def test_copies_of_an_image_share_a_split_and_another_seed_keeps_it(tmp_path):
    write_rows(tmp_path / "a.parquet", [pair(i % 7) for i in range(70)])
    splits = []
    for seed in (0, 1):
        out = tmp_path / f"set{seed}"
        shard([str(tmp_path / "a.parquet")], out, options=ShardOptions(seed=seed), num_workers=0)
        split_of = {}
        for path in out.glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    if ".color." in member.name:
                        split_of.setdefault(tar.extractfile(member).read(), set()).add(path.name[:4])
        splits.append(split_of)
    assert splits[0] == splits[1]
    assert len(splits[0]) == 7
    assert all(len(names) == 1 for names in splits[0].values())


def test_splits_of_the_source_follow_its_file_names(tmp_path):
    for name, count in (("train-0", 8), ("validation-0", 3), ("test-0", 2)):
        write_rows(tmp_path / "in" / f"{name}.parquet", [pair(hash(name) % 1000 + i) for i in range(count)])
    options = ShardOptions(splits="source")
    splits = shard([str(tmp_path / "in")], tmp_path / "set", options=options, num_workers=0).manifest.splits
    assert {name: split.samples for name, split in splits.items()} == {"train": 8, "val": 3, "test": 2}


def test_a_split_without_rows_has_no_shard_and_still_an_index(tmp_path):
    write_rows(tmp_path / "a.parquet", [pair(1)] * 3)
    result = shard([str(tmp_path / "a.parquet")], tmp_path / "set", num_workers=0)
    assert sorted(split.samples for split in result.manifest.splits.values()) == [0, 0, 3]
    assert len(list((tmp_path / "set").glob("*.tar"))) == 1
    assert all(len(np.load(tmp_path / "set" / f"{name}.index")) in (0, 3) for name in result.manifest.splits)


def members_of(out) -> list[str]:
    return sorted(
        member.name.split(".", 1)[1]
        for path in out.glob("*.tar")
        for member in tarfile.open(path).getmembers()
    )


def test_derive_drops_the_gray_twin(source, tmp_path):
    options = ShardOptions(gray="derive", max_samples=5)
    shard([str(source)], tmp_path / "set", options=options, num_workers=0)
    assert members_of(tmp_path / "set") == ["color.jpg"] * 5 + ["json"] * 5


def test_a_source_without_gray_twins_needs_no_option(tmp_path):
    write_rows(tmp_path / "a.parquet", [{"image": hub(encode(picture(i))), "label": i} for i in range(4)])
    shard([str(tmp_path / "a.parquet")], tmp_path / "set", num_workers=0)
    assert members_of(tmp_path / "set") == ["color.jpg"] * 4 + ["json"] * 4


@pytest.mark.parametrize("gray_name", ["conditioning_image", "grayscale_image", "twin"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_columns_are_found_by_their_names_and_plain_binary_is_read(tmp_path, gray_name, kind):
    rows = [
        {
            "image": encode(picture(i), kind),
            gray_name: encode(picture(i, mode="L"), "PNG"),
            "caption": f"c{i}",
        }
        for i in range(3)
    ]
    write_rows(tmp_path / "a.parquet", rows)
    options = ShardOptions(gray_column="twin" if gray_name == "twin" else None, keep_text=True)
    shard([str(tmp_path / "a.parquet")], tmp_path / "set", options=options, num_workers=0)
    assert members_of(tmp_path / "set") == sorted([f"color.{kind.lower()}", "gray.png", "json"] * 3)
    texts = []
    for path in (tmp_path / "set").glob("*.tar"):
        with tarfile.open(path) as tar:
            texts += [json.load(tar.extractfile(m))["text"] for m in tar if m.name.endswith("json")]
    assert sorted(texts) == ["c0", "c1", "c2"]


def test_files_may_be_named_in_many_ways_and_count_once(source, tmp_path):
    sources = [str(source), str(source / "*.parquet"), str(source / "train-00000-of-00003.parquet")]
    result = shard(sources, tmp_path / "set", options=SMALL, num_workers=0)
    assert [file["name"] for file in result.manifest.source["files"]] == sorted(os.listdir(source))


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"picture": b"x"}], {}, "no column image .*picture"),
        ([{"image": "a string"}], {}, "not encoded images"),
        ([pair(0)], {"gray_column": "grey"}, "no column 'grey'"),
        ([{"image": b"x"}], {"keep_text": True}, "no column text or caption"),
        ([{"image": b"x", "text": 3}], {"keep_text": True}, "not text"),
        ([pair(0)], {"splits": "source"}, "does not say its split"),
    ],
)
def test_a_source_that_does_not_fit_the_options_is_refused(tmp_path, rows, options, words):
    write_rows(tmp_path / "a.parquet", rows)
    with pytest.raises(ConfigError, match=words):
        shard([str(tmp_path / "a.parquet")], tmp_path / "set", options=ShardOptions(**options), num_workers=0)


def test_files_that_are_not_parquet_are_named(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [pair(0)])
    path.write_bytes(path.read_bytes()[:-9])
    for wanted in (path, tmp_path / "none", tmp_path / "*.arrow"):
        with pytest.raises(DataError, match=wanted.name.replace("*", r"\*")):
            shard([str(wanted)], tmp_path / "set", num_workers=0)


def test_only_some_files_with_gray_twins_are_refused(tmp_path):
    write_rows(tmp_path / "a.parquet", [pair(0)])
    write_rows(tmp_path / "b.parquet", [{"image": hub(encode(picture(1)))}])
    with pytest.raises(ConfigError, match=r"b\.parquet.*a\.parquet has one"):
        shard([str(tmp_path)], tmp_path / "set", num_workers=0)


def test_a_damaged_row_group_is_named(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "a.parquet", [pair(i) for i in range(20)])
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(2).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet: row group 2 cannot be read"):
        shard([str(path)], tmp_path / "set", num_workers=0)


def test_a_huge_row_group_is_read_a_few_rows_at_a_time(tmp_path):
    table = pa.table({"image": [encode(picture(i)) + bytes(300_000) for i in range(150)]})
    path = tmp_path / "a.parquet"
    # a page is what parquet cannot read in parts: keep it small, as for any large row group
    pq.write_table(table, path, compression="none", use_dictionary=False, write_batch_size=8)
    del table
    pool = pa.default_memory_pool()
    before, peak = pool.bytes_allocated(), 0
    from streamgan.sharding.source.read import read_source

    for row in read_source([str(path)])[0].read(row_group=0, start=40, stop=120):
        assert 40 <= row.number < 120
        peak = max(peak, pool.bytes_allocated() - before)
    assert peak < path.stat().st_size / 3


def test_workers_import_nothing_that_they_have_no_use_for(tmp_path):
    """torch alone would be 3 s and 400 MB per worker."""
    unit, lock = local.Unit(0, ()), tmp_path / "workers.lock"
    lock.touch()
    assert list(local.run_local(_heavy_modules, [unit], num_workers=1, lock=lock, watch=print)) == [[]]


def _heavy_modules(unit, heartbeat):
    import streamgan.sharding.run  # noqa: F401

    return sorted({"torch", "webdataset", "pydantic"} & set(sys.modules))


def test_a_script_that_shards_needs_no_guard_around_it(source, finished, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from streamgan.sharding.run import ShardOptions, shard\n"
        f"shard([{str(source)!r}], {str(tmp_path / 'set')!r},"
        " options=ShardOptions(samples_per_shard=10), num_workers=2)\nprint('done')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
    assert tree(tmp_path / "set") == tree(finished)
