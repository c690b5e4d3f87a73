"""`--engine ray` on a real cluster of two nodes of this machine, one of which dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from parquet_fixtures import pair, tree, write_rows
from s3_fixtures import BUCKET, s3_server

from streamgan.cli.shard import shard as shard_command
from streamgan.core.errors import ConfigError, DataError
from streamgan.sharding.engine import execute, ray_cluster
from streamgan.sharding.folder.local import LocalFolder
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.unit.plan import Unit

pytest_plugins = ["sharding_fixtures"]
OPTIONS = ShardOptions(samples_per_shard=5)
MEMORY = 80 << 20  # bytes of a node's object store
HEALTH = {  # a node that does not answer for two seconds is dead
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
}


@pytest.fixture
def nodes(monkeypatch):
    """A cluster of two nodes with one CPU each; (it, its second node)."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    tests = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": MEMORY, "_system_config": HEALTH},
    )
    try:
        yield made, made.add_node(num_cpus=1, object_store_memory=MEMORY)
    finally:
        made.shutdown()


def make_unit_unless_doomed(job, unit, heartbeat):
    """On the node that is named in a file beside the set: wait for its end. Unit 5 dies once by itself."""
    import ray

    here, folder = ray.get_runtime_context().get_node_id(), job.root.parent
    if here == (folder / "doomed").read_text():
        (folder / "reached").touch()
        time.sleep(600)
    if unit.number == 5 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return execute_make_unit(job, unit, heartbeat)


execute_make_unit = execute.make_unit


def wait_until(condition) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def command(source, out, made, *options):
    given = [str(source), "--out", str(out), "--samples-per-shard", "5"]
    ray = ["--engine", "ray", "--address", made.address]
    return [sys.executable, "-m", "streamgan.cli", "shard", *given, *ray, *options]


def without_progress(stderr: str) -> str:
    """Lines come every ten seconds, so on a busy machine alone."""
    return re.sub(r"^shard: \d+/\d+ .*\n", "", stderr, flags=re.MULTILINE)


DOOMED = """
from streamgan.sharding.engine import execute
import test_sharding_ray
execute.make_unit = test_sharding_ray.make_unit_unless_doomed
from streamgan.cli.main import main
main()
"""


def start_doomed(source, out, made, *options) -> subprocess.Popen:
    """The command with another `make_unit`."""
    given = [sys.executable, "-c", DOOMED, *command(source, out, made, *options)[3:]]
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_and_a_process_makes_the_bytes_of_one(source, wanted, nodes, tmp_path):
    made, second = nodes
    (tmp_path / "doomed").write_text(second.node_id)
    process = start_doomed(source, tmp_path / "set", made, "--json")
    wait_until((tmp_path / "reached").exists)
    second.kill_raylet(check_alive=False)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, without_progress(errors)) == (0, "")
    assert json.loads(out)["ok"]  # and nothing of Ray's
    assert (tmp_path / "died").exists()
    assert tree(tmp_path / "set") == wanted


@pytest.mark.slow
def test_the_command_on_a_cluster(source, wanted, nodes, tmp_path):
    """Its result, an error of a user in one line, and Ctrl-C."""
    made, _ = nodes
    out = tmp_path / "set"
    done = subprocess.run(command(source, out, made, "--json"), capture_output=True, text=True, timeout=120)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert json.loads(done.stdout)["ok"]
    assert tree(out) == wanted

    changed = write_rows(tmp_path / "changed" / "a.parquet", [pair(i) for i in range(40)])
    script = (
        "import os, sys; from pathlib import Path; from streamgan.sharding.engine import execute; "
        "made = execute.Execution._make; path = Path(sys.argv[2]); "
        "execute.Execution._make = lambda *given: (path.write_bytes(b'PAR1'), made(*given))[1]; "
        "from streamgan.cli.main import main; main()"
    )
    failed = subprocess.run(
        [sys.executable, "-c", script, *command(changed, tmp_path / "other", made)[3:]],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert failed.returncode == 3, failed.stderr
    (line,) = without_progress(failed.stderr).splitlines()
    assert line.startswith(f"error: {changed}: ")


@pytest.fixture
def store():
    """A bucket that nodes which begin later know of."""
    with s3_server() as server:
        yield server


@pytest.mark.slow
def test_a_cluster_fills_a_bucket(source, wanted, store, nodes):
    made, _ = nodes
    out = f"s3://{BUCKET}/set"
    done = subprocess.run(command(source, out, made), capture_output=True, text=True, timeout=120)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert store.tree("set") == wanted


@pytest.mark.slow
def test_ctrl_c_cancels_the_tasks_of_a_cluster(source, wanted, nodes, tmp_path):
    made, second = nodes
    (tmp_path / "doomed").write_text(second.node_id)
    (tmp_path / "died").touch()
    process = start_doomed(source, tmp_path / "set", made)
    wait_until((tmp_path / "reached").exists)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "units are done; the same command continues" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "set").rglob("*.tmp"))
    shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=0)
    assert tree(tmp_path / "set") == wanted


def sleep(unit, heartbeat):
    Path(unit.pieces).write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.slow
def test_a_connection_of_the_caller_stays_and_the_tasks_end(nodes, tmp_path):
    import ray

    made, _ = nodes
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    try:
        unit = Unit(0, str(tmp_path / "pid"))
        looked = []

        def watch(pulses):
            looked.append(pulses)
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(ray_cluster.run_ray(sleep, [unit], num_workers=None, lock=None, watch=watch))
        assert looked[-1] == [ray_cluster.Pulse(0, None)]
        assert ray.is_initialized()
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: not psutil.pid_exists(pid))
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_folder_that_a_node_does_not_see_is_one_line(source, nodes, tmp_path, monkeypatch):
    made, _ = nodes
    elsewhere = tmp_path / "elsewhere" / ".work" / "workers.lock"
    monkeypatch.setattr(LocalFolder, "wait_for_orphans", lambda *_: None)
    monkeypatch.setattr(LocalFolder, "workers_lock", lambda *_: elsewhere)
    with pytest.raises(DataError, match=r"elsewhere: cannot be seen by node \S+ of the cluster"):
        shard(
            [str(source)],
            tmp_path / "set",
            options=OPTIONS,
            num_workers=2,
            engine="ray",
            address=made.address,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("auto", r"no Ray cluster at auto \(Could not find any running Ray instance"),
        ("127.0.0.1:1", r"no Ray cluster at 127\.0\.0\.1:1 \(Connection refused\); run this on a node"),
        ("ray://127.0.0.1:10001", r"not that of a Ray cluster"),
        ("127.0.0.1", r"not that of a Ray cluster"),
    ],
)
def test_no_cluster_is_one_line(source, tmp_path, address, words):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=words):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=2, engine="ray", address=address)


def test_a_missing_library_is_one_line(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs a library \(ray\); .* pip install 'streamgan\[ray\]'"):
        shard([str(source)], tmp_path / "set", options=OPTIONS, num_workers=2, engine="ray")


@pytest.mark.parametrize("given", [["--address", "x:1"], ["--engine", "ray", "--workers", "0"]])
def test_options_that_contradict_each_other_are_refused(source, tmp_path, given):
    done = CliRunner().invoke(shard_command, [str(source), "--out", str(tmp_path / "set"), *given])
    assert done.exit_code == 2
    assert "Usage" in done.output
