"""A run that is stopped anywhere goes on from there to the same bytes; two runs never share a folder."""

import errno
import fcntl
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from marks import slow
from parquet_fixtures import tree, write_source

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage import local as local_files
from streamgan.core.storage.local import LocalPath
from streamgan.sharding.engine import execute, local
from streamgan.sharding.folder import local as folders
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.unit import writer

pytest_plugins = ["sharding_fixtures"]
OPTIONS = ShardOptions(samples_per_shard=5)
SCRIPT = """
import sys
from streamgan.sharding.run import ShardOptions, shard
if __name__ == "__main__":
    options = ShardOptions(samples_per_shard=5)
    shard([sys.argv[1]], sys.argv[2], options=options, num_workers=int(sys.argv[3]))
"""


def _start(source: Path, out: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(source), str(out), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _wait_for(process: subprocess.Popen, path: Path, pattern: str, count: int) -> bool:
    """Until `count` files match, or the process has ended."""
    while process.poll() is None:
        if len(list(path.glob(pattern))) >= count:
            return True
        time.sleep(0.001)
    return False


@pytest.mark.parametrize(
    ("pattern", "count", "workers"),
    [slow(".work/plan.json", 1, 2), ("*.tar*", 1, 1), slow(".work/unit-*", 3, 2), slow("*.index*", 1, 1)],
)
def test_a_killed_run_continues_to_the_same_bytes(source, wanted, tmp_path, pattern, count, workers):
    process = _start(source, tmp_path / "set", workers)
    _wait_for(process, tmp_path / "set", pattern, count)
    time.sleep(random.uniform(0, 0.01))
    process.kill()
    process.communicate()
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert tree(tmp_path / "set") == wanted
    assert not (tmp_path / "set" / ".work").exists()


class _Crash(BaseException):
    """Not an error that anything handles."""


@pytest.mark.parametrize("after", [False, True])
def test_every_rename_is_a_place_to_stop(tmp_path, monkeypatch, after):
    """The run ends before or after each rename in turn, and leaves the temporary file as a kill would."""
    source = write_source(tmp_path / "in", files=1, rows=10)
    shard([str(source)], tmp_path / "wanted", options=OPTIONS, num_workers=0)
    wanted = tree(tmp_path / "wanted")
    replace, unlink, renames, cut, lock = os.replace, Path.unlink, 0, 0, threading.Lock()

    def replace_or_crash(old, new):
        nonlocal renames
        with lock:  # small files are renamed by several threads
            renames += 1
            number = renames
        if number < cut or (number == cut and after):
            replace(old, new)
        if number == cut:
            raise _Crash

    def unlink_before_the_cut(path, **options):
        if renames < cut:
            unlink(path, **options)

    crashed = True
    while crashed:
        out, renames, cut = tmp_path / f"set{cut}", 0, cut + 1
        with monkeypatch.context() as patch:
            patch.setattr(local_files.os, "replace", replace_or_crash)
            patch.setattr(Path, "unlink", unlink_before_the_cut)
            try:
                shard([str(source)], out, options=OPTIONS, num_workers=0)
                crashed = False
            except _Crash:
                assert (out / "manifest.json").exists() <= after
        shard([str(source)], out, options=OPTIONS, num_workers=0)
        assert tree(out) == wanted, f"stopped at rename {cut}"
    assert cut > 10


def _do_one_unit(source, out, monkeypatch):
    make_unit = execute.make_unit

    def one(job, unit, heartbeat):
        make_unit(job, unit, heartbeat)
        raise _Crash

    with monkeypatch.context() as patch:
        patch.setattr(execute, "make_unit", one)
        try:
            shard([str(source)], out, options=OPTIONS, num_workers=0)
        except _Crash:
            return


def test_a_run_killed_after_publishing_is_tidied_up(source, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(folders.LocalFolder, "remove_work", lambda self: (_ for _ in ()).throw(_Crash()))
    with pytest.raises(_Crash):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    monkeypatch.undo()
    (tmp_path / "set" / "manifest.json.tmp").touch()
    result = shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert result.nothing_to_do
    assert tree(tmp_path / "set") == wanted


def test_a_finished_unit_is_kept_and_a_lost_shard_is_made_again(source, wanted, tmp_path, monkeypatch):
    out = tmp_path / "set"
    for _ in range(3):
        _do_one_unit(source, out, monkeypatch)
    tars = sorted(out.glob("*.tar"))
    before = {path: path.stat().st_mtime_ns for path in tars}
    tars[0].unlink()
    shard([str(source)], out, options=OPTIONS, num_workers=0)
    assert tree(out) == wanted
    lost = tars[0].name[-10:]  # the whole unit is made again
    assert all(path.stat().st_mtime_ns == before[path] for path in tars if not path.name.endswith(lost))


def test_a_worker_that_dies_ends_the_run(tmp_path):
    (tmp_path / "workers.lock").touch()
    units = [local.Unit(number, ()) for number in range(4)]
    with pytest.raises(DataError, match=r"a worker process died at or after unit \d"):
        list(local.run_local(_die, units, num_workers=2, lock=tmp_path / "workers.lock", watch=print))


def _die(unit, heartbeat):
    if unit.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.slow
def test_workers_stop_at_once_when_their_results_are_no_longer_wanted(tmp_path):
    (tmp_path / "workers.lock").touch()
    units = [local.Unit(number, ()) for number in range(2)]
    results = local.run_local(
        _first_is_quick, units, num_workers=2, lock=tmp_path / "workers.lock", watch=print
    )
    # the terminal sends Ctrl-C to them too: they leave it to their parent
    assert next(results) == {"interrupts_blocked": True}
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 2
    (tmp_path / "workers.lock").touch()


def _first_is_quick(unit, heartbeat):
    if unit.number:
        time.sleep(60)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return {"interrupts_blocked": {signal.SIGINT, signal.SIGHUP} <= blocked}


def test_an_error_in_a_worker_arrives_whole(tmp_path):
    (tmp_path / "workers.lock").touch()
    with pytest.raises(DataError, match="here: this; that"):
        list(
            local.run_local(
                _fail, [local.Unit(0, ())], num_workers=1, lock=tmp_path / "workers.lock", watch=print
            )
        )


def _fail(unit, heartbeat):
    raise DataError("here", "this", "that")


def test_a_full_disk_is_one_clear_error_and_leaves_no_half_file(source, wanted, tmp_path, monkeypatch):
    fsync, calls = os.fsync, itertools.count(1)

    def full(descriptor):
        if next(calls) == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(local_files.os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device\); make room.* run the same command again"):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    left = tree(tmp_path / "set")
    assert all(wanted[name] == data for name, data in left.items() if not name.startswith(".work"))
    assert not [name for name in left if name.endswith(".tmp")]
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert tree(tmp_path / "set") == wanted


@pytest.mark.parametrize("most", [0, 1000, 1 << 20])
def test_a_disk_that_takes_part_of_what_is_written_gets_the_rest(source, wanted, tmp_path, monkeypatch, most):
    monkeypatch.setattr(writer, "CHUNK_BYTES", 4096)
    sizes = []

    def part(descriptor, pieces):
        sizes.append(os.write(descriptor, b"".join(pieces)[:most]))
        return sizes[-1]

    monkeypatch.setattr(writer.os, "writev", part)
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert len(sizes) > sum(name.endswith(".tar") for name in wanted)
    assert tree(tmp_path / "set") == wanted


def test_a_record_appears_when_all_of_its_unit_is_on_the_disk_and_folders_are_flushed_once(
    source, tmp_path, monkeypatch
):
    events: list[tuple[str, str]] = []
    replace, flush = os.replace, os.fsync

    def replaced(old, new):
        replace(old, new)
        events.append(("named", Path(new).name))

    def flushed(descriptor):
        flush(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append(("flushed folder" if path.is_dir() else "flushed", path.name.removesuffix(".tmp")))

    monkeypatch.setattr(local_files.os, "replace", replaced)
    monkeypatch.setattr(local_files.os, "fsync", flushed)
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    begin = 0
    records = [at for at, (what, name) in enumerate(events) if what == "named" and name.startswith("unit-")]
    assert len(records) > 1
    for at in records:
        unit = [event for event in events[begin:at] if event[0] == "named" and event[1] != "state.json"]
        last = max(i for i, event in enumerate(events[:at]) if event in unit)
        assert {"set", ".work"} <= {name for what, name in events[last:at] if what == "flushed folder"}
        folders_flushed = [name for what, name in events[last - len(unit) : at] if what == "flushed folder"]
        assert sorted(folders_flushed) == [".work", "set"]
        begin = at + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "option seed is 1, was 0"),
        ({"samples_per_shard": 6}, "option samples_per_shard is 6, was 5"),
        ({"splits": "train=1"}, "option splits is "),
        ({"gray": "derive"}, "option gray is derive, was keep"),
    ],
)
@pytest.mark.parametrize("stage", ["begun", "finished"])
def test_changed_options_are_refused_by_name(source, tmp_path, monkeypatch, change, words, stage):
    if stage == "begun":
        _do_one_unit(source, tmp_path / "set", monkeypatch)
    else:
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    options = ShardOptions(**{"samples_per_shard": 5, **change})
    with pytest.raises(ConfigError, match=words):
        shard([str(source)], tmp_path / "set", options=options, num_workers=0)


