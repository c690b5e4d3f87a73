"""The plan as a pure function: every row once, whatever the shape of the source."""

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgan.core.errors import ConfigError
from streamgan.sharding.splits import HASH_RANGE, parse_splits, split_of_content, split_of_file
from streamgan.sharding.unit.plan import make_plan

GROUPS = st.lists(st.lists(st.integers(0, 70), max_size=6), min_size=1, max_size=6)


def _rows(plan) -> list[tuple[int, int, int]]:
    return [
        (piece.file, piece.row_group, row)
        for unit in plan
        for piece in unit.pieces
        for row in range(piece.start, piece.stop)
    ]


@given(GROUPS, st.integers(1, 40), st.integers(-(2**40), 2**40))
def test_each_row_is_in_the_plan_exactly_once(groups, samples_per_shard, seed):
    plan = make_plan(groups, samples_per_shard=samples_per_shard, seed=seed)
    everything = [(f, g, r) for f, file in enumerate(groups) for g, n in enumerate(file) for r in range(n)]
    assert sorted(_rows(plan)) == everything
    assert [unit.number for unit in plan] == list(range(len(plan)))


@given(GROUPS, st.integers(1, 40), st.integers(0, 9))
def test_no_unit_is_larger_than_two_shards_and_a_half(groups, samples_per_shard, seed):
    plan = make_plan(groups, samples_per_shard=samples_per_shard, seed=seed)
    assert all(0 < unit.num_rows <= 2.5 * samples_per_shard for unit in plan)
    pieces = [piece for unit in plan for piece in unit.pieces]
    assert all(piece.stop - piece.start <= 2 * samples_per_shard for piece in pieces)


@given(GROUPS, st.integers(1, 40), st.integers(0, 9), st.integers(1, 300))
def test_max_samples_takes_a_prefix_of_the_whole_plan(groups, samples_per_shard, seed, max_samples):
    whole = _rows(make_plan(groups, samples_per_shard=samples_per_shard, seed=seed))
    part = _rows(make_plan(groups, samples_per_shard=samples_per_shard, seed=seed, max_samples=max_samples))
    assert part == whole[:max_samples]


def test_the_plan_is_the_same_on_every_machine_and_in_every_release():
    plan = make_plan([[3, 100, 5], [7, 9]], samples_per_shard=10, seed=4)
    assert hashlib.sha256(repr(_rows(plan)).encode()).hexdigest()[:16] == "0671dc24558819b3"


def test_the_seed_changes_the_order():
    orders = {tuple(_rows(make_plan([[1] * 50], samples_per_shard=10, seed=seed))) for seed in range(5)}
    assert len(orders) == 5


@pytest.mark.parametrize(
    ("spec", "ends"),
    [
        ("train=70,val=20,test=10", {"train": 3006477107, "val": 3865470566, "test": HASH_RANGE}),
        ("test=1,train=1", {"train": HASH_RANGE // 2, "test": HASH_RANGE}),
        ("train=0.5, val=0.5", {"train": HASH_RANGE // 2, "val": HASH_RANGE}),
        ("train=1", {"train": HASH_RANGE}),
    ],
)
def test_weights_become_ends_of_ranges(spec, ends):
    assert parse_splits(spec) == ends
    assert list(parse_splits(spec)) == list(ends)


@pytest.mark.parametrize("spec", ["", "train", "train=x", "train=0", "train=-1", "dev=1", "train=1,train=2"])
def test_splits_that_make_no_sense_are_refused(spec):
    with pytest.raises(ConfigError, match="--splits"):
        parse_splits(spec)


def test_the_share_of_each_split_is_its_weight():
    ends = parse_splits("train=70,val=20,test=10")
    contents = (hashlib.sha256(str(i).encode()).digest() for i in range(5000))
    names = [split_of_content(zlib.crc32(content), ends) for content in contents]
    shares = [names.count(name) / 5000 for name in ends]
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.02)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00044.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "val"),
        ("val-0.parquet", "val"),
        ("test.parquet", "test"),
    ],
)
def test_a_file_name_says_its_split(name, split):
    assert split_of_file(name) == split


@pytest.mark.parametrize(
    "name", ["part-0.parquet", "training.parquet", "train/0000.parquet", "valid-0.parquet"]
)
def test_a_file_name_that_does_not_say_its_split_is_named(name):
    with pytest.raises(ConfigError, match=name):
        split_of_file(name)
