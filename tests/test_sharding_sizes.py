"""`--shard-size`, and that a folder is refused when it holds anything else than the set asked for."""

import subprocess
import sys

import pytest
from click.testing import CliRunner
from marks import slow
from parquet_fixtures import pair, tree, write_rows, write_source

from streamgan.cli.shard import shard as shard_command
from streamgan.core.errors import ConfigError, DataError
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.unit.sizes import parse_size

# Begins, and is at work until its input ends.
SLOW = """
import sys
from streamgan.sharding import run
from streamgan.sharding.engine import execute

def make_unit(job, unit, beat):
    print("begun", flush=True)
    sys.stdin.read()
    return original(job, unit, beat)

original, execute.make_unit = execute.make_unit, make_unit
run.shard([sys.argv[1]], sys.argv[2], num_workers=0)
"""


@pytest.mark.parametrize(
    ("spec", "size"),
    [("256MB", 256_000_000), ("1GiB", 1 << 30), ("0.5 gb", 500_000_000), ("64k", 64_000), ("4096", 4096)],
)
def test_sizes_are_read_as_people_write_them(spec, size):
    assert parse_size(spec) == size


@pytest.mark.parametrize("spec", ["", "MB", "0", "-1MB", "1TBB", "1 potato"])
def test_what_is_no_size_is_refused(spec):
    with pytest.raises(ConfigError, match="--shard-size: not a size"):
        parse_size(spec)


@pytest.mark.parametrize(("splits", "largest"), [("train=70,val=20,test=10", "train"), slow("val=1", "val")])
def test_shards_of_the_largest_split_have_about_the_size(tmp_path, splits, largest):
    write_rows(tmp_path / "in" / "train-0.parquet", [pair(i) for i in range(400)], group=4)
    options = ShardOptions(splits=splits)
    done = shard([str(tmp_path / "in")], tmp_path / "set", options=options, shard_bytes=80_000, num_workers=0)
    sizes = [entry.bytes for entry in done.manifest.splits[largest].shards]
    mean = sum(sizes) / len(sizes)
    assert len(sizes) > 4
    assert 0.6 * 80_000 < mean < 2.5 * 80_000  # images of 700 bytes: half of each tar is headers
    rows = done.manifest.options["samples_per_shard"]
    options = ShardOptions(splits=splits, samples_per_shard=rows)
    shard([str(tmp_path / "in")], tmp_path / "same", options=options, num_workers=0)
    assert tree(tmp_path / "set") == tree(tmp_path / "same")


def test_a_source_of_empty_files_is_judged_by_its_rows(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    with pytest.raises(DataError, match=r"1 of 1 rows are bad, .*: empty 1;"):
        shard([str(tmp_path / "in")], tmp_path / "set", shard_bytes=80_000, num_workers=0)


def test_the_largest_split_of_a_source_with_splits_is_counted_in_rows(tmp_path):
    write_rows(tmp_path / "in" / "train-0.parquet", [pair(i) for i in range(30)])
    write_rows(tmp_path / "in" / "test-0.parquet", [pair(i) for i in range(90)])
    size = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    options = ShardOptions(splits="source")
    done = shard(
        [str(tmp_path / "in")], tmp_path / "set", options=options, shard_bytes=size // 4, num_workers=0
    )
    assert done.manifest.options["samples_per_shard"] == 40  # a quarter of the bytes, of which 3/4 are test


def test_the_command_takes_either_rows_or_a_size(tmp_path):
    write_source(tmp_path / "in", files=1)
    common = [str(tmp_path / "in"), "--out", str(tmp_path / "set"), "--workers", "0", "--shard-size", "1MB"]
    both = CliRunner().invoke(shard_command, [*common, "--samples-per-shard", "5"])
    assert (both.exit_code, "not both" in both.output) == (2, True)
    assert CliRunner().invoke(shard_command, common).exit_code == 0
    assert "nothing to do" in CliRunner().invoke(shard_command, common).output
    other = CliRunner().invoke(shard_command, [*common[:-1], "2MB"])
    assert "option samples_per_shard is " in str(other.exception)


@pytest.mark.slow
def test_another_sharder_at_work_is_refused_and_not_disturbed(tmp_path):
    source = write_source(tmp_path / "in", files=1)
    arguments = [sys.executable, "-c", SLOW, str(source), str(tmp_path / "set")]
    first = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"begun\n"
    with pytest.raises(ConfigError, match="another sharder is writing here"):
        shard([str(source)], tmp_path / "set", num_workers=0)
    first.communicate()
    assert first.returncode == 0
    assert shard([str(source)], tmp_path / "set", num_workers=0).nothing_to_do
