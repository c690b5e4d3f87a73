"""The measurement of reading over the network: its counting proxy, its table, its arms."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from remote_fixtures import website

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import remote_server
from remote_arms import CACHED, RANGES, STARTED
from remote_report import tables, targets

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_proxy_counts_requests_and_the_bytes_that_were_sent_before(tmp_path):
    data = bytes(range(256)) * 4096
    (tmp_path / "photos.tar").write_bytes(data)
    with website(tmp_path) as site, remote_server.proxy(site.server.server_port, 1) as (port, passed):
        for ranged, expected in (
            ("bytes=0-99", 100),
            ("bytes=50-149", 100),
            ("bytes=400000-999999", 600_000),
        ):
            ask = urllib.request.Request(f"http://127.0.0.1:{port}/photos.tar", headers={"Range": ranged})
            with urllib.request.urlopen(ask) as answer:
                assert len(answer.read()) == expected
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/other.tar").close()
        head = urllib.request.Request(f"http://127.0.0.1:{port}/photos.tar", method="HEAD")
        urllib.request.urlopen(head).close()
    assert passed == {"requests": 5, "connections": 5, "bytes": 600_200, "twice": 50}


def run(arm: str, number: int, **cost: object) -> dict:
    usual = {"wall_s": 10.0, "cpu_s": 5.0, "images": 1000, "first_s": 1.0, "first_cpu_s": 0.5}
    found = {**usual, "bytes": 5e6, "requests": 7, "twice": 0, **cost}
    return {"server": "s3", "latency_ms": 20, "arm": arm, "round": number, **found}


def test_the_report_pairs_arms_by_round_and_says_what_is_missing_and_what_was_missed():
    runs = []
    for number in range(3):
        runs += [
            run(CACHED, number),
            run(STARTED, number, first_s=0.4),
            run(RANGES, number, cpu_s=2.0, first_cpu_s=0.2, wall_s=5.0, twice=3 * number),
            run("webdataset, curl", number, wall_s=20.0),
            run("old, data.cache=none", number, cpu_s=8.0),
            {
                "server": "s3",
                "latency_ms": 20,
                "arm": "litdata",
                "round": number,
                "missing": "no module 'litdata'",
            },
        ]
    failed = {"server": "s3", "latency_ms": 20, "arm": "mosaicml-streaming", "missing": "failed, OSError"}
    runs += [{**failed, "round": 0}, run("mosaicml-streaming", 2, wall_s=15.0)]
    page = tables(runs)
    assert "## S3, 20 ms" in page
    assert f"| {RANGES} | 200 (200-200) | 2.00 (2.00-2.00) | 2.00 (2.00-2.00) | 0.40 (0.40-0.40) |" in page
    assert re.search(r"litdata \(3 of 3 runs missing: no module 'litdata'\) \| - \| - \|", page)
    assert "mosaicml-streaming (1 of 2 runs missing: failed, OSError) | 67 (67-67) | 0.67 (0.67-0.67)" in page
    aims = targets(runs, "old, data.cache=none")
    assert re.search(
        r"images/s of the fastest peer \(mosaicml-streaming\) \| 1.50 \(1.50-1.50\) \| met", aims
    )
    assert re.search(
        r"time of the earliest peer \(mosaicml-streaming\) \| 1.00 \(1.00-1.00\) \| MISSED", aims
    )
    assert re.search(
        r"data.cache=none: at most 0.5 x the CPU of old, data.cache=none \| 0.25 \(0.25-0.25\) \| met", aims
    )
    assert re.search(r"at least its images/s \| 2.00 \(2.00-2.00\) \| met", aims)
    assert re.search(r"fetched twice, most of a run: 0 \| 6 \| MISSED", aims)


def test_an_arm_whose_package_is_missing_says_so(tmp_path):
    words = ["litdata", "s3", "1", str(tmp_path / "cache"), "1", "32", ""]
    (tmp_path / "litdata.py").write_text("raise ModuleNotFoundError(name='litdata')")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "remote_arms.py"), *words],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == {"missing": "no module 'litdata'"}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_all_of_it_reads_every_photo_and_reports(source_folder, tmp_path):
    out = tmp_path / "remote.md"
    words = [
        str(source_folder),
        "--quick",
        "--servers",
        "s3",
        "http",
        "moto",
        "--baseline",
        str(BENCHMARKS.parent),
    ]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "remote.py"), *words, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(out.with_suffix(".json").read_text())["runs"]
    ours = [run for run in runs if "data.cache" in run["arm"]]
    assert len(ours) == 3 * 5
    assert all(run["images"] == 512 and not run["twice"] and run["bytes"] for run in ours)
    assert "| target | measured |" in out.read_text()
