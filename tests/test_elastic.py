"""Elastic and exact: the global batches and their pixels, whoever reads them and wherever they begin."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from marks import slow

from streamgan.core.seeding import hash64
from streamgan.data import Batch, build_loader

BATCH, SIZE, STEPS, EPOCHS = 24, 32, 2, 3  # 64 samples to train on, 2 steps per epoch
RANKS = (1, 2, 3, 4, 6, 8, 12)


def global_batches(root, world: int, **options) -> Iterator[list[Batch]]:
    """The parts of every rank, a step after the other; the ranks take turns in this process."""
    options = {"batch": BATCH, "size": SIZE, "workers": 0, "gray": "twin", "epochs": EPOCHS, **options}
    ranks = [iter(build_loader(root, rank=rank, world=world, **options)) for rank in range(world)]
    try:
        yield from map(list, zip(*ranks, strict=True))
    finally:
        for rank in ranks:
            rank.close()


def digest(parts: list[Batch]) -> str:
    """sha256 over ids and pixels, which crop and mirroring have made, of a global batch."""
    found = hashlib.sha256()
    for tensors in zip(*parts, strict=True):
        found.update(np.ascontiguousarray(torch.cat(tensors).numpy()).tobytes())
    return found.hexdigest()


def digests(root, world: int, **options) -> list[str]:
    return [digest(parts) for parts in global_batches(root, world, **options)]


@pytest.fixture(scope="module")
def expected(shard_set) -> list[str]:
    """Of one rank that reads in its own process; all different, so that equality says something."""
    found = digests(shard_set, 1)
    assert len(set(found)) == STEPS * EPOCHS
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("world", RANKS)
def test_every_number_of_ranks_and_workers_reads_the_same(shard_set, expected, world, workers):
    assert digests(shard_set, world, workers=workers) == expected


@pytest.mark.parametrize("world", RANKS)
def test_every_number_of_ranks_reads_the_same(shard_set, expected, world):
    assert digests(shard_set, world) == expected


@pytest.mark.parametrize("trials", [3, slow(60)])
@pytest.mark.parametrize("reshuffle", ["global", slow("lane")])
def test_a_cut_and_other_ranks_and_workers_lose_and_repeat_nothing(shard_set, reshuffle, trials):
    """A run is cut at some step, an end of an epoch or not, and goes on with other ranks and workers."""
    options = {"reshuffle": reshuffle, "size": 16, "epochs": None}
    length = 40
    whole = digests(shard_set, 1, stop_step=length, **options)
    for number in range(trials):
        start, before, after, before_workers, after_workers = (
            int(hash64(number, draw)) % n for draw, n in enumerate((length - 5, 7, 7, 10, 10))
        )
        cut = start + 1 + number % 3
        found = [
            *digests(
                shard_set,
                RANKS[before],
                start_step=start,
                stop_step=cut,
                workers=before_workers // 9,
                **options,
            ),
            *digests(
                shard_set,
                RANKS[after],
                start_step=cut,
                stop_step=start + 5,
                workers=after_workers // 9,
                **options,
            ),
        ]
        assert found == whole[start : start + 5], (start, cut, before, after)
