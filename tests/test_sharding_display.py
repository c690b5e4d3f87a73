"""What a person sees and can do: the line, a worker that does not move, Ctrl-C, a full disk."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from parquet_fixtures import tree, write_rows, write_source
from test_sharding_rows import _bad_rows

from streamgan.core import logs
from streamgan.core.logs import progress
from streamgan.sharding.engine import display, local
from streamgan.sharding.engine.display import Display
from streamgan.sharding.engine.local import Pulse
from streamgan.sharding.folder.publish import Records
from streamgan.sharding.run import ShardOptions, shard

pytest_plugins = ["sharding_fixtures"]
OPTIONS = ShardOptions(samples_per_shard=5)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999 B"),
        (999.6, "1 kB"),
        (999_400, "999 kB"),
        (999_999, "1 MB"),
        (2.5e15, "2.5 PB"),
        (1e18, "1 EB"),
    ],
)
def test_a_size_has_three_digits_and_the_unit_that_they_are_of(count, text):
    assert logs.size_text(count) == text


def command(source, out, *more: str) -> list[str]:
    options = ["--samples-per-shard", "5", *more]
    return [sys.executable, "-m", "streamgan.cli", "shard", str(source), "--out", str(out), *options]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def shown(monkeypatch):
    """(display, clock, sentences) of a run over two files."""
    clock, said = Clock(), []
    monkeypatch.setattr(display, "say", said.append)
    made = Display(Records(), total_rows=100, names=["a.parquet", "b.parquet"], clock=clock)
    with made.bar:
        yield made, clock, said


def test_a_worker_that_stalls_is_named_once_with_its_unit_and_file(shown):
    made, clock, said = shown
    moving, stuck = Pulse(0, 3, 0, 10, 1), Pulse(1, 4, 1, 7, 1)
    made.pulse([moving, stuck])
    for clock.now in (10.0, 29.9):
        moving = Pulse(0, 3, 0, moving.rows + 1, 1)
        made.pulse([moving, stuck])
    assert said == []
    assert "2/2 workers" in made.bar.postfix
    for clock.now in (30.0, 60.0):
        made.pulse([Pulse(0, 3, 0, int(clock.now), 1), stuck])
    assert len(said) == 1
    assert said[0].startswith(
        "worker 1 has not moved for 30 s (unit 4, source file b.parquet, 7 rows done); "
    )
    assert "1/2 workers" in made.bar.postfix


def test_a_worker_that_stalls_again_is_named_again_and_an_idle_one_never(shown):
    made, clock, said = shown
    for clock.now, pulse in (
        (0.0, Pulse(0, None)),
        (100.0, Pulse(0, None)),
        (101.0, Pulse(0, 1)),
        (140.0, Pulse(0, 1)),
        (141.0, Pulse(0, 1, rows=1)),
        (180.0, Pulse(0, 1, rows=1)),
    ):
        made.pulse([pulse])
    assert [re.findall(r"for \d+ s", one)[0] for one in said] == ["for 39 s", "for 39 s"]


def test_rows_under_way_count_and_never_twice(shown):
    made, clock, _ = shown
    clock.now = 2.0
    made.pulse([Pulse(0, 0, rows=10, bytes=6_000_000), Pulse(1, 1, rows=5, bytes=2_000_000)])
    assert made.bar.n == 15
    assert "4 MB/s" in made.bar.postfix
    record = {"unit": 0, "rows": 12, "shards": {}, "rejected": [{"reason": "empty"}]}
    made.done(record["rows"], made._records.add(record))
    made.pulse([Pulse(0, 0, rows=10), Pulse(1, 1, rows=6)])
    assert made.bar.n == 18
    assert "1 bad" in made.bar.postfix


@pytest.mark.slow
def test_workers_say_where_they_are(tmp_path):
    (tmp_path / "workers.lock").touch()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    seen = []

    def watch(pulses):
        seen.append(pulses)
        if Pulse(0, 5, 7, 8, 9) in pulses:  # it reads by now, or is about to
            threading.Thread(target=pipe.write_bytes, args=(b"",)).start()

    how = {"num_workers": 1, "lock": tmp_path / "workers.lock", "watch": watch}
    assert list(local.run_local(_Held(str(pipe)), [local.Unit(5, ())], **how)) == [{"unit": 5}]
    assert seen[-1] == [Pulse(0, None)]


class _Held:
    """A task that reads from a pipe."""

    def __init__(self, pipe: str):
        self.pipe = pipe

    def __call__(self, unit, heartbeat):
        heartbeat(7, 8, 9)
        open(self.pipe, "rb").close()
        return {"unit": unit.number}


def test_without_a_terminal_there_is_a_line_each_interval_also_when_nothing_moves(capsys):
    clock = Clock()
    bar = progress(total=100, unit=" rows", label="shard")
    bar._time, begin = clock, bar.start_t
    with bar:
        for rows, seconds in ((5, 3), (5, 10.5), (0, 15), (0, 21), (0, 30), (0, 32)):
            clock.now = begin + seconds
            bar.update(rows)
        lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 2)[1] for line in lines] == ["10/100"] * 3


def test_bars_within_each_other_are_plain_lines_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(logs, "LINE_INTERVAL_S", 0.0)
    with progress(total=2, unit="photo", label="colorize") as outer:
        with progress(total=9, unit="frame", label="film", leave=False) as inner:
            inner.update(4)
        outer.update()
    assert [line.split(" ")[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["colorize:", "0/2"], ["film:", "0/9"], ["film:", "4/9"], ["colorize:", "1/2"], ["colorize:", "1/2"],
    ]  # fmt: skip


def test_the_line_holds_rate_bytes_time_left_bad_rows_and_workers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logs, "LINE_INTERVAL_S", 0.0)
    monkeypatch.setattr(local, "PULSE_S", 0.0)
    write_source(tmp_path / "good", files=1)
    write_rows(tmp_path / "good" / "bad.parquet", _bad_rows()[4:5])
    shard([str(tmp_path / "good")], tmp_path / "set", options=OPTIONS, num_workers=0, max_bad=1)
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"shard: 21/21 \d\d:\d\d<00:00 +[\d.]+ rows/s, \d+ MB/s, 1 bad, 1/1 workers", line), (
        line
    )


@pytest.fixture
def slow_disk(tmp_path):
    """The environment of a command whose every flush takes 100 ms, in its workers too."""
    folder = tmp_path / "slow_disk"
    folder.mkdir()
    slowly = "import os, time\nflush = os.fsync\nos.fsync = lambda file: (time.sleep(0.1), flush(file))[1]\n"
    (folder / "sitecustomize.py").write_text(slowly)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
    }


@pytest.mark.parametrize(
    ("number", "as_json", "told"),
    [
        (signal.SIGINT, False, "interrupted"),
        (signal.SIGINT, True, "interrupted"),
        (signal.SIGTERM, True, "ended by SIGTERM"),
        (signal.SIGHUP, False, "ended by SIGHUP"),
    ],
)
@pytest.mark.slow
def test_a_signal_stops_the_command_before_its_end_with_its_code(
    source, wanted, tmp_path, slow_disk, number, as_json, told
):
    out = tmp_path / "set"
    more = ["--workers", "2", *(["--json"] if as_json else [])]
    process = subprocess.Popen(
        command(source, out, *more),
        env=slow_disk,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list(out.glob(".work/unit-*.json")):
        time.sleep(0.001)
    os.killpg(process.pid, number)  # as a terminal, a closed one and schedulers do: parent and workers
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    stopped = re.search(r"stopped: (\d+) of 12 units are done; the same command continues", stderr)
    assert stopped
    assert int(stopped[1]) < 12
    assert stderr.splitlines()[-1] == f"error: {told}; the same command continues"
    assert "Traceback" not in stderr
    assert [json.loads(stdout)["exit_code"]] == [128 + number] if as_json else stdout == ""
    assert not list(out.rglob("*.tmp"))
    shard([str(source)], out, options=OPTIONS, num_workers=0)
    assert tree(out) == wanted


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; without the right to mount one the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("NOT TESTED: a full disk; mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.slow
def test_a_disk_that_is_really_full_is_one_clear_error_and_the_run_continues(tmp_path, small_disk, workers):
    source = write_source(tmp_path / "in", files=3)
    options = ShardOptions(samples_per_shard=5)
    shard([str(source)], tmp_path / "wanted", options=options, num_workers=0)
    wanted = tree(tmp_path / "wanted")
    size = sum(map(len, wanted.values()))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((1 << 20) - size // 2))
    out = small_disk / "set"
    failed = subprocess.run(command(source, out, "--workers", workers), capture_output=True, text=True)
    assert failed.returncode == 3, failed.stderr
    [error] = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be written (No space left on device)" in error
    assert "make room on that disk, then run the same command again" in error
    assert "Traceback" not in failed.stderr
    left = tree(out)
    assert any(name.endswith(".tar") for name in left)
    assert all(wanted[name] == data for name, data in left.items() if not name.startswith(".work"))
    assert not [name for name in left if name.endswith(".tmp")]
    ballast.unlink()
    subprocess.run(command(source, out, "--workers", workers), check=True, capture_output=True)
    assert tree(out) == wanted
