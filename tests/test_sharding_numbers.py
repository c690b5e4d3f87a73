"""Absurd numbers in the options of `shard` are one line before anything is read or written."""

import json
from fractions import Fraction

import pytest
from click.testing import CliRunner
from parquet_fixtures import pair, write_rows

from streamgan.cli.shard import shard as shard_command
from streamgan.core.errors import ConfigError, DataError, StreamganError
from streamgan.core.storage.place import place
from streamgan.sharding.folder.parts import Part
from streamgan.sharding.folder.publish import Records, refuse_too_many_bad
from streamgan.sharding.foreign.build import index
from streamgan.sharding.run import finish, shard, shard_part

LONG = "9" * 400


@pytest.mark.parametrize(
    "option",
    ["--shard-size", "--workers", "--seed", "--max-bad", "--samples-per-shard", "--max-samples", "--size",
     "--max-pixels", "--quality"],
)  # fmt: skip
@pytest.mark.parametrize("value", [LONG, "9" * 5000, f"-{LONG}", "nan", "inf", "-inf", "1e400", "", "0x10"])
def test_numbers_without_sense_are_refused(tmp_path, option, value):
    arguments = ["nowhere", "--out", str(tmp_path / "set"), option, value]
    result = CliRunner().invoke(shard_command, arguments)
    assert result.exit_code != 0
    assert result.exception is None or isinstance(result.exception, SystemExit | StreamganError), (
        result.exception
    )
    assert option in result.output + str(result.exception)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "part", ["0/2", "3/2", f"1/{LONG}", f"{'9' * 5000}/1", "-1/2", "1/2/3", "nan/2", "٣/٤"]
)
def test_parts_without_sense_are_refused(tmp_path, part):
    result = CliRunner().invoke(shard_command, ["nowhere", "--out", str(tmp_path / "set"), "--part", part])
    assert isinstance(result.exception, ConfigError)
    assert "not one of N parts" in str(result.exception)


@pytest.mark.parametrize("weight", ["1e999999999", "nan", "inf", "-1", "0", "1/0", "", "9" * 400])
def test_weights_without_sense_are_refused(tmp_path, weight):
    write_rows(tmp_path / "a.parquet", [pair(0)])
    arguments = [str(tmp_path / "a.parquet"), "--out", str(tmp_path / "set"), "--splits", f"train={weight}"]
    result = CliRunner().invoke(shard_command, arguments)
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("--splits: ")


def test_a_seed_may_be_negative(tmp_path):
    write_rows(tmp_path / "a.parquet", [pair(0)])
    arguments = [str(tmp_path / "a.parquet"), "--out", str(tmp_path / "set"), "--workers", "0", "--json"]
    result = CliRunner().invoke(shard_command, [*arguments, "--seed", "-1"])
    assert json.loads(result.stdout)["ok"]


@pytest.mark.parametrize(
    ("max_bad", "total"), [(0.29, 100), (0.07, 100), (0.01, 100), (0.57, 100), (0.1, 30), (0.0, 7), (1, 7)]
)
def test_the_share_of_bad_rows_is_compared_exactly(tmp_path, max_bad, total):
    allowed = int(Fraction(str(max_bad)) * total)
    identity = {"source": {"files": [{"name": "a.parquet"}]}}

    def run(bad: int) -> None:
        records = Records()
        rows = [{"file": 0, "row": i, "reason": "damaged", "detail": ""} for i in range(bad)]
        records.add({"unit": 0, "rows": total, "shards": {}, "rejected": rows})
        refuse_too_many_bad(place(tmp_path), identity, records, total=total, max_bad=max_bad)

    run(allowed)
    with pytest.raises(DataError, match=f"{allowed + 1} of {total} rows are bad"):
        run(allowed + 1)


@pytest.mark.parametrize("max_bad", [float("nan"), float("inf"), -0.01, 1.01])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda out, **how: shard(["nowhere"], out, **how), id="shard"),
        pytest.param(lambda out, **how: shard_part(["nowhere"], out, part=Part(1, 1), **how), id="part"),
        pytest.param(lambda out, **how: finish(out, **how), id="finish"),
        pytest.param(lambda out, **how: index("nowhere", out=out, **how), id="index"),
    ],
)
def test_a_share_of_bad_rows_that_is_none_is_refused_before_anything_else(tmp_path, call, max_bad):
    with pytest.raises(ConfigError, match=r"^--max-bad: must be a number from 0 to 1 \(got "):
        call(tmp_path / "set", max_bad=max_bad)
    assert not (tmp_path / "set").exists()