def test_a_changed_source_is_refused_by_name(tmp_path):
    source = write_source(tmp_path / "in", files=2)
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    write_source(tmp_path / "in", files=1, rows=21)
    with pytest.raises(ConfigError, match=r"source file train-00000-of-00001\.parquet is new"):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    (source / "train-00000-of-00001.parquet").replace(source / "train-00000-of-00002.parquet")
    with pytest.raises(
        ConfigError, match=r"source file train-00000-of-00002\.parquet: bytes is \d+, was \d+"
    ):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)


@pytest.mark.parametrize("name", ["notes.txt", "train-000000.tar", "sub/file"])
def test_foreign_files_are_refused_by_name(source, tmp_path, name):
    (tmp_path / "set" / name).parent.mkdir(parents=True)
    (tmp_path / "set" / name).touch()
    with pytest.raises(ConfigError, match=f"not of this set .*{name.split('/')[0]}"):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert not (tmp_path / "set" / ".work").exists()


def test_shards_without_the_plan_they_were_made_by_are_refused(source, tmp_path, monkeypatch):
    _do_one_unit(source, tmp_path / "set", monkeypatch)
    (tmp_path / "set" / ".work" / "plan.json").unlink()
    with pytest.raises(ConfigError, match=r"holds \S+ but no \.work/plan\.json"):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)


def test_a_second_sharder_is_refused(source, tmp_path, monkeypatch):
    _do_one_unit(source, tmp_path / "set", monkeypatch)
    with open(tmp_path / "set" / ".work" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another sharder is writing here"):
            shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)


def test_workers_of_a_killed_run_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "ORPHANS_TIMEOUT_S", 0.05)
    folder = folders.LocalFolder(LocalPath(tmp_path))
    folder.make()
    folder.wait_for_orphans()
    with open(folder.workers_lock()) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(ConfigError, match="still alive"):
            folder.wait_for_orphans()


def test_a_finished_set_that_lost_a_shard_is_an_error(source, tmp_path):
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    lost = sorted((tmp_path / "set").glob("*.tar"))[1]
    lost.unlink()
    with pytest.raises(DataError, match=f"{lost.name}: missing, cut or changed"):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
