"""Several sets as one: shares as asked for, every set in its own order, the same on any number of ranks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from parquet_fixtures import pair, write_rows
from training import tiny_config

from streamgan.core.errors import CheckpointError, ConfigError, DataError
from streamgan.data import Batch, Weighted, build_loader
from streamgan.data.loader import build_eval_loader
from streamgan.data.order.mixture import CYCLE, Mixture, cycle_counts
from streamgan.data.reading import Source
from streamgan.data.shards.joint import JointReader, open_reader
from streamgan.data.shards.reader import ShardReader
from streamgan.sharding.run import ShardOptions, shard
from streamgan.train.build import build_reading
from streamgan.train.loop import train


@pytest.fixture(scope="module")
def other_set(tmp_path_factory):
    """A small set of other pictures: 20 to train on."""
    folder = tmp_path_factory.mktemp("other")
    write_rows(folder / "in" / "train-0.parquet", [pair(seed) for seed in range(20)])
    write_rows(folder / "in" / "val-0.parquet", [pair(seed) for seed in range(20, 25)])
    options = ShardOptions(samples_per_shard=5, splits="source")
    shard([str(folder / "in")], folder / "set", options=options, num_workers=0)
    return folder / "set"


@pytest.fixture(scope="module")
def sets(shard_set, other_set) -> list[Weighted]:
    return [Weighted(str(shard_set), 3.0), Weighted(str(other_set), 1.0)]


def ids_of(loader) -> np.ndarray:
    return np.stack([batch.ids_B.numpy() for batch in loader])


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=6))
def test_a_cycle_holds_every_set_as_its_weight_says(weights):
    counts = np.array(cycle_counts(weights))
    assert counts.sum() == CYCLE
    assert np.abs(counts - np.array(weights) / sum(weights) * CYCLE).max() < 1


def test_a_weight_too_small_to_be_kept_is_refused():
    with pytest.raises(ConfigError, match=r"weight 1e-05 of set 2 is less than 1 in 10000"):
        cycle_counts([1.0, 1e-5])


@st.composite
def mixtures(draw) -> Mixture:
    sizes = draw(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=4))
    for one in sizes:
        one[0] += 3
    weights = draw(
        st.lists(st.floats(0.2, 5), min_size=len(sizes), max_size=len(sizes)).filter(lambda w: min(w) > 0)
    )
    batch = draw(st.integers(1, min(24, sum(map(sum, sizes)))))
    return Mixture(sizes, weights, seed=draw(st.integers(0, 2**63)), batch=batch)


class Announced(list):
    """A reader of so many samples that keeps what it is told will be read next."""

    def __init__(self, count: int):
        super().__init__(range(count))
        self.told = []

    def expect(self, sample_ids, *, gray):
        self.told.append((sample_ids.tolist(), gray))


def test_each_set_is_told_which_of_its_samples_come_next():
    readers = [Announced(5), Announced(3)]
    JointReader(readers, [1.0, 1.0]).expect(np.array([6, 0, 4, 7]), gray=True)
    assert [reader.told for reader in readers] == [[([0, 4], True)], [([1, 2], True)]]


def test_the_order_of_a_mixture_never_changes():
    mixture = Mixture([[5, 3], [4, 4, 2]], [3, 1], seed=1, batch=8)
    expected = {
        0: ([0, 0, 0, 0, 0, 0, 0, 0], [0, 15, 1, 2, 3, 16, 4, 17]),
        3: ([1, 0, 2, 2, 2, 1, 1, 2], [4, 14, 7, 0, 1, 12, 13, 2]),
        1300: ([975, 975, 975, 975, 975, 260, 975, 260], [6, 7, 0, 1, 2, 8, 3, 9]),
    }
    assert {step: tuple(part.tolist() for part in mixture.batch_ids(step)) for step in expected} == expected


@settings(max_examples=30)
@given(mixtures())
def test_every_set_is_gone_through_in_its_own_order_pass_after_pass(mixture):
    steps = 3 * mixture.steps_per_epoch
    found = [mixture.batch_ids(step) for step in range(steps)]
    epochs, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    ends = np.append(mixture.starts[1:], mixture.num_samples)
    for order, start, end in zip(mixture.orders, mixture.starts, ends, strict=True):
        mine = (ids >= start) & (ids < end)
        if mine.any():
            own_epochs, own_ids = order.samples(0, mine.sum())
            assert (ids[mine] - start).tolist() == own_ids.tolist()
            assert epochs[mine].tolist() == own_epochs.tolist()
            assert own_epochs[-1] == (mine.sum() - 1) // (order.steps_per_epoch * order.batch)


@settings(max_examples=30)
@given(mixtures(), st.data())
def test_a_step_of_a_mixture_is_the_same_whether_walked_to_or_jumped_to(mixture, data):
    walked = [mixture.batch_ids(step) for step in range(40)]
    for step in data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=5)):
        sizes = [order.shard_sizes for order in mixture.orders]
        fresh = Mixture(sizes, [float(c) for c in mixture.counts], seed=mixture.seed, batch=mixture.batch)
        for one, other in zip(walked[step], fresh.batch_ids(step), strict=True):
            assert one.tolist() == other.tolist()


@settings(max_examples=30)
@given(mixtures(), st.integers(0, 60), st.data())
def test_some_rows_of_a_batch_are_those_of_all(mixture, step, data):
    start = data.draw(st.integers(0, mixture.batch - 1))
    rows = slice(start, data.draw(st.integers(start + 1, mixture.batch)))
    for some, whole in zip(mixture.batch_ids(step, rows), mixture.batch_ids(step), strict=True):
        assert some.tolist() == whole[rows].tolist()


def test_shares_hold_over_a_batch_and_exactly_over_a_cycle():
    mixture = Mixture([[500] * 4, [100] * 3], [7, 3], seed=1, batch=100)
    of_second = [(mixture.batch_ids(step)[1] >= 2000).sum() for step in range(CYCLE // 100)]
    assert sum(of_second) == 3000
    assert 15 < min(of_second) <= max(of_second) < 45  # 30 +- 4.6


@pytest.mark.parametrize(("world", "workers"), [(2, 0), slow(3, 2), slow(4, 1)])
def test_batches_of_a_mixture_depend_on_neither_ranks_nor_workers(sets, world, workers):
    options = {"batch": 12, "size": 32, "stop_step": 15, "gray": "twin", "workers": 0}
    alone = list(build_loader(sets, **options))
    assert len({int(sample) for batch in alone for sample in batch.ids_B if sample >= 64}) == 20
    options |= {"workers": workers, "world": world}
    ranks = [list(build_loader(sets, rank=rank, **options)) for rank in range(world)]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        whole = Batch(*(torch.cat(one) for one in zip(*parts, strict=True)))
        assert all(torch.equal(a, b) for a, b in zip(whole, alone[step], strict=True))
    assert np.array_equal(
        ids_of(build_loader(sets, **options | {"world": 1, "start_step": 9})), ids_of(alone[9:])
    )


def test_a_second_pass_in_one_epoch_crops_and_mirrors_anew(other_set, shard_set):
    loader = build_loader(
        [Weighted(str(shard_set), 1.0), Weighted(str(other_set), 9.0)], batch=12, size=16, workers=0, epochs=1
    )
    seen = {}
    for batch in loader:
        for sample, image in zip(batch.ids_B.tolist(), batch.color_B3HW, strict=True):
            seen.setdefault(sample, []).append(image)
    repeated = [images for images in seen.values() if len(images) > 1]
    assert len(repeated) >= 15
    assert any(not torch.equal(images[0], images[1]) for images in repeated)


def test_ids_run_through_the_sets_in_turn(sets, shard_set, other_set):
    joint, first, second = open_reader(Source(sets), "train"), *(ShardReader(s.path, "train") for s in sets)
    assert len(joint) == len(first) + len(second) == 84
    assert joint.read(63) == first.read(63)
    assert joint.read(64, gray=True) == second.read(0, gray=True)
    assert joint.where(83) == second.where(19)
    for reader in (joint, first, second):
        reader.close()


def test_the_digest_says_what_is_mixed_and_how(sets):
    digests = {
        open_reader(Source(variant), "train").digest
        for variant in (sets, sets[::-1], [sets[0], sets[1]._replace(weight=2.0)], sets[:1])
    }
    assert len(digests) == 4
    doubled = [one._replace(weight=2 * one.weight) for one in sets]
    assert open_reader(Source(doubled), "train").digest == open_reader(Source(sets), "train").digest


def test_without_weights_every_set_has_as_many_shares_as_samples(shard_set, other_set):
    reader = open_reader(Source([str(shard_set), str(other_set)]), "train")
    assert reader.weights == [64, 20]


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_takes_the_first_of_each_set_in_the_ratio_of_weights(sets, world):
    common = {"batch": 4, "size": 32, "world": world}
    loaders = [build_eval_loader(sets, "train", rank=r, num_images=16, **common) for r in range(world)]
    ids = sorted(i for loader in loaders for batch in loader for i in batch.ids_B.tolist() if i >= 0)
    assert ids == [*range(12), *range(64, 68)]
    everything = [build_eval_loader(sets, "train", rank=r, **common) for r in range(world)]
    found = sorted(i for loader in everything for batch in loader for i in batch.ids_B.tolist() if i >= 0)
    assert found == list(range(84))


def test_what_cannot_be_mixed_is_refused_in_one_line(shard_set, other_set, tmp_path):
    one, other = str(shard_set), str(other_set)
    options = {"size": 32, "workers": 0}
    with pytest.raises(ConfigError, match=r"data\.shards: names no shard set"):
        build_loader([], **options)
    with pytest.raises(
        ConfigError, match=f"{other} has no weight but others have; give all a weight, or none"
    ):
        build_loader([Weighted(one, 2.0), Weighted(other)], **options)
    for weight in (0, -1.0, math.nan, math.inf, "2"):
        with pytest.raises(ConfigError, match=rf"^weight: must be a number above 0 \(got {weight!r}\)"):
            build_loader([Weighted(one, weight), Weighted(other, 1.0)], **options)
    with pytest.raises(ConfigError, match=r"data\.max_samples: does not say of which set"):
        build_loader([one, other], max_samples=10, **options)
    with pytest.raises(ConfigError, match="24 lanes are more than the 20 samples of set 2"):
        build_loader([one, other], lanes=24, batch=24, **options)
    with pytest.raises(DataError, match="no such folder of shards"):
        build_loader([one, str(tmp_path / "nowhere")], **options)


def test_a_run_trains_on_a_mixture_and_continues_on_no_other(shard_set, other_set, tmp_path):
    def config(weight: int, steps: int):
        word = f"data.shards=[{{path: {shard_set}, weight: {weight}}}, {{path: {other_set}, weight: 1}}]"
        return tiny_config(shard_set, tmp_path / "run", word, f"run.steps={steps}")

    assert build_reading(config(3, 2)).source.shards == [
        Weighted(str(shard_set), 3.0),
        Weighted(str(other_set), 1.0),
    ]
    assert train(config(3, 2))["validation"]["val/psnr"] > 0
    with pytest.raises(CheckpointError, match="was trained on other shards"):
        train(config(4, 3))
    assert train(config(3, 3))["steps"] == 3
