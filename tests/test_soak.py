"""The long checks of `benchmarks/`, cut short: they must keep working, and find nothing."""

import importlib
from pathlib import Path

import pytest
from parquet_fixtures import pair

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def soak_verify():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("soak_verify")


@pytest.fixture
def root(soak_verify, tmp_path):
    rows = [pair(seed) for seed in range(16)]
    pairs = [(row["image"]["bytes"], row["conditioning_image"]["bytes"]) for row in rows]
    return soak_verify.make_set(pairs, tmp_path, samples_per_shard=8)


@pytest.mark.slow
def test_every_flipped_bit_is_found_and_named(soak_verify, root):
    done, found, _ = soak_verify.flips(root, 150, seed=1)
    assert done.total() == 150
    assert set(done) == set(soak_verify.KINDS)
    assert found == done


def test_every_cut_of_a_shard_is_found_while_webdataset_says_nothing_of_some(soak_verify, root):
    name = next(path.name for path in sorted(root.glob("train-*.tar")))
    size = (root / name).stat().st_size
    done, found, peer = soak_verify.cuts(root, name)
    assert found == done == size // 512
    assert peer["SILENT: samples are missing"] > 0


def test_every_misplaced_shard_is_found(soak_verify, root):
    moved = soak_verify.misplacements(root)
    assert len(moved) == 4
    for total, found in moved.values():
        assert found == total > 0
