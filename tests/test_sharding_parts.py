"""`--part I/N` and `--finish`: many jobs, one folder, the bytes of a single run."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from parquet_fixtures import tree, write_rows, write_source
from test_sharding_rows import _bad_rows

from streamgan.cli.shard import shard as shard_command
from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage import local as local_files
from streamgan.core.storage import locks
from streamgan.core.storage.local import LocalPath
from streamgan.core.storage.place import place
from streamgan.sharding.engine import execute
from streamgan.sharding.folder import state
from streamgan.sharding.folder.parts import Part, parse_part
from streamgan.sharding.run import ShardOptions, finish, shard, shard_part

pytest_plugins = ["sharding_fixtures"]
OPTIONS = ShardOptions(samples_per_shard=5)
# A host: does its part, but not before every part holds its lock, so that they all run at the same time.
HOST = """
import sys, time
from pathlib import Path
from streamgan.sharding import run
from streamgan.sharding.engine import execute
from streamgan.sharding.folder.parts import parse_part

def make_unit(job, unit, *rest):
    while len(list((job.root / ".work").glob("part-*.lock"))) < 3:
        time.sleep(0.001)
    return original(job, unit, *rest)

if __name__ == "__main__":
    original, execute.make_unit = execute.make_unit, make_unit
    options = run.ShardOptions(samples_per_shard=5)
    run.shard_part([sys.argv[1]], sys.argv[2], part=parse_part(sys.argv[3]), options=options, num_workers=0)
