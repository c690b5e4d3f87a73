"""The loader: the same global batches whoever reads them, exact continuation, and no silent loss or hang."""

import os
import re
import shutil
import signal
import time
from itertools import islice

import numpy as np
import psutil
import pytest
import torch
from parquet_fixtures import encode, hub, picture, write_rows
from PIL import Image
from test_decode import sampled_crop
from worker_fixtures import (
    BlockAfter,
    die_slowly,
    fail,
    let_workers_decode,
    loader_workers,
    take_long,
    wait_for_ever,
)

from streamgan.core.errors import ConfigError, DataError
from streamgan.data.format import idx_name, read_idx, read_manifest
from streamgan.data.loader import build_eval_loader, build_loader
from streamgan.data.order.canonical import Order
from streamgan.data.shards.reader import ShardReader
from streamgan.data.workers import watchdog as workers_module
from streamgan.data.workers.batch import Batch
from streamgan.data.workers.decode import CENTER, decode
from streamgan.sharding.run import ShardOptions, shard

BATCH, SIZE, STEPS = 12, 32, 7  # 64 samples: 5 steps per epoch, so that 7 reach into the second


def build(root, **options):
    return build_loader(root, **{"batch": BATCH, "size": SIZE, "workers": 0, "stop_step": STEPS, **options})


def global_batches(root, world: int, **options) -> list[Batch]:
    """Batches of all ranks joined, the ranks one after the other in this process."""
    ranks = [list(build(root, rank=rank, world=world, **options)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    return [
        Batch(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*step, strict=True)))
        for step in zip(*ranks, strict=True)
    ]


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.ids_B.tolist() == b.ids_B.tolist()
        assert torch.equal(a.color_B3HW, b.color_B3HW)
        assert (a.gray_B1HW is None) == (b.gray_B1HW is None)
        assert a.gray_B1HW is None or torch.equal(a.gray_B1HW, b.gray_B1HW)


@pytest.fixture(scope="module")
def expected(shard_set) -> list[Batch]:
    """What one rank without workers reads."""
    return list(build(shard_set))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_global_batches_depend_on_neither_ranks_nor_workers(shard_set, expected, world, workers):
    assert_equal(global_batches(shard_set, world, workers=workers), expected)


def test_batches_are_in_canonical_order_with_the_pixels_of_their_samples(shard_set, expected):
    reader = ShardReader(shard_set, "train")
    order = Order(reader.shard_sizes, seed=0, batch=BATCH, lanes=12, window=4)
    for step, batch in enumerate(expected):
        epoch, ids = order.batch_ids(step)
        assert batch.ids_B.tolist() == ids.tolist()
        for row, sample_id in enumerate(ids.tolist()):
            crop = sampled_crop(0, epoch, sample_id)
            pixels = decode(reader.read(sample_id).color, "RGB", size=SIZE, crop=crop)
            assert np.array_equal(batch.color_B3HW[row].permute(1, 2, 0).numpy(), pixels)
    reader.close()


def test_seed_lanes_and_window_reach_the_order(shard_set):
    sizes = [entry.samples for entry in read_manifest(shard_set).splits["train"].shards]
    loader = build(shard_set, seed=9, lanes=3, window=1)
    order = Order(sizes, seed=9, batch=BATCH, lanes=3, window=1)
    for step, batch in enumerate(loader):
        assert batch.ids_B.tolist() == order.batch_ids(step)[1].tolist()


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("start", [1, 4, 5, 6])
def test_a_run_continues_exactly_where_it_was(shard_set, expected, start, world):
    assert_equal(global_batches(shard_set, world, start_step=start), expected[start:])


def test_nothing_is_left_to_read_at_the_end(shard_set):
    for start in (STEPS, STEPS + 1):
        loader = build(shard_set, start_step=start)
        assert len(loader) == 0
        assert list(loader) == []


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"epochs": 2, "stop_step": None}, 10),
        ({"epochs": 1, "stop_step": 8}, 5),
        ({"epochs": 2, "stop_step": 8}, 8),
        ({"epochs": 2, "stop_step": None, "start_step": 7}, 3),
        ({"epochs": 0, "stop_step": None}, 0),
    ],
)
def test_a_loader_ends_after_its_epochs_or_before_its_last_step(shard_set, options, length):
    loader = build(shard_set, **options)
    assert loader.steps_per_epoch == 5
    assert len(loader) == length
    assert sum(1 for _ in loader) == length


