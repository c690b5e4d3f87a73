"""A million samples: the start takes no longer, and memory does not grow with the set or with the hours."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from parquet_fixtures import write_source
from training import read_metrics, settings

from streamgan.data import build_loader
from streamgan.data.format import Manifest, ShardEntry, SplitEntry, read_manifest, write_index, write_manifest
from streamgan.sharding.run import ShardOptions, shard

pytestmark = pytest.mark.slow
SHARDS, PER_SHARD = 1000, 1000


@pytest.fixture(scope="module")
def million(tmp_path_factory) -> Path:
    """A set of 1,000 shards of 1,000 samples: every shard is another name of one real tar."""
    folder = tmp_path_factory.mktemp("million")
    source = write_source(folder / "in", files=4, rows=250)
    options = ShardOptions(samples_per_shard=PER_SHARD, splits="train=1")
    shard([str(source)], folder / "one", options=options, num_workers=0)
    one = read_manifest(folder / "one")
    (entry,) = one.splits["train"].shards
    assert entry.samples == PER_SHARD
    root = folder / "set"
    root.mkdir()
    names = [f"train-{number:06d}" for number in range(SHARDS)]
    for name in names:
        for suffix in (".tar", ".idx"):
            os.link(folder / "one" / (entry.name.removesuffix(".tar") + suffix), root / (name + suffix))
    rows = np.load(folder / "one" / "train.index")
    write_index(root / "train.index", np.tile(rows, SHARDS))
    entries = tuple(
        ShardEntry(f"{name}.tar", PER_SHARD, entry.bytes, entry.sha256, entry.idx_sha256) for name in names
    )
    split = SplitEntry(SHARDS * PER_SHARD, SHARDS * entry.bytes, one.splits["train"].index_sha256, entries)
    write_manifest(root, Manifest(one.source, one.options, {"train": split}, one.quarantine))
    return root


def unique_bytes() -> int:
    """Memory of this process and its children that no other process shares.

    Of libraries only what was written to: whether another program has loaded them too changes at any time.
    """
    gc.collect()
    me = psutil.Process()
    areas = [area for process in [me, *me.children(recursive=True)] for area in process.memory_maps()]
    return sum(area.private_dirty + area.private_clean * (".so" not in area.path) for area in areas)


def test_an_index_costs_at_most_60_bytes_a_sample(million):
    next(iter(build_loader(million, batch=48, size=16, workers=0, max_samples=1000)))  # imports, first use
    before = unique_bytes()
    loader = build_loader(million, batch=48, size=16, workers=0)
    batches = iter(loader)
    next(batches)
    assert loader._samples.reader.index["color_size"].sum() > 0  # has every page of the index in memory
    grown = unique_bytes() - before
    batches.close()
    assert loader.num_samples == SHARDS * PER_SHARD
    assert 32 < grown / loader.num_samples < 60, grown


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat_over_epochs(million, workers):
    """At most 1 MB for 10,000 samples, over five passes of 20,000 samples."""
    loader = build_loader(million, batch=80, size=16, workers=workers, max_samples=20_000, epochs=5)
    seen, levels = 0, []
    for number, batch in enumerate(loader):
        seen += len(batch.ids_B)
        if number % 250 == 249:
            levels.append(unique_bytes())
    assert seen == 100_000
    assert (levels[-1] - levels[0]) / (seen - 20_000) * 10_000 < 1e6, levels


def test_a_run_on_a_million_samples_starts_in_seconds_and_stays_flat(million, tmp_path):
    """Its memory, as the kernel has seen it at most, and its CPU time are those of a run on one shard."""
    peaks, costs = [], []
    for number, more in enumerate((["data.max_samples=1000"], [], ["run.steps=120"])):
        tiny = ["data.size=16", "data.batch=48", "model.depth=2", "loss.gan_weight=0", "run.log_every=20"]
        words = settings(million, tmp_path / str(number), "run.steps=20", *tiny, *more)
        script = [sys.executable, "launch/train.py", *words]
        program = (
            "import json, resource, subprocess, sys, time\n"
            "began = time.monotonic()\n"
            "done = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)\n"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "cpu = used.ru_utime + used.ru_stime\n"
            "print(json.dumps([done.returncode, used.ru_maxrss * 1024, time.monotonic() - began, cpu]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *script], capture_output=True, text=True, check=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        code, peak, seconds, cpu = json.loads(done.stdout)
        assert code == 0
        assert seconds < 60
        peaks.append(peak)
        costs.append(cpu)
    assert read_metrics(tmp_path / "2")[-1]["step"] == 120
    small, large, longer = peaks
    assert large - small < 120e6, peaks
    assert costs[1] - costs[0] < 3, costs  # with validation and baselines
    assert longer - large < 30e6, peaks