"""


def do(source, out, spec, **options):
    return shard_part([str(source)], out, part=parse_part(spec), options=OPTIONS, num_workers=0, **options)


@pytest.mark.slow
def test_three_hosts_at_the_same_time_one_of_them_killed_make_the_bytes_of_one(source, wanted, tmp_path):
    out = tmp_path / "set"

    def start(part):
        command = [sys.executable, "-c", HOST, str(source), str(out), f"{part}/3"]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    hosts = {part: start(part) for part in (1, 2, 3)}
    while hosts[2].poll() is None and not list(
        out.glob(".work/unit-*1.json")
    ):  # of part 2: units 1, 4, 7, 10
        time.sleep(0.001)
    hosts[2].kill()
    hosts[2].communicate()
    hosts[2] = start(2)
    for host in hosts.values():
        assert host.wait(60) == 0, host.communicate()[1]
        host.communicate()
    assert not (out / "manifest.json").exists()
    finish(out)
    assert tree(out) == wanted


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_unit_is_in_the_share_of_one_part(num_units, count):
    shares = [Part(number, count).share(range(num_units)) for number in range(1, count + 1)]
    assert sorted(unit for share in shares for unit in share) == list(range(num_units))


def test_finish_names_the_units_that_are_missing_and_the_parts_to_run(source, wanted, tmp_path):
    out = tmp_path / "set"
    do(source, out, "1/4")
    do(source, out, "3/4")
    (out / ".work" / "unit-000002.json").unlink()
    with pytest.raises(DataError, match=r"7 of 12 units are missing \(1-3, 5, 7, 9, 11\).* I = 2-4, then"):
        finish(out)
    assert not (out / "manifest.json").exists()
    for spec in ("2/4", "3/4", "4/4"):
        do(source, out, spec)
    assert not finish(out).nothing_to_do
    assert tree(out) == wanted
    assert finish(out).nothing_to_do
    assert do(source, out, "2/4").made == 0


def test_a_part_that_runs_again_finds_its_units_done(source, tmp_path):
    first, second = do(source, tmp_path / "set", "2/3"), do(source, tmp_path / "set", "2/3")
    assert (first.units, first.made, second.units, second.made) == (4, 4, 4, 0)


def test_a_run_without_part_does_what_the_parts_left(source, wanted, tmp_path):
    do(source, tmp_path / "set", "2/3")
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert tree(tmp_path / "set") == wanted


def test_more_parts_than_units_are_harmless(source, tmp_path):
    assert do(source, tmp_path / "set", "20/20").units == 0


def test_another_number_of_parts_is_refused_until_a_run_without_part(source, tmp_path):
    do(source, tmp_path / "set", "2/3")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"being made in 3 parts \(got --part 1/2\); use --part I/3"):
            do(source, tmp_path / "set", "1/2")


def test_parts_of_another_set_are_refused_by_name(source, tmp_path):
    do(source, tmp_path / "set", "2/3")
    options = ShardOptions(samples_per_shard=5, seed=1)
    with pytest.raises(ConfigError, match="option seed is 1, was 0"):
        shard_part([str(source)], tmp_path / "set", part=Part(1, 3), options=options, num_workers=0)


@pytest.fixture(params=["disk", "nfs"])
def file_system(request, monkeypatch):
    """NFS makes locks of ranges of those of flock: it asks for the mode of the file as they do (flock(2))."""
    if request.param == "nfs":
        flock = fcntl.flock

        def by_mode(file, operation) -> None:
            number = file if isinstance(file, int) else file.fileno()
            mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
            if (operation & fcntl.LOCK_SH and mode == os.O_WRONLY) or (
                operation & fcntl.LOCK_EX and mode == os.O_RDONLY
            ):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            flock(file, operation)

        monkeypatch.setattr(fcntl, "flock", by_mode)


def test_a_lock_that_lives_on_by_another_name_keeps_no_set_from_being_finished(
    source, wanted, tmp_path, monkeypatch
):
    rmdir, refused = LocalPath.rmdir, []

    def silly(
        path,
    ) -> None:  # NFS renames what is removed while it is open, and removes that when it is closed
        if not refused:
            refused.append(path)
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        rmdir(path)

    monkeypatch.setattr(LocalPath, "rmdir", silly)
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert refused == [tmp_path / "set" / ".work"]
    assert tree(tmp_path / "set") == wanted


def test_who_may_work_in_a_folder_at_the_same_time(tmp_path, file_system):
    folder = state.folder_of(place(tmp_path / "set"))
    folder.make()
    with folder.locked(Part(1, 3)):
        with folder.locked(Part(2, 3)):
            pass
        with pytest.raises(ConfigError, match="part 1/3 is running already"), folder.locked(Part(1, 3)):
            pass
        with pytest.raises(ConfigError, match="another sharder is writing here"), folder.locked():
            pass
    with (
        folder.locked(),
        pytest.raises(ConfigError, match="a sharder without --part is writing here"),
        folder.locked(Part(1, 3)),
    ):
        pass


def test_a_part_leaves_the_unfinished_files_of_the_others_alone(source, wanted, tmp_path):
    do(source, tmp_path / "set", "1/3")
    of_another, own = (tmp_path / "set" / f"train-00000{unit}.tar.0a1b2c3d.tmp" for unit in (1, 2))
    of_another.touch()
    own.touch()
    do(source, tmp_path / "set", "3/3")
    assert (of_another.exists(), own.exists()) == (True, False)
    do(source, tmp_path / "set", "2/3")
    finish(tmp_path / "set")
    assert tree(tmp_path / "set") == wanted


def test_two_processes_that_do_one_unit_at_once_write_one_file(source, wanted, tmp_path, monkeypatch):
    """As when a cluster loses sight of a node that lives on: here whenever the first is about to rename."""
    replace, nested = os.replace, False

    def replace_after_the_other(old, new):
        nonlocal nested
        if not nested and str(new).endswith(".tar"):
            nested = True
            execute.make_unit(*arguments[-1])
            nested = False
        replace(old, new)

    make_unit, arguments = execute.make_unit, []
    monkeypatch.setattr(local_files.os, "replace", replace_after_the_other)
    monkeypatch.setattr(execute, "make_unit", lambda *given: (arguments.append(given), make_unit(*given))[1])
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert tree(tmp_path / "set") == wanted


@pytest.mark.slow
def test_a_file_system_without_locks_is_said_and_not_fatal(source, wanted, tmp_path, monkeypatch, capfd):
    def flock(file, mode):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=1)
    assert "has no locks" in capfd.readouterr().err
    assert tree(tmp_path / "set") == wanted


def test_bad_rows_are_added_up_when_the_set_is_finished(tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [*_bad_rows(), *_bad_rows()])
    write_rows(tmp_path / "in" / "b.parquet", [_bad_rows()[4]])
    write_source(tmp_path / "in" / "good", files=1, rows=12)
    out = tmp_path / "set"
    for number in (1, 2):
        shard_part(
            [str(tmp_path / "in")], out, part=Part(number, 2), options=OPTIONS, num_workers=0, max_bad=1
        )
    with pytest.raises(DataError, match=r"13 of 25 rows are bad, more than --max-bad 0\.5"):
        finish(out, max_bad=0.5)
    assert finish(out, max_bad=0.6).manifest.quarantine["rows"] == 13


@pytest.mark.parametrize("spec", ["", "1", "0/3", "4/3", "1/0", "a/b", "-1/3", "1/3/5"])
def test_a_part_that_is_none_is_refused(spec):
    with pytest.raises(ConfigError, match="--part: not one of N parts"):
        parse_part(spec)


def test_the_command_makes_parts_and_finishes_them(source, wanted, tmp_path):
    common = ["--out", str(tmp_path / "set"), "--json"]
    given = [str(source), "--samples-per-shard", "5", "--workers", "0"]
    missing = CliRunner().invoke(shard_command, ["--finish", *common])
    assert isinstance(missing.exception, DataError)
    for number in (1, 2):
        done = json.loads(
            CliRunner().invoke(shard_command, [*given, "--part", f"{number}/2", *common]).stdout
        )
        assert (done["ok"], done["part"], done["units"], done["made"]) == (True, f"{number}/2", 6, 6)
    finished = json.loads(CliRunner().invoke(shard_command, ["--finish", *common]).stdout)
    assert (finished["ok"], finished["nothing_to_do"]) == (True, False)
    assert tree(tmp_path / "set") == wanted


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"quality": 80}, "--quality: is that of JPEG, and nothing becomes one; add --encode jpeg"),
        ({"quality": 80, "size": 64, "encode": "png"}, "--quality: is that of JPEG"),
        (
            {"gray_column": "bw", "gray": "derive"},
            "the column 'bw' would not be read; leave out --gray derive",
        ),
        ({"text_column": "title"}, "the column 'title' would not be read; add --keep-text"),
    ],
)
def test_options_that_another_switches_off_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        ShardOptions(**options)
    ShardOptions(quality=80, size=64, gray_column="bw", text_column="title", keep_text=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "SOURCE... is missing"),
        (["x", "--finish"], "takes no SOURCE"),
        (["--finish", "--size", "64"], "takes no --size"),
        (["--finish", "--seed", "0"], "takes no --seed"),
        (["x", "--check", "none", "--max-pixels", "5"], "leave out --check none"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, words):
    result = CliRunner().invoke(shard_command, [*arguments, "--out", "y"])
    assert (result.exit_code, words in result.output) == (2, True)