def test_a_loader_without_an_end_has_no_length_and_goes_on(shard_set):
    loader = build(shard_set, stop_step=None)
    with pytest.raises(TypeError, match="endless"):
        len(loader)
    assert sum(1 for _ in islice(loader, 12)) == 12


def test_iterating_again_starts_again_at_the_same_place(shard_set, expected):
    loader = build(shard_set, start_step=2)
    assert_equal(list(loader), expected[2:])
    assert_equal(list(loader), expected[2:])


def test_images_are_bytes_in_channels_last_order(expected):
    batch = expected[0]
    for image, channels in [(batch.color_B3HW, 3), (batch.gray_B1HW, 1)]:
        assert image.shape == (BATCH, channels, SIZE, SIZE)
        assert image.dtype == torch.uint8
        assert image.is_contiguous(memory_format=torch.channels_last)
    assert batch.ids_B.dtype == torch.int64
    assert batch.color_B3HW.float().std() > 20


def test_derived_gray_is_what_pillow_makes_of_the_crop(expected):
    for image_3HW, gray_1HW in zip(expected[0].color_B3HW, expected[0].gray_B1HW, strict=True):
        with_pillow = Image.fromarray(image_3HW.permute(1, 2, 0).numpy()).convert("L")
        assert np.array_equal(gray_1HW[0].numpy(), np.asarray(with_pillow))


def test_a_twin_is_the_sets_own_gray_image_cropped_alike(shard_set, expected):
    reader = ShardReader(shard_set, "train")
    batch = next(iter(build(shard_set, gray="twin")))
    assert torch.equal(batch.color_B3HW, expected[0].color_B3HW)
    for row, sample_id in enumerate(batch.ids_B.tolist()):
        crop = sampled_crop(0, 0, sample_id)
        pixels = decode(reader.read(sample_id, gray=True).gray, "L", size=SIZE, crop=crop)
        assert np.array_equal(batch.gray_B1HW[row].permute(1, 2, 0).numpy(), pixels)
    off = (batch.gray_B1HW.int() - expected[0].gray_B1HW.int()).abs().float().mean()
    assert 0 < off < 3  # another JPEG, but the same crop
    reader.close()


def test_gray_is_left_out_where_nobody_wants_it(shard_set, expected):
    batch = next(iter(build(shard_set, gray=None)))
    assert batch.gray_B1HW is None
    assert torch.equal(batch.color_B3HW, expected[0].color_B3HW)


def test_twins_of_a_set_without_them_are_refused_at_once(source_folder, tmp_path):
    options = ShardOptions(gray="derive", splits="train=1", max_samples=24)
    shard([str(source_folder)], tmp_path / "set", options=options, num_workers=0)
    with pytest.raises(DataError, match=r"no gray twins; derive the gray: data\.gray=derive, --gray derive"):
        build(tmp_path / "set", gray="twin")
    with pytest.raises(DataError, match="no gray twins"):
        build_eval_loader(tmp_path / "set", "train", batch=4, size=SIZE, gray="twin")
    assert next(iter(build(tmp_path / "set"))).gray_B1HW is not None


def test_a_limit_takes_the_first_samples_of_the_split(shard_set):
    loader = build(shard_set, max_samples=25, epochs=6, stop_step=None)
    assert (loader.num_samples, loader.steps_per_epoch) == (25, 2)
    seen = {sample for batch in loader for sample in batch.ids_B.tolist()}
    assert seen == set(range(25))
    assert build(shard_set, max_samples=1000).num_samples == 64


def test_a_batch_that_ranks_or_samples_cannot_fill_is_refused_at_once(shard_set):
    with pytest.raises(ConfigError, match="use 1, 2, 3, 4, 6, 12 ranks"):
        build(shard_set, world=5)
    with pytest.raises(ConfigError, match="96 is more than the 64 samples"):
        build(shard_set, batch=96)


