"""The canonical order: nothing lost, nothing twice, the same however it is reached, and never another one."""

import hashlib
from itertools import chain, groupby, pairwise
from operator import itemgetter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamgan.core.errors import ConfigError
from streamgan.core.seeding import hash64, uniform
from streamgan.data.order.canonical import (
    MAX_LANES,
    MIN_WINDOW,
    Order,
    default_lanes,
    default_window,
    rank_slice,
)


@st.composite
def orders(draw) -> Order:
    """Any order that has at least one step: shards of 0 to 30 samples, any divisor of the batch as lanes."""
    batch = draw(st.integers(1, 24))
    lanes = draw(st.sampled_from([lanes for lanes in range(1, batch + 1) if batch % lanes == 0]))
    sizes = draw(st.lists(st.integers(0, 30) | st.sampled_from([0, 1]), min_size=1, max_size=25))
    sizes[0] += max(0, batch - sum(sizes))
    return Order(
        draw(st.permutations(sizes)),
        seed=draw(st.integers(0, 2**64)),
        batch=batch,
        lanes=lanes,
        window=draw(st.integers(1, 6)),
        reshuffle=draw(st.sampled_from(["global", "lane"])),
    )


def again(order: Order) -> Order:
    """The same order with nothing cached."""
    return Order(
        order.shard_sizes,
        seed=order.seed,
        batch=order.batch,
        lanes=order.lanes,
        window=order.window,
        reshuffle=order.reshuffle,
    )


def epoch_ids(order: Order, epoch: int) -> np.ndarray:
    """Ids of a whole epoch, (steps, B)."""
    first = epoch * order.steps_per_epoch
    return np.stack([order.batch_ids(first + k)[1] for k in range(order.steps_per_epoch)])


