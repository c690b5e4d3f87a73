"""Memory of batches: used again when nobody holds it, never before, and nowhere in /dev/shm."""

import gc
import os

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from streamgan.data import build_loader
from streamgan.data.loader import _HELD
from streamgan.data.workers.batch import Parcel
from streamgan.data.workers.batch_memory import Ring

OPTIONS = {"batch": 8, "size": 24}


def address(batch) -> int:
    return batch.color_B3HW.data_ptr()


def test_a_slot_is_free_when_its_last_view_is_gone():
    ring = Ring(2, [(2, 4, 4, 3), (2, 4, 4, 1)])
    assert sorted([ring.take(), ring.take()]) == [0, 1]
    assert ring.take() is None
    color, gray = ring.hand_over(1)
    view = gray[1, 2]
    del color, gray
    assert ring.take() is None
    del view
    assert (ring.take(), ring.take()) == (1, None)


def test_slots_are_apart_and_what_is_written_is_what_is_handed_over():
    ring = Ring(3, [(2, 5, 5, 3), (2, 5, 5, 1)])
    for slot in range(3):
        for number, image in enumerate(ring.images(slot)):
            image.fill(10 * slot + number)
    for slot in range(3):
        color, gray = ring.hand_over(slot)
        assert (color.shape, gray.shape) == ((2, 5, 5, 3), (2, 5, 5, 1))
        assert np.unique(color).tolist() == [10 * slot]
        assert np.unique(gray).tolist() == [10 * slot + 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_lets_go_of_its_batches_gets_the_same_memory_again(shard_set, workers):
    places = {address(batch) for batch in build_loader(shard_set, workers=workers, stop_step=60, **OPTIONS)}
    assert len(places) <= 4 * workers + _HELD


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_as_they_are(shard_set, workers):
    kept = list(build_loader(shard_set, workers=workers, stop_step=40, **OPTIONS))
    again = build_loader(shard_set, workers=workers, stop_step=40, **OPTIONS)
    assert len({address(batch) for batch in kept}) == 40
    for one, other in zip(kept, again, strict=True):  # `again` uses its memory several times meanwhile
        assert one.ids_B.tolist() == other.ids_B.tolist()
        assert torch.equal(one.color_B3HW, other.color_B3HW)
        assert torch.equal(one.gray_B1HW, other.gray_B1HW)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_iterators_of_a_loader_do_not_disturb_each_other(shard_set, workers):
    loader = build_loader(shard_set, workers=workers, stop_step=20, **OPTIONS)
    first, second = iter(loader), iter(loader)
    ahead = [next(first) for _ in range(2)]
    for one in [*ahead, *first]:
        assert torch.equal(one.color_B3HW, next(second).color_B3HW)


def test_a_running_loader_has_nothing_in_shared_memory_that_has_a_name(shard_set):
    batches = iter(build_loader(shard_set, workers=2, **OPTIONS))
    for _ in range(10):
        next(batches)
    with open(f"/proc/{os.getpid()}/maps") as maps:
        assert "/dev/shm/torch_" not in maps.read()
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"torch_{os.getpid()}")]


def test_the_memory_of_a_loader_that_has_ended_is_freed(shard_set):
    batches = iter(build_loader(shard_set, workers=0, stop_step=2, **OPTIONS))
    last = next(batches)
    size = len(last.color_B3HW.untyped_storage())
    del batches

    def mapped() -> int:
        with open(f"/proc/{os.getpid()}/maps") as maps:
            return sum(
                int(line.split()[0].split("-")[0], 16) <= place < int(line.split()[0].split("-")[1], 16)
                for line in maps
            )

    place = address(last)
    gc.collect()
    assert mapped() == 1
    assert size == 8 * 24 * 24 * 3
    del last
    gc.collect()
    assert mapped() == 0


def test_a_batch_that_pytorch_pins_leaves_its_slot(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # needs a GPU
    ring = Ring(1, [(2, 5, 5, 3), (2, 5, 5, 1)])
    slot = ring.take()
    for number, image in enumerate(ring.images(slot)):
        image.fill(number + 1)
    (gray, color, ids), replaced = pin_memory(Parcel((ring.number, slot), np.arange(2), ["a line"]))
    assert ring.take() == slot
    assert (color.unique().item(), gray.unique().item(), ids.tolist(), replaced) == (1, 2, [0, 1], ["a line"])
    assert color.is_contiguous(memory_format=torch.channels_last)