def test_a_loader_says_what_it_reads(shard_set):
    loader = build(shard_set)
    assert loader.num_samples == 64
    assert loader.digest == read_manifest(shard_set).digest


@pytest.mark.parametrize(("world", "batch"), [(1, 5), (2, 4), (3, 2), (4, 8)])
@pytest.mark.parametrize("num_images", [None, 1, 9, 16, 100])
def test_evaluation_reads_every_sample_once_over_all_ranks(shard_set, world, batch, num_images):
    options = {"batch": batch, "size": SIZE, "world": world, "num_images": num_images}
    ranks = [build_eval_loader(shard_set, "val", rank=rank, **options) for rank in range(world)]
    count = min(num_images or 16, 16)
    assert {len(loader) for loader in ranks} == {-(-count // (batch * world))}
    assert {loader.num_samples for loader in ranks} == {count}
    batches = [list(loader) for loader in ranks]
    assert {len(one.ids_B) for rank in batches for one in rank} == {min(batch, -(-count // world))}
    ids = [sample for step in zip(*batches, strict=True) for one in step for sample in one.ids_B.tolist()]
    assert ids == [*range(count), *[-1] * (len(ids) - count)]


def test_evaluation_takes_the_middle_of_each_photo(shard_set):
    reader = ShardReader(shard_set, "val")
    for batch in build_eval_loader(shard_set, "val", batch=4, size=SIZE, gray="twin", workers=1):
        for row, sample_id in enumerate(batch.ids_B.tolist()):
            encoded = reader.read(sample_id, gray=True)
            color = decode(encoded.color, "RGB", size=SIZE, crop=CENTER)
            gray = decode(encoded.gray, "L", size=SIZE, crop=CENTER)
            assert np.array_equal(batch.color_B3HW[row].permute(1, 2, 0).numpy(), color)
            assert np.array_equal(batch.gray_B1HW[row].permute(1, 2, 0).numpy(), gray)
    reader.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_shard_ends_the_run_naming_shard_and_key(shard_set, tmp_path, how, workers):
    root = shutil.copytree(shard_set, tmp_path / "copy")
    name = read_manifest(root).splits["train"].shards[2].name
    sample = read_idx(root / idx_name(name))[-1]
    member = sample.members[0]
    if how == "flipped":
        data = bytearray((root / name).read_bytes())
        data[member.offset + member.size // 2] ^= 1
        (root / name).write_bytes(data)
    elif how == "cut":
        os.truncate(root / name, member.offset + 5)
    else:
        (root / name).unlink()
    seen = []
    with pytest.raises(DataError) as caught:
        seen.extend(build(root, workers=workers, epochs=3, stop_step=None))
    key = "" if how == "gone" else f", key {sample.key}"
    assert caught.value.where == f"{root / name}{key}"
    assert how == "gone" or caught.value.todo.startswith(f"run `streamgan verify {root}`, then restore")
    assert len(seen) < 15


def test_an_image_that_does_not_decode_is_named_too(tmp_path):
    rows = [{"image": hub(encode(picture(seed)))} for seed in range(12)]
    rows[5]["image"]["bytes"] = rows[5]["image"]["bytes"][:200]
    write_rows(tmp_path / "a.parquet", rows)
    options = ShardOptions(check="none", splits="train=1")
    shard([str(tmp_path / "a.parquet")], tmp_path / "set", options=options, num_workers=0)
    with pytest.raises(DataError, match=r"train-000000.tar, key .*; run `streamgan verify --full`"):
        list(build(tmp_path / "set", batch=4, epochs=1))


@pytest.fixture
def blocked_worker(shard_set, monkeypatch):
    """(batches after the first, the only worker), which never finishes the second batch."""
    let_workers_decode(monkeypatch, BlockAfter(BATCH))
    loader = build(shard_set, workers=1, stop_step=None, stall_s=60)
    batches = iter(loader)
    next(batches)
    (worker,) = loader_workers()
    while loader._samples.board.sample(0) is None:  # until it is at the second
        time.sleep(0.01)
    return batches, worker


def test_a_killed_worker_is_a_data_error_and_never_a_hang(blocked_worker):
    batches, worker = blocked_worker
    worker.kill()
    message = rf"DataLoader worker 0 \(pid {worker.pid}\) is gone \(exit code -9\), at work on .*, key "
    with pytest.raises(DataError, match=message):
        next(batches)


def test_a_worker_killed_during_a_step_lets_the_step_end_and_is_told_then(blocked_worker):
    batches, worker = blocked_worker
    worker.kill()
    assert psutil.wait_procs([worker], timeout=10)[1] == []  # stands for a step
    with pytest.raises(DataError, match=rf"DataLoader worker 0 \(pid {worker.pid}\) is gone"):
        next(batches)


def test_a_killed_worker_interrupts_the_wait_for_a_batch(shard_set, monkeypatch):
    let_workers_decode(monkeypatch, die_slowly)
    batches = iter(build(shard_set, workers=1, stall_s=60))
    message = r"loader: DataLoader worker 0 \(pid \d+\) is gone \(exit code -9\), at work on .*, key "
    with pytest.raises(DataError, match=message):
        next(batches)


def test_a_stuck_worker_ends_the_run_naming_what_it_is_at(shard_set, monkeypatch):
    first = build(shard_set)._plan.order.batch_ids(0)[1][0]
    let_workers_decode(monkeypatch, wait_for_ever)
    monkeypatch.setattr(workers_module, "TICK_S", 0.02)
    named = re.escape(ShardReader(shard_set, "train").where(int(first)))
    message = rf"loader: DataLoader worker 0 \(pid \d+\) has not moved for 2 s, at work on {named}; check"
    with pytest.raises(DataError, match=message):
        next(iter(build(shard_set, workers=1, stall_s=2)))


def test_a_stopped_worker_is_not_waited_for(shard_set, monkeypatch):
    """In whatever it is stopped: with nothing in hand, too, or while the training process reads from it."""
    monkeypatch.setattr(workers_module, "TICK_S", 0.02)
    batches = iter(build(shard_set, workers=1, stop_step=None, stall_s=0.5))
    next(batches)
    (worker,) = loader_workers()
    worker.suspend()
    with pytest.raises(DataError, match=r"loader: DataLoader worker .*has not moved for 0\.5 s"):
        for _ in batches:
            pass
    assert not worker.is_running()


def test_a_slow_worker_that_gets_on_is_waited_for(shard_set, monkeypatch):
    let_workers_decode(monkeypatch, take_long)
    monkeypatch.setattr(workers_module, "TICK_S", 0.02)
    batches = list(build(shard_set, workers=1, stop_step=1, stall_s=0.4))
    assert len(batches) == 1  # 1.2 s


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_handing_over_a_batch_is_a_data_error(shard_set, monkeypatch, error):
    def broken(*arguments):
        raise error

    batches = iter(build(shard_set, workers=1))
    next(batches)
    monkeypatch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "_next_data", broken)
    with pytest.raises(DataError, match=r"loader: DataLoader worker is gone \(.+\); check memory and disk"):
        next(batches)


def test_a_defect_inside_a_worker_keeps_its_traceback(shard_set, monkeypatch):
    let_workers_decode(monkeypatch, fail)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*a defect of ours"):
        list(build(shard_set, workers=1))


def test_a_loader_that_is_left_early_ends_its_workers(shard_set):
    batches = iter(build(shard_set, workers=2, stop_step=None))
    next(batches)
    workers = loader_workers()
    assert len(workers) == 2
    del batches
    assert psutil.wait_procs(workers, timeout=10)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_worker_leaves_signals_to_the_training_process(shard_set, number):
    batches = iter(build(shard_set, workers=1, stop_step=7))
    first = next(batches)
    (worker,) = loader_workers()
    worker.send_signal(number)
    assert len([first, *batches]) == 7


@pytest.fixture
def damaged(shard_set, tmp_path):
    """(a copy of the set with three damaged samples, their ids)."""
    root = shutil.copytree(shard_set, tmp_path / "copy")
    reader = ShardReader(root, "train")
    for sample_id in (5, 40, 63):
        shard_number = reader._shard(sample_id)
        path = root / reader.entry.shards[shard_number].name
        data = bytearray(path.read_bytes())
        data[int(reader.index[sample_id]["color_offset"]) + 20] ^= 1
        path.write_bytes(data)
    return root, {5, 40, 63}


def test_substitutes_stand_in_for_damaged_samples_the_same_on_any_ranks(shard_set, damaged, expected, capsys):
    root, bad = damaged
    options = {"on_bad": "substitute"}
    alone = global_batches(root, 1, **options)
    said = capsys.readouterr().err.splitlines()
    for world, workers in ((2, 0), (3, 2), (4, 0)):
        assert_equal(global_batches(root, world, workers=workers, **options), alone)
    replaced = 0
    for ours, whole in zip(alone, expected, strict=True):
        for row, (given, planned) in enumerate(zip(ours.ids_B.tolist(), whole.ids_B.tolist(), strict=True)):
            assert (given != planned) == (planned in bad)
            replaced += planned in bad
            assert given not in bad
            if planned not in bad:
                assert torch.equal(ours.color_B3HW[row], whole.color_B3HW[row])
    assert len(said) == replaced >= 3
    assert re.fullmatch(
        r"bad sample 1 of at most 100: .*train-\d+\.tar, key \S+: the color image is damaged \(CRC\); "
        r"sample \d+ stands in for (5|40|63)",
        said[0],
    )


WRONG = {
    "batch": (0, -4, 2.5, True, "16", 10**400),
    "size": (0, -1, 10**9, None),
    "workers": (-1, 10**6, 1.5, None),
    "rank": (-1, 1, 7),
    "world": (0, -2),
    "gray": ("grey", "", False),
    "on_bad": ("skip", None),
    "max_bad": (-1, None),
    "stall_s": (0, -1.0, float("nan"), float("inf"), None),
    "cache_gb": (0, -3, float("nan"), "5"),
}
WRONG_IN_TRAINING = {
    "seed": (-1, 2**63, 1.5, None, 10**400),
    "start_step": (-1, 2.0, 10**400),
    "stop_step": (-1, 10**400),
    "epochs": (-1, 0.5, 10**400),
    "lanes": (0, -1),
    "window": (0, -1),
    "max_samples": (0, -5),
    "node_ranks": (0, -1),
    "reshuffle": ("globally", None),
}


def cases(table: dict[str, tuple]) -> list:
    return [pytest.param(name, one, id=f"{name}-{one!r:.10}") for name, all_ in table.items() for one in all_]


@pytest.mark.parametrize(("name", "value"), cases(WRONG | WRONG_IN_TRAINING))
def test_an_option_that_makes_no_sense_is_refused(shard_set, name, value):
    with pytest.raises(ConfigError, match=rf"^{name}: [^\n]{{1,150}}$"):
        build(shard_set, **{name: value})


@pytest.mark.parametrize(("name", "value"), cases(WRONG | {"num_images": (0, -1, 1.5)}))
def test_an_evaluation_with_an_option_that_makes_no_sense_is_refused(shard_set, name, value):
    with pytest.raises(ConfigError, match=rf"^{name}: [^\n]{{1,150}}$"):
        build_eval_loader(shard_set, "train", **{"batch": 8, "size": SIZE, name: value})


def test_more_damage_than_allowed_ends_the_run(damaged):
    with pytest.raises(DataError, match=r"2 samples are damaged, more than data\.max_bad=1 allows"):
        list(build(damaged[0], on_bad="substitute", max_bad=1, workers=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_counts_what_its_processes_do(shard_set, workers):
    loader = build(shard_set, workers=workers)
    list(loader)
    stats = loader.stats
    reader = ShardReader(shard_set, "train")
    ids = np.concatenate([loader._plan.order.batch_ids(step)[1] for step in range(STEPS)])
    assert stats.samples == STEPS * BATCH
    assert stats.bytes == reader.index["color_size"][ids].sum()
    assert min(stats.decode_s, stats.read_s) > 0
    assert (stats - stats).samples == 0