def spelled_out(order: Order, epoch: int) -> list[list[int]]:
    """The definition in STREAMING's words with lists, an epoch at a time: what `Order` does lazily."""
    ends = np.cumsum(order.shard_sizes)
    shards = [range(end - size, end) for end, size in zip(ends, order.shard_sizes, strict=True)]
    deal = epoch if order.reshuffle == "global" else 0
    permuted = sorted(range(len(shards)), key=lambda shard: int(hash64(order.seed, 1, deal, shard)))
    line = [(shard, sample) for shard in permuted for sample in shards[shard]]
    rotation = int(uniform(order.seed, 2, deal) * len(line))
    # a shard that the rotation cuts counts as two
    line = line[rotation:] + [(shard - len(shards), sample) for shard, sample in line[:rotation]]
    lanes = []
    for number in range(order.lanes):
        begin, end = (len(line) * edge // order.lanes for edge in (number, number + 1))
        pieces = [[sample for _, sample in run] for _, run in groupby(line[begin:end], key=itemgetter(0))]
        if order.reshuffle == "lane":
            places = range(len(pieces))
            pieces = [
                pieces[i] for i in sorted(places, key=lambda i: int(hash64(order.seed, 6, epoch, number, i)))
            ]
        windows = max(1, len(pieces) // order.window)
        edges = [len(pieces) * edge // windows for edge in range(windows + 1)]
        mixed = [
            sorted(chain(*pieces[first:last]), key=lambda i: int(hash64(order.seed, 3, epoch, i)))
            for first, last in pairwise(edges)
        ]
        lanes.append(list(chain(*mixed)))
    share = order.batch // order.lanes
    return [
        [sample for lane in lanes for sample in lane[k * share : (k + 1) * share]]
        for k in range(len(line) // order.lanes // share)
    ]


@settings(max_examples=60)
@given(orders(), st.integers(0, 3))
def test_the_order_is_what_its_definition_says(order, epoch):
    assert epoch_ids(order, epoch).tolist() == spelled_out(order, epoch)


@settings(max_examples=60)
@given(orders(), st.integers(0, 5))
@example(Order([1, 0, 1, 0, 0, 1], seed=0, batch=3, lanes=3, window=1), 0)
@example(Order([0, 0, 7], seed=0, batch=1, lanes=1, window=9), 3)
def test_an_epoch_has_no_sample_twice_and_none_that_does_not_exist(order, epoch):
    ids = epoch_ids(order, epoch)
    assert ids.dtype == np.int64
    assert len(np.unique(ids)) == ids.size
    assert ids.min() >= 0
    assert ids.max() < order.num_samples


@settings(max_examples=40)
@given(orders(), st.integers(0, 100), st.integers(1, 60))
def test_samples_of_the_stream_are_those_of_the_batches_end_to_end(order, start, count):
    epochs, ids = order.samples(start, start + count)
    batches = [order.batch_ids(step) for step in range((start + count) // order.batch + 1)]
    stream = [(epoch, sample) for epoch, batch in batches for sample in batch.tolist()]
    assert list(zip(epochs.tolist(), ids.tolist(), strict=True)) == stream[start : start + count]


@settings(max_examples=40)
@given(orders(), st.integers(0, 100), st.data())
def test_some_rows_of_a_batch_are_those_of_all(order, step, data):
    start = data.draw(st.integers(0, order.batch - 1))
    rows = slice(start, data.draw(st.integers(start + 1, order.batch)))
    whole_epoch, whole = order.batch_ids(step)
    epoch, ids = order.batch_ids(step, rows)
    assert (epoch, ids.tolist()) == (whole_epoch, whole[rows].tolist())


def test_a_rank_looks_at_its_own_lanes_alone():
    order = Order([1000] * 1000, seed=0, batch=64, lanes=16, window=4)
    order.batch_ids(0, slice(8, 16))  # the third and the fourth lane
    assert {lane for _, lane, _ in order._windows} == {2, 3}


@settings(max_examples=40)
@given(orders(), st.integers(0, 3))
def test_uses_say_in_which_steps_a_window_with_each_shard_is_read(order, epoch):
    share, steps = order.batch // order.lanes, order.steps_per_epoch
    ends, reads = np.cumsum(order.shard_sizes), set()
    for step in range(epoch * steps, (epoch + 1) * steps):
        for place, sample in enumerate(order.batch_ids(step)[1].tolist()):
            reads.add((int(np.searchsorted(ends, sample, side="right")), place // share, step))
    uses = order.uses(epoch).T.tolist()
    assert [use[2] for use in uses] == sorted(use[2] for use in uses)
    windows = {}
    for shard, lane, first, last in uses:
        windows.setdefault((lane, first, last), set()).add(shard)
    seen = set()
    for (lane, first, last), shards in windows.items():
        inside = {
            read for read in reads if read[0] in shards and read[1] == lane and first <= read[2] <= last
        }
        assert (min(r[2] for r in inside), max(r[2] for r in inside)) == (first, last)
        seen |= inside
    assert seen == reads


@settings(max_examples=40)
@given(orders())
def test_an_epoch_has_as_many_steps_as_there_are_whole_batches(order):
    assert order.num_samples == sum(order.shard_sizes)
    assert order.steps_per_epoch == order.num_samples // order.batch
    assert [order.batch_ids(step)[0] for step in range(2 * order.steps_per_epoch)] == [
        *[0] * order.steps_per_epoch,
        *[1] * order.steps_per_epoch,
    ]


@settings(max_examples=40)
@given(orders(), st.data())
def test_a_step_is_the_same_whether_walked_to_or_jumped_to(order, data):
    last = 3 * order.steps_per_epoch
    walked = [order.batch_ids(step)[1] for step in range(last)]
    for step in data.draw(st.lists(st.integers(0, last - 1), min_size=1, max_size=8)):
        assert np.array_equal(walked[step], again(order).batch_ids(step)[1])
        assert np.array_equal(walked[step], order.batch_ids(step)[1])  # back in time, with old caches


@given(st.integers(1, 96), st.data())
def test_slices_of_the_ranks_make_up_the_batch(batch, data):
    world = data.draw(st.sampled_from([world for world in range(1, batch + 1) if batch % world == 0]))
    slices = [rank_slice(batch, rank, world) for rank in range(world)]
    assert [i for part in slices for i in range(batch)[part]] == list(range(batch))
    assert len({part.stop - part.start for part in slices}) == 1


@pytest.mark.parametrize(("batch", "world", "valid"), [(12, 5, "1, 2, 3, 4, 6, 12"), (7, 2, "1, 7")])
def test_a_number_of_ranks_that_does_not_divide_the_batch_lists_those_that_do(batch, world, valid):
    with pytest.raises(ConfigError, match=f"{batch} cannot be shared by {world} ranks; use {valid} ranks"):
        rank_slice(batch, 0, world)


@given(st.integers(1, 500))
def test_lanes_are_the_largest_divisor_of_the_batch_up_to_24(batch):
    lanes = default_lanes(batch)
    assert lanes <= MAX_LANES
    assert batch % lanes == 0
    assert not any(batch % more == 0 for more in range(lanes + 1, MAX_LANES + 1))


def test_lanes_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ConfigError, match=r"data\.lanes: 3 lanes do not divide a batch of 8"):
        Order([100], seed=0, batch=8, lanes=3, window=1)


def test_fewer_samples_than_one_batch_are_refused():
    with pytest.raises(ConfigError, match=r"data\.batch: 8 is more than the 7 samples"):
        Order([3, 0, 4], seed=0, batch=8, lanes=2, window=1)


def test_epochs_seeds_and_windows_all_change_the_order():
    options = {"seed": 0, "batch": 8, "lanes": 4, "window": 4}
    first = epoch_ids(Order([20] * 60, **options), 0)
    others = [
        epoch_ids(Order([20] * 60, **options), 1),
        epoch_ids(Order([20] * 60, **{**options, "seed": 1}), 0),
        epoch_ids(Order([20] * 60, **{**options, "lanes": 8}), 0),
        epoch_ids(Order([20] * 60, **{**options, "window": 2}), 0),
        epoch_ids(Order([20] * 60, **options, reshuffle="lane"), 1),
    ]
    for other in others:
        assert (first == other).mean() < 0.5
        assert not (first == other).all(1).any()


@pytest.mark.parametrize("reshuffle", ["global", "lane"])
def test_every_sample_is_in_the_dropped_tail_now_and_then_and_none_often(reshuffle):
    order = Order([5, 3, 0, 9, 4, 2], seed=3, batch=8, lanes=4, window=2, reshuffle=reshuffle)
    epochs = 200
    tails = [set(range(23)) - set(epoch_ids(order, epoch).ravel().tolist()) for epoch in range(epochs)]
    assert {len(tail) for tail in tails} == {23 % 8}
    dropped = np.bincount([sample for tail in tails for sample in tail], minlength=23) / epochs
    assert dropped.min() > 0.1  # 7 of 23 is 0.30
    assert dropped.max() < 0.6


def test_a_sample_comes_anywhere_in_an_epoch():
    order = Order([10] * 12, seed=5, batch=4, lanes=4, window=2)
    places = [np.flatnonzero((epoch_ids(order, epoch) == 17).any(1)) for epoch in range(300)]
    counts = np.histogram(np.concatenate(places), bins=6, range=(0, 30))[0]
    assert counts.min() > 25  # 50 expected


def test_the_canonical_order_never_changes():
    order = Order([5, 0, 7, 1, 11, 4], seed=42, batch=4, lanes=2, window=2)
    assert [order.batch_ids(step)[1].tolist() for step in (0, 1, 6, 7)] == [
        [10, 5, 26, 27],
        [3, 9, 19, 17],
        [12, 13, 25, 18],
        [12, 0, 26, 21],
    ]
    large = Order([997, 1000, 3, 1003] * 10, seed=2**40 + 1, batch=48, lanes=24, window=4)
    digest = hashlib.sha256()
    for step in range(0, 3 * large.steps_per_epoch, 7):
        epoch, ids = large.batch_ids(step)
        digest.update(f"{epoch} {ids.tolist()}\n".encode())
    assert digest.hexdigest() == "d497802961882eefc8791dab24495850d1c8c0e673f002021abedd541b95e5e1"


@settings(max_examples=30)
@given(orders())
def test_only_the_windows_in_reach_are_kept(order):
    for step in range(2 * order.steps_per_epoch):
        order.batch_ids(step)
        assert len(order._windows) <= 2 * order.lanes


def test_a_step_far_into_a_huge_set_costs_no_epoch():
    order = Order([1000] * 100_000, seed=0, batch=48, lanes=24, window=4)  # 1e8 samples
    _, ids = order.batch_ids(2_000_000)
    assert len(set(ids.tolist())) == 48
    assert sum(window.size for window in order._windows.values()) <= 24 * 5000


def test_lanes_that_keep_their_shards_read_no_others_in_any_epoch():
    order = Order([10] * 40, seed=1, batch=8, lanes=8, window=2, reshuffle="lane")
    shards = [
        [set((epoch_ids(order, epoch)[:, lane] // 10).tolist()) for lane in range(8)] for epoch in range(3)
    ]
    assert shards[0] == shards[1] == shards[2]
    assert max(len(lane) for lane in shards[0]) <= 6  # 40 / 8, and one cut at the border


@pytest.mark.parametrize(
    ("batch", "shards"), [(16, 400), (48, 170), (48, 400), (64, 100), (128, 700), (256, 400), (7, 30), (8, 5)]
)
def test_a_batch_is_nearly_as_mixed_as_a_full_shuffle(batch, shards):
    """Distinct shards in a batch, on average, at the default lanes and window."""
    samples = 100
    order = Order([samples] * shards, seed=0, batch=batch)
    ours = np.mean([len(set(ids // samples)) for ids in epoch_ids(order, 0)])
    line = np.random.default_rng(0).permutation(shards * samples)
    line = line[: order.steps_per_epoch * batch].reshape(-1, batch)
    full = np.mean([len(set(ids // samples)) for ids in line])
    assert ours >= 0.95 * full, (ours, full)


@pytest.mark.parametrize("reshuffle", ["global", "lane"])
def test_the_place_in_an_epoch_says_nothing_of_the_place_in_the_next(reshuffle):
    order = Order([10] * 1000, seed=0, batch=48, reshuffle=reshuffle)
    places = np.full((11, order.num_samples), np.nan)
    for epoch in range(len(places)):
        ids = epoch_ids(order, epoch)
        places[epoch, ids] = np.arange(len(ids))[:, None]
    found = []
    for pair in pairwise(places):
        first, second = np.stack(pair)[:, ~np.isnan(pair).any(0)]
        found.append(np.corrcoef(first, second)[0, 1])
    assert abs(np.mean(found)) < 0.02, found


@given(st.integers(1, 3000), st.integers(1, 512))
def test_the_default_window_is_no_wider_than_a_lane(shards, batch):
    lanes = default_lanes(batch)
    assert MIN_WINDOW <= default_window(shards, batch, lanes) <= max(MIN_WINDOW, -(-shards // lanes))
