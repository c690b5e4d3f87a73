"""The hash behind every order and every augmentation: frozen, well mixed, stateless."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgan.core.seeding import hash64, permutation, torch_seed, uniform

KEYS = st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        # The first is the first output of the reference SplitMix64 with seed 0.
        ((0,), 0xE220A8397B1DCDAF),
        ((1,), 0x910A2DEC89025CC1),
        ((0, 0), 0xA706DD2F4D197E6F),
        ((1, 2, 3), 0x6AE515C1C0AC7E37),
        ((-1,), 0xE4D971771B652C20),
    ],
)
def test_the_hash_never_changes(keys, value):
    assert int(hash64(*keys)) == value


def test_a_permutation_never_changes():
    assert permutation(10, 7, 1).tolist() == [9, 6, 5, 4, 2, 7, 3, 1, 8, 0]


def test_a_uniform_number_never_changes():
    assert uniform(3, 4, 5) == 0.5215927349315812


@given(KEYS)
def test_an_array_is_hashed_like_its_elements(keys):
    tail = np.array([0, 1, 5, 2**40], np.int64)
    assert hash64(*keys, tail).tolist() == [int(hash64(*keys, int(word))) for word in tail]


@given(st.integers(0, 2000), KEYS)
def test_a_permutation_has_every_item_once(num_items, keys):
    order = permutation(num_items, *keys)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(num_items))


@given(KEYS)
def test_uniform_lies_in_zero_to_one_without_one(keys):
    assert 0 <= uniform(*keys) < 1


@given(KEYS)
def test_torch_takes_the_seed(keys):
    assert 0 <= torch_seed(*keys) < 2**63


def test_the_largest_hash_still_gives_less_than_one(monkeypatch):
    monkeypatch.setattr("streamgan.core.seeding.hash64", lambda *keys: np.uint64(2**64 - 1))
    assert uniform(1) == 1 - 2.0**-53


def test_the_order_of_keys_matters():
    assert len({int(hash64(*keys)) for keys in [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (3,)]}) == 5


def test_numbers_are_spread_evenly():
    numbers = np.array([uniform(11, i) for i in range(5000)])
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 250) ** 2 / 250).sum() < 43.8  # chi squared, 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05


def test_one_bit_of_a_key_changes_half_of_the_hash():
    flips = [(int(hash64(5, 1 << bit)) ^ int(hash64(5, 0))).bit_count() for bit in range(64)]
    assert 30 < np.mean(flips) < 34
    assert min(flips) > 12
