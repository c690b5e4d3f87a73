"""Does training wait for its data: what is measured, and what is said of it."""

import json
import re

import pytest
from click.testing import CliRunner

from streamgan.cli.bench import loader as bench_loader
from streamgan.core.errors import ConfigError
from streamgan.data import bottleneck as verdict_module
from streamgan.data.bottleneck import (
    BottleneckAdvice,
    Rate,
    sample_ms,
    workers_estimated,
    workers_for,
    workers_needed,
)
from streamgan.data.workers.counters import LoaderStats

SLOW_DECODE = LoaderStats(samples=1000, bytes=10**8, read_s=0.1, decode_s=4.0)
SLOW_STORAGE = LoaderStats(samples=1000, bytes=10**8, read_s=4.0, decode_s=0.1)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(verdict_module, "usable_cores", lambda: 8)


def one(waited_s: float, stats: LoaderStats, *, workers: int = 1, seconds: float = 30.0) -> str | None:
    judge = BottleneckAdvice(workers=workers, device="GPU")
    return judge.add(seconds=seconds, waited_s=waited_s, images=15_000, stats=stats)


def test_a_loader_that_keeps_up_is_said_once():
    judge = BottleneckAdvice(workers=2, device="GPU")
    said = [judge.add(seconds=10, waited_s=0.1, images=1000, stats=SLOW_DECODE) for _ in range(6)]
    assert [line for line in said if line] == [
        "GPU-bound: the loader keeps up, 1% of the time waits for data "
        "(reading 0.10 + decoding 4.00 ms per sample)"
    ]
    assert said[0] is None  # too early to say


def test_a_run_that_waits_for_decoding_is_told_how_many_workers_it_needs():
    # 15,000 images in 15 s of computing, 4.1 ms each: 4.1 processes
    assert one(15.0, SLOW_DECODE) == (
        "input-bound (decode): 50% of the time waits for data (reading 0.10 + decoding 4.00 ms per sample); "
        "data.workers=5 would keep up (now 1)"
    )


def test_a_run_that_waits_for_the_disk_is_told_so():
    assert one(15.0, SLOW_STORAGE).startswith("input-bound (storage): 50%")


def test_more_workers_than_cores_are_not_promised(monkeypatch):
    monkeypatch.setattr(verdict_module, "usable_cores", lambda: 2)
    assert one(15.0, SLOW_DECODE).endswith("data.workers=5 would keep up, this machine has 2 cores")
    assert one(15.0, SLOW_DECODE, workers=6).endswith(
        "the workers are short of cores: give this rank more, or lower data.size"
    )


def test_a_change_is_said_and_a_share_in_between_is_not():
    judge = BottleneckAdvice(workers=1, device="GPU")
    said = [
        judge.add(seconds=30, waited_s=waited, images=10**4, stats=SLOW_DECODE)
        for waited in (0.1, 2.2, 15, 2.2, 0)
    ]
    assert [line and line[:3] for line in said] == ["GPU", None, "inp", None, "GPU"]


def test_nothing_is_said_of_nothing():
    assert one(0.0, LoaderStats()) is None
    assert one(1.0, SLOW_DECODE, seconds=5) is None


def test_times_are_per_sample_and_workers_follow_from_them():
    assert sample_ms(SLOW_DECODE) == (0.1, 4.0)
    assert workers_needed(SLOW_DECODE, images_per_s=500) == 3
    assert workers_needed(LoaderStats(), images_per_s=500) == 1


def test_the_fewest_workers_that_were_fast_enough_are_chosen():
    rates = [Rate(0, 900, 0, 1), Rate(1, 800, 0, 1), Rate(2, 1500, 0, 1)]
    assert [workers_for(rates, wanted) for wanted in (100, 850, 1000, 2000)] == [0, 0, 2, None]


def test_more_workers_than_were_measured_are_estimated_from_the_best_of_them():
    rates = [Rate(0, 700, 0, 1), Rate(1, 800, 0, 1), Rate(2, 1500, 0, 1)]
    assert [workers_estimated(rates, wanted) for wanted in (100, 800, 801, 4000)] == [1, 1, 2, 5]


def test_bench_loader_measures_this_set(shard_set):
    words = [
        str(shard_set),
        "--size",
        "32",
        "--batch",
        "8",
        "--seconds",
        "0.2",
        "--workers",
        "0,1",
        "--step-ms",
        "1e4",
    ]
    done = CliRunner().invoke(bench_loader, [*words, "--json"])
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert [rate["workers"] for rate in value["rates"]] == [0, 1]
    assert all(rate["images_per_s"] > 0 for rate in value["rates"])
    assert value["ceiling_images_per_s"] > 0
    assert (value["needed_images_per_s"], value["workers"], value["estimated_workers"]) == (0.8, 0, 1)
    text = CliRunner().invoke(bench_loader, words).stdout
    assert re.search(r"a step of 10000 ms takes 1 images/s: 0 workers", text)


def test_bench_loader_wants_numbers_of_workers(shard_set):
    done = CliRunner().invoke(bench_loader, [str(shard_set), "--workers", "1,-2"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == "--workers: not numbers of processes, 0 to 1024 (got 1,-2); write 0,1,2,4"


def test_bench_loader_says_how_many_workers_would_do_where_none_that_was_measured_does(shard_set):
    words = ["--size", "32", "--batch", "8", "--seconds", "0.2", "--workers", "0", "--step-ms", "0.001"]
    text = CliRunner().invoke(bench_loader, [str(shard_set), *words]).stdout
    found = re.search(r"8000000 images/s: more than was measured, about (\d+) workers with a core each", text)
    assert found
    assert int(found[1]) > 100
