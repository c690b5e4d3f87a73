"""What a run on many machines would need: as a real loader does it, from the order alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fault_fixtures import impatient
from parquet_fixtures import write_small_shards
from remote_fixtures import website

from streamgan.cli.bench import bench
from streamgan.core.errors import ConfigError
from streamgan.data.forecast import IDX_BYTES, advice, forecast
from streamgan.data.format import read_manifest
from streamgan.data.loader import build_loader
from streamgan.data.plan import Shuffle
from streamgan.data.prefetch.demand import OrderNeeds
from streamgan.data.shards import index_parts

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SIZES = np.full(400, 1000)
BYTES = np.full(400, 60_000_000)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """24 train shards of four samples."""
    return write_small_shards(tmp_path_factory.mktemp("forecast"), samples=96)


def of(root, shuffle: Shuffle, *, cache_bytes: float, **more):
    entry = read_manifest(root).splits["train"]
    sizes, num_bytes = zip(*((one.samples, one.bytes) for one in entry.shards), strict=True)
    return forecast(sizes, num_bytes, shuffle, cache_bytes=cache_bytes, **{"ranks": 1, "machines": 1, **more})


@pytest.mark.parametrize(
    ("rank", "reshuffle", "share"),
    [
        (0, "global", 2.0),
        (0, "global", 0.4),
        (0, "lane", 2.0),
        (0, "lane", 0.6),
        (1, "global", 0.6),
        (1, "lane", 0.4),
    ],
)
def test_a_loader_downloads_what_was_forecast(root, tmp_path, monkeypatch, rank, reshuffle, share):
    """Rank 1 of 2 on another machine, or one machine alone; a cache for all of the set, or for a part."""
    impatient(monkeypatch)
    machines = rank + 1
    shuffle = Shuffle(8, lanes=2, window=1, reshuffle=reshuffle)
    total = read_manifest(root).splits["train"].bytes
    found = of(root, shuffle, cache_bytes=share * total, ranks=machines, machines=machines)
    settings = {"batch": 8, "lanes": 2, "window": 1, "reshuffle": reshuffle, "size": 16, "workers": 0}
    with website(root) as site:
        loader = build_loader(
            site.url, cache=tmp_path, cache_gb=share * total / 1e9, rank=0, world=machines, epochs=3,
            node_ranks=1, **settings,
        )  # fmt: skip
        assert loader._supply.need_bytes - loader._supply.parts[0][0].index_bytes == found.working_set_bytes
        steps, seen = 0, []
        for _ in loader:
            steps += 1
            if steps % found.steps_per_epoch == 0:
                seen.append(_tar_bytes(site.requests))
    assert steps == 3 * found.steps_per_epoch
    if share == 2.0:  # what is fetched ahead for the next epoch comes with this one or the next
        assert seen[-1] == sum(found.epoch_bytes)
    else:
        assert sum(found.epoch_bytes) * 0.9 <= seen[-1] <= sum(found.epoch_bytes) * 1.1
    assert found.epoch_bytes[0] == found.all_bytes


@pytest.mark.parametrize("share", [1, 2])
def test_a_loader_fetches_the_index_that_was_forecast(root, monkeypatch, share):
    impatient(monkeypatch)
    shuffle = Shuffle(8, lanes=2, window=2)
    entry = read_manifest(root).splits["train"]
    whole = of(root, shuffle, cache_bytes=1e9, ranks=share, machines=share)
    assert whole.first_index_bytes == whole.epoch_index_bytes == (root / "train.index").stat().st_size
    monkeypatch.setattr(index_parts, "WHOLE_BYTES", 0)
    found = of(root, shuffle, cache_bytes=1e9, ranks=share, machines=share)
    settings = {"batch": 8, "lanes": 2, "window": 2, "size": 16, "workers": 0, "world": share}
    with website(root) as site:
        batches = iter(build_loader(site.url, cache="none", epochs=1, **settings))

        def index_bytes() -> int:
            asked = {one for one in range(24) if f"/train-{one:06d}.idx " in site.requests}
            return sum(entry.shards[one].samples for one in asked) * IDX_BYTES

        more = (0, entry.shards[0].samples * IDX_BYTES)  # the first shard tells whether the set has twins
        next(batches)
        assert index_bytes() - found.first_index_bytes in more
        list(batches)
        assert index_bytes() - found.epoch_index_bytes in more
    assert 0 < found.first_index_bytes < found.epoch_index_bytes <= 96 * IDX_BYTES


def _tar_bytes(requests: list[str]) -> int:
    ranges = [one.partition("bytes=")[2].split("-") for one in requests if ".tar" in one]
    return sum(int(end) - int(begin) + 1 for begin, end in ranges)


def test_machines_that_share_a_lane_download_the_same_shards():
    shared = forecast(SIZES, BYTES, Shuffle(64, lanes=4), ranks=8, machines=8, cache_bytes=50e9)
    alone = forecast(SIZES, BYTES, Shuffle(64, lanes=8), ranks=8, machines=8, cache_bytes=50e9)
    assert (shared.copies, alone.copies) == (2, 1)
    assert shared.all_bytes > 1.8 * alone.all_bytes
    (line,) = [one for one in advice(shared, batch=64, machines=8, cache_bytes=50e9) if "lanes" in one]
    assert line == "2 machines download each shard; with data.lanes=8 one does, for a different order"
    assert not any("lanes" in one for one in advice(alone, batch=64, machines=8, cache_bytes=50e9))


def test_what_a_cache_is_worth_depends_on_its_size_and_on_the_deal():
    def later(reshuffle, cache_bytes) -> float:
        shuffle = Shuffle(64, lanes=8, reshuffle=reshuffle)
        found = forecast(SIZES, BYTES, shuffle, ranks=8, machines=8, cache_bytes=cache_bytes)
        return found.epoch_bytes[-1] / found.all_bytes

    assert later("lane", 4e9) == 0
    assert 0.5 < later("lane", 2e9) < 1
    assert later("global", 4e9) > 0.7  # most of what an epoch brings is of other machines' lanes in the next
    assert later("global", 25e9) == pytest.approx(7 / 8 * (1 - 2 / 8), abs=0.2)


def test_a_cache_below_the_working_set_and_uneven_machines_are_said():
    found = forecast(SIZES, BYTES, Shuffle(64), ranks=1, machines=1, cache_bytes=1e9)
    assert next(advice(found, batch=64, machines=1, cache_bytes=1e9)).startswith("the cache is too small")

    def with_window(window: int | None, cache_bytes: float):
        return forecast(
            SIZES, BYTES, Shuffle(64, window=window), ranks=1, machines=1, cache_bytes=cache_bytes
        )

    found = with_window(None, 10e9)
    enough, window = advice(found, batch=64, machines=1, cache_bytes=10e9)
    assert enough.startswith("the cache is too small: data.cache_gb=")
    assert f"data.window={found.fitting_window}:" in window
    fits, over = (with_window(found.fitting_window + more, 10e9).working_set_bytes for more in (0, 1))
    assert fits <= 10e9 < over
    with pytest.raises(ConfigError, match="8 ranks are not shared evenly by 3 machines"):
        forecast(SIZES, BYTES, Shuffle(64), ranks=8, machines=3, cache_bytes=1e9)
    with pytest.raises(ConfigError, match="64 cannot be shared by 7 ranks"):
        forecast(SIZES, BYTES, Shuffle(64), ranks=7, machines=7, cache_bytes=1e9)


def test_a_window_of_more_shards_than_there_are_is_forecast_as_one_of_all(monkeypatch):
    asked, working_set = [], OrderNeeds.working_set

    def counted(needs, rows, window=None) -> int:
        asked.append(window)
        assert len(asked) < 10 * len(SIZES)
        return working_set(needs, rows, window)

    monkeypatch.setattr(OrderNeeds, "working_set", counted)
    found = [
        forecast(SIZES, BYTES, Shuffle(8, window=window), ranks=1, machines=1, cache_bytes=20e9)
        for window in (3 * len(SIZES), 2**40)
    ]
    assert found[0] == replace(found[1], window=found[0].window)
    assert found[0].fitting_window > 0


def test_the_command_says_it_in_words_and_as_json(root):
    words = ["plan", str(root), "--ranks", "4", "--machines", "2", "--batch", "8", "--step-ms", "50"]
    text = CliRunner().invoke(bench, words).stdout
    assert "96 samples in 24 shards" in text
    assert "epoch: 12 steps, 0.6 seconds; 0 samples left over" in text
    assert "each rank trains on 40 images/s" in text
    found = json.loads(CliRunner().invoke(bench, [*words, "--json"]).stdout)
    total = read_manifest(root).splits["train"].bytes
    assert found["bytes"] == total
    assert found["needed_gbit"][0] == pytest.approx(found["epoch_bytes"][0] * 8e-9 / 0.6)
    slow = CliRunner().invoke(bench, [*words, "--gbit", "0.0001"]).stdout
    assert "the network is too slow" in slow
    assert "the network is too slow" not in text


def test_the_benchmark_of_scale_measures_a_small_set(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale

    plan = scale.plan_cost(50_000, 100)
    assert plan["uses"] > 500 / 8  # shards of an eighth of the lanes, some in two pieces
    assert plan["first_s"] >= plan["step_s"] > 0
    assert scale.manifest_cost(50_000, 100)["bytes"] > 500 * 200


@pytest.mark.slow
def test_the_benchmark_of_a_large_index_counts_what_is_fetched_of_it(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import large_index

    cold, warm, parts, again, late = (one["sent"] for one in large_index.measure(200))
    assert cold["index"] > 200_000 * 32
    assert "idx" not in cold
    assert "index" not in warm
    assert "index" not in parts | again | late
    assert 150_000 < parts["idx"] < cold["index"]
    assert again.get("idx", 0) < parts["idx"]
    assert late["idx"] > 150_000
