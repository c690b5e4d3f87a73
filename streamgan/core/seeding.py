"""Randomness as a pure function of integers: no state, equal on every machine and in every version.

numpy's and torch's generators may change their streams between releases; the order of a training run may
not. So every permutation and every augmentation comes from a 64-bit hash, the finalizer of SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash64(*keys: int | np.ndarray) -> Any:
    """A well-mixed hash (uint64) of the sequence `keys`; arrays are hashed elementwise and broadcast."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for key in keys:
            word = (
                key.astype(np.uint64) if isinstance(key, np.ndarray) else np.uint64(key & 0xFFFFFFFFFFFFFFFF)
            )
            state = state + word + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * _MIX_1
            state = (state ^ (state >> np.uint64(27))) * _MIX_2
            state = state ^ (state >> np.uint64(31))
    return state


def permutation(num_items: int, *keys: int) -> np.ndarray:
    """A permutation of range(num_items) (int64) that depends on `keys` alone."""
    return np.argsort(hash64(*keys, np.arange(num_items)), kind="stable")


def uniform(*keys: int | np.ndarray) -> Any:
    """A number in [0, 1) that depends on `keys` alone; arrays as in `hash64`."""
    return (hash64(*keys) >> np.uint64(11)) * 2.0**-53


def torch_seed(*keys: int) -> int:
    """A seed for `torch.manual_seed` in [0, 2**63)."""
    return int(hash64(*keys) >> np.uint64(1))
