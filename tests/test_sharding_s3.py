"""`--out s3://...`: the set of a folder, object by object, whatever happens to requests and processes."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from parquet_fixtures import encode, hub, tree, write_rows
from PIL import Image
from s3_fixtures import BUCKET, Store, answer, reset, s3_server

from streamgan.cli.verify import verify as verify_command
from streamgan.core.errors import CheckFailed, ConfigError, DataError
from streamgan.core.storage import place as places
from streamgan.core.storage import retry
from streamgan.core.storage import store as clients
from streamgan.core.storage.place import ObjectPath, place
from streamgan.data.inspect import SIZES_OF_REMOTE, inspect
from streamgan.sharding.engine import execute
from streamgan.sharding.folder import bucket_lease
from streamgan.sharding.folder.parts import Part
from streamgan.sharding.folder.state import folder_of
from streamgan.sharding.run import ShardOptions, finish, shard, shard_part
from streamgan.sharding.verify import verify

pytest_plugins = ["sharding_fixtures"]
OPTIONS = ShardOptions(samples_per_shard=5, splits="train=1")
SOURCE = {"files": 1, "rows": 10}
SLOW_DOWN = answer("503 Slow Down", "SlowDown")
DENIED = answer("403 Forbidden", "AccessDenied")
BROKEN = answer("500 Internal Server Error", "InternalError")


@pytest.fixture(scope="module")
def server():
    with s3_server() as store:
        yield store


@pytest.fixture
def store(server, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_DELAYS_S", (0.0,) * 4)
    yield server
    server.fault = lambda environ: None


_numbers = itertools.count()


@pytest.fixture
def prefix():
    return f"sets/{next(_numbers)}"


def make(source, prefix, **options):
    given = {"options": OPTIONS, "num_workers": 0, **options}
    return shard([str(source)], f"s3://{BUCKET}/{prefix}", **given)


class _Crash(BaseException):
    """Not an error that anything handles."""


def do_one_unit(source, prefix, monkeypatch):
    make_unit = execute.make_unit

    def one(job, unit, heartbeat):
        make_unit(job, unit, heartbeat)
        raise _Crash

    with monkeypatch.context() as patch:
        patch.setattr(execute, "make_unit", one)
        with pytest.raises(_Crash):
            make(source, prefix)


def test_a_bucket_gets_the_bytes_of_a_folder(source, wanted, store, prefix):
    assert not make(source, f"{prefix}/").nothing_to_do
    assert store.tree(prefix) == wanted
    writes = []
    store.fault = lambda environ: writes.append(environ) if environ["REQUEST_METHOD"] != "GET" else None
    assert make(source, prefix).nothing_to_do
    assert not [one for one in writes if one["REQUEST_METHOD"] != "HEAD"]


def test_passing_faults_change_nothing(source, wanted, store, prefix):
    """Every third request fails, each in another way."""
    faults = itertools.cycle([SLOW_DOWN, reset, BROKEN, reset, BROKEN])
    count = itertools.count(1)
    store.fault = lambda environ: next(faults) if next(count) % 3 == 0 else None
    make(source, prefix)
    store.fault = lambda environ: None
    assert next(count) > 40
    assert store.tree(prefix) == wanted


@pytest.mark.parametrize(
    ("method", "fault", "words"),
    [
        ("PUT", DENIED, r"cannot be written \(AccessDenied, HTTP 403\)"),
        pytest.param(
            "PUT",
            BROKEN,
            r"cannot be written \(InternalError, HTTP 500, 5 attempts\); run the same command",
            marks=pytest.mark.slow,
        ),
        pytest.param("GET", DENIED, r"cannot be read \(AccessDenied, HTTP 403\)", marks=pytest.mark.slow),
    ],
    ids=["PUT-403", "PUT-500", "GET-403"],
)
def test_lasting_faults_are_one_line(source, wanted, store, prefix, monkeypatch, method, fault, words):
    do_one_unit(source, prefix, monkeypatch)
    store.fault = lambda environ: fault if environ["REQUEST_METHOD"] == method else None
    monkeypatch.setattr(retry, "RETRY_DELAYS_S", (0.0,) * 4)
    with pytest.raises(DataError, match=rf"^s3://{BUCKET}/{prefix}[^ ]*: {words}") as failure:
        make(source, prefix)
    assert "\n" not in str(failure.value)
    store.fault = lambda environ: None
    store.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/.work/leases/all.000001.json")
    make(source, prefix)
    assert store.tree(prefix) == wanted


def test_a_bucket_that_is_missing_is_one_line(source, store):
    with pytest.raises(DataError, match=r"^s3://none/x: cannot be read \(NoSuchBucket, HTTP 404\)"):
        shard([str(source)], "s3://none/x", options=OPTIONS, num_workers=0)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("https://host/x", "cannot hold a shard set"),
        ("hf://datasets/a/b", "cannot hold a shard set"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/x", "s3://bucket/x: holds credentials"),
    ],
)
def test_addresses_that_cannot_be_written_are_refused(source, out, words):
    with pytest.raises(ConfigError, match=words) as failure:
        shard([str(source)], out, options=OPTIONS, num_workers=0)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_certificates_that_cannot_be_read_are_named_and_do_not_hide_a_set(store, prefix, monkeypatch, name):
    monkeypatch.setenv("AWS_REGION", name)  # another client than the one that is there
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(name, "/none.pem")
    with pytest.raises(ConfigError, match=rf"^{name}: /none.pem cannot be read \(No such file"):
        ObjectPath(f"s3://{BUCKET}/{prefix}").exists()


@pytest.mark.parametrize("keys", [True, False])
def test_a_profile_that_is_not_there_is_named_at_once(store, prefix, monkeypatch, keys):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    if not keys:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    place = ObjectPath(f"s3://{BUCKET}/{prefix}")
    with pytest.raises(ConfigError, match=r"^s3://shards: The config profile \(nobody\) could"):
        folder_of(place).remove_unfinished(lambda name: True) if keys else place.exists()


@pytest.mark.slow
def test_a_stopped_run_keeps_its_units(source, wanted, store, prefix, monkeypatch):
    do_one_unit(source, prefix, monkeypatch)
    names = written_since(store, lambda: make(source, prefix))
    assert f"{prefix}/train-000000.tar" not in names
    assert f"{prefix}/train-000001.tar" in names
    assert store.tree(prefix) == wanted


def written_since(store: Store, action) -> set[str]:
    """Keys of the objects that `action` wrote."""
    names = set()

    def listen(environ):
        if environ["REQUEST_METHOD"] == "PUT":
            names.add(environ["PATH_INFO"].removeprefix(f"/{BUCKET}/"))

    store.fault = listen
    action()
    store.fault = lambda environ: None
    return names


@pytest.fixture
def finished(store, wanted, prefix):
    """A prefix with a finished set."""
    for name, data in wanted.items():
        store.write(f"{prefix}/{name}", data)
    return prefix


@pytest.fixture
def begun(source, store, prefix, monkeypatch):
    """A prefix with the first of two units."""
    do_one_unit(source, prefix, monkeypatch)
    return prefix


@pytest.mark.parametrize("stage", ["begun", "finished"])
def test_other_options_and_foreign_objects_are_refused(source, store, request, stage):
    prefix = request.getfixturevalue(stage)
    other = ShardOptions(samples_per_shard=5, splits="train=1", seed=1)
    with pytest.raises(ConfigError, match=rf"^s3://{BUCKET}/{prefix}: .* option seed is 1, was 0"):
        make(source, prefix, options=other)
    store.write(f"{prefix}/notes/a.txt", b"mine")
    with pytest.raises(ConfigError, match=r"files that are not of this set \(notes\)"):
        make(source, prefix)


def test_a_finished_set_that_lost_bytes_is_an_error(source, store, finished):
    store.write(f"{finished}/train-000001.tar", b"short")
    with pytest.raises(DataError, match=r"train-000001\.tar: missing, cut or changed in a finished set"):
        make(source, finished)


@pytest.mark.slow
def test_verify_reads_a_bucket(store, finished):
    prefix = finished
    assert not verify(f"s3://{BUCKET}/{prefix}", full=True).findings
    summary = inspect(f"s3://{BUCKET}/{prefix}")
    assert summary.sizes.total() == min(summary.samples, SIZES_OF_REMOTE) > 0
    data = bytearray(store.read(f"{prefix}/train-000001.tar"))
    data[1000] ^= 1
    store.write(f"{prefix}/train-000001.tar", bytes(data))
    done = CliRunner().invoke(verify_command, [f"s3://{BUCKET}/{prefix}"])
    assert isinstance(done.exception, CheckFailed)
    assert "train-000001.tar: 00000-" in done.stdout


@pytest.mark.slow
def test_parts_and_finish(source, wanted, store, prefix):
    out = f"s3://{BUCKET}/{prefix}"
    for number in (1, 2):
        with pytest.raises(DataError, match=r"units are missing .* run --part I/2" if number > 1 else "plan"):
            finish(out)
        done = shard_part([str(source)], out, part=Part(number, 2), options=OPTIONS, num_workers=0)
        assert done.made == 1
    with pytest.raises(ConfigError, match="being made in 2 parts"):
        shard_part([str(source)], out, part=Part(1, 3), options=OPTIONS, num_workers=0)
    finish(out)
    assert store.tree(prefix) == wanted
    assert finish(out).nothing_to_do


def lease_of(store, prefix, label="all", **owner) -> None:
    owner = {"host": "elsewhere", "machine": "another", "pid": 1, **owner}
    store.write(f"{prefix}/.work/leases/{label}.000001.json", json.dumps(owner).encode())


@pytest.mark.slow
def test_a_living_sharder_elsewhere_is_respected_and_a_dead_one_is_not(
    source, wanted, store, prefix, monkeypatch
):
    do_one_unit(source, prefix, monkeypatch)
    lease_of(store, prefix)
    with pytest.raises(
        ConfigError, match=r"another sharder is writing here \(elsewhere, process 1, heard of"
    ):
        make(source, prefix)
    monkeypatch.setattr(bucket_lease, "_age", lambda path: bucket_lease.EXPIRES_S + 1)
    make(source, prefix)
    assert store.tree(prefix) == wanted


def test_a_dead_process_of_this_machine_is_not_waited_for(store, prefix):
    ended = subprocess.Popen(["true"])
    ended.wait()
    lease_of(store, prefix, machine=bucket_lease._machine(), pid=ended.pid)
    with folder_of(ObjectPath(f"s3://{BUCKET}/{prefix}")).locked():
        assert list(store.tree(prefix)) == [".work/leases/all.000002.json"]
    assert store.tree(prefix) == {}


def test_who_may_work_below_a_prefix_at_the_same_time(store, prefix):
    folder = folder_of(ObjectPath(f"s3://{BUCKET}/{prefix}"))
    with folder.locked(Part(1, 3)):
        with folder.locked(Part(2, 3)):
            pass
        with (
            pytest.raises(ConfigError, match="part 1/3 is running already"),
            folder.locked(Part(1, 3)),
        ):
            pass
        with (
            pytest.raises(ConfigError, match="another sharder is writing here"),
            folder.locked(),
        ):
            pass
    with (
        folder.locked(),
        pytest.raises(ConfigError, match="a sharder without --part is writing here"),
        folder.locked(Part(1, 3)),
    ):
        pass
    assert store.tree(prefix) == {}


def test_of_two_that_take_over_at_once_one_wins(store, prefix, monkeypatch):
    """The second looks before, and creates after, the first has taken a dead lease over."""
    folder = folder_of(ObjectPath(f"s3://{BUCKET}/{prefix}"))
    lease_of(store, prefix)
    monkeypatch.setattr(bucket_lease, "_age", lambda path: bucket_lease.EXPIRES_S + 1)
    take, first, stack = bucket_lease.BucketLease.take, [], ExitStack()

    def take_after_another(self):
        if not first:
            first.append("on its way")
            first.append(stack.enter_context(folder.locked()))
        return take(self)

    monkeypatch.setattr(bucket_lease.BucketLease, "take", take_after_another)
    with pytest.raises(ConfigError, match="another sharder is writing here"), folder.locked():
        pass
    first[1]()
    stack.close()
    assert store.tree(prefix) == {}


def test_a_release_between_two_that_begin_lets_one_in_at_most(store, prefix, monkeypatch):
    """The first has seen a lease that is then released, and comes to create its own after the second."""
    folder = folder_of(ObjectPath(f"s3://{BUCKET}/{prefix}"))
    lease_of(store, prefix, machine=bucket_lease._machine(), pid=None)
    take, second = bucket_lease.BucketLease.take, []

    def take_after_another(self):
        if not second:
            store.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/.work/leases/all.000001.json")
            second.append(bucket_lease.BucketLease(folder.work, "all", 1))
            assert take(second[0])
        return take(self)

    monkeypatch.setattr(bucket_lease.BucketLease, "take", take_after_another)
    monkeypatch.setattr(bucket_lease, "_age", lambda path: 0.0 if second else bucket_lease.EXPIRES_S + 1)
    with pytest.raises(ConfigError, match="another sharder is writing here"), folder.locked():
        pass
    assert list(store.tree(prefix)) == [".work/leases/all.000001.json"]
    second[0].renew()
    second[0].check()


def test_the_mark_of_an_empty_folder_is_none_of_the_sets_files(store, prefix):
    store.write(f"{prefix}/", b"")
    assert ObjectPath(f"s3://{BUCKET}/{prefix}").tree() == {}
    store.write(f"{prefix}/x", b"1")
    assert list(ObjectPath(f"s3://{BUCKET}/{prefix}").tree()) == ["x"]


def test_a_sharder_that_slept_stops_when_another_has_taken_over(source, store, prefix, monkeypatch):
    """It is taken for dead within its first unit, and finds out when it next renews its lease."""
    held, make_unit = [], execute.make_unit
    start = bucket_lease.BucketLease.start
    monkeypatch.setattr(bucket_lease.BucketLease, "start", lambda self: (held.append(self), start(self))[1])

    def sleep_over_it(job, unit, heartbeat):
        key = f"{prefix}/.work/leases/all.000002.json"
        store.write(key, b"{}")
        held[0].renew()
        return make_unit(job, unit, heartbeat)

    monkeypatch.setattr(execute, "make_unit", sleep_over_it)
    with pytest.raises(DataError, match="its lease was taken over"):
        make(source, prefix)
    assert "manifest.json" not in store.tree(prefix)
    assert ".work/leases/all.000002.json" in store.tree(prefix)


def test_a_lease_that_cannot_be_renewed_in_time_is_lost(store, prefix, monkeypatch):
    with folder_of(ObjectPath(f"s3://{BUCKET}/{prefix}")).locked() as check:
        check()
        monkeypatch.setattr(bucket_lease, "EXPIRES_S", -1.0)
        with pytest.raises(DataError, match="could not be renewed in time"):
            check()


def test_a_store_without_conditional_requests_is_served(store, prefix):
    def fault(environ):
        refuses = environ.get("HTTP_IF_NONE_MATCH")
        return answer("501 Not Implemented", "NotImplemented") if refuses else None

    store.fault = fault
    path = ObjectPath(f"s3://{BUCKET}/{prefix}/x")
    assert path.create(b"one")
    assert not path.create(b"two")
    assert path.read_bytes() == b"one"


def test_a_created_object_whose_answer_was_lost_counts_as_created(store, prefix):
    path = place(f"s3://{BUCKET}/{prefix}/x")

    def write_and_reset(environ):
        store.fault = lambda environ: None
        store.write(f"{prefix}/x", b"one")
        return reset(environ)

    store.fault = lambda environ: write_and_reset if environ["REQUEST_METHOD"] == "PUT" else None
    assert path.create(b"one")
    assert not path.create(b"two")


def is_part(environ, number: int) -> bool:
    return environ["REQUEST_METHOD"] == "PUT" and f"partNumber={number}" in environ["QUERY_STRING"]


def test_an_upload_in_parts_that_fails_is_given_up(store, prefix, monkeypatch):
    """The second part fails as often as it is sent within an attempt, then the upload starts anew."""
    monkeypatch.setattr(clients, "PART_BYTES", 5 << 20)
    data, attempts, uploads = os.urandom(6 << 20), [], []

    def fault(environ):
        if environ["REQUEST_METHOD"] == "POST" and environ["QUERY_STRING"].startswith("uploads"):
            uploads.append(1)
        if is_part(environ, 2) and len(uploads) < 3:
            attempts.append(1)
            return reset
        return None

    store.fault = fault
    with ObjectPath(f"s3://{BUCKET}/{prefix}/x").writing() as file:
        file.write(data)
    assert len(attempts) >= len(uploads) - 1 == 2
    assert store.tree(prefix) == {"x": data}
    assert not store.open_uploads()


def test_a_full_temporary_disk_is_named(source, store, prefix, monkeypatch):
    full = lambda **_: open("/dev/full", "wb")  # noqa: E731, SIM115
    monkeypatch.setattr(places.tempfile, "TemporaryFile", full)
    folder = places.tempfile.gettempdir()
    with pytest.raises(
        DataError, match=rf"^{folder}: the disk is full \(a file on its way to s3://{BUCKET}/"
    ):
        make(source, prefix)


def write_noise(path: Path, rows: int) -> Path:
    """Images of 2 MB each, which no one can compress."""
    images = [Image.frombytes("RGB", (840, 840), os.urandom(840 * 840 * 3)) for _ in range(rows)]
    write_rows(
        path / "train-00000-of-00001.parquet",
        [{"image": hub(encode(image, "PNG", compress_level=0))} for image in images],
        group=3,
    )
    return path


def start(source, prefix, workers: int, *options: str, bucket: str = BUCKET) -> subprocess.Popen:
    """The command itself, with units of 16 MB."""
    out = ["--out", f"s3://{bucket}/{prefix}", "--splits", "train=1", "--samples-per-shard", "9"]
    command = [sys.executable, "-m", "streamgan.cli", "shard", str(source), *out, "--workers", str(workers)]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def held(store):
    """(reached, released): the second part of every upload waits for the one and sets the other."""
    reached, released = threading.Event(), threading.Event()

    def hold(environ):
        reached.set()
        released.wait(60)
        return reset(environ)

    store.fault = lambda environ: hold if is_part(environ, 2) else None
    yield reached, released
    store.fault = lambda environ: None
    released.set()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A source of two units of 19 MB, so that they are uploaded in parts, and its set."""
    folder = write_noise(tmp_path_factory.mktemp("large"), 18)
    options = ShardOptions(samples_per_shard=9, splits="train=1")
    shard([str(folder)], folder / "set", options=options, num_workers=0)
    wanted = tree(folder / "set")
    assert len(wanted["train-000000.tar"]) > clients.PART_BYTES
    return folder / "train-00000-of-00001.parquet", wanted


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_within_an_upload_continues_to_the_same_bytes(large, store, prefix, held, workers):
    source, wanted = large
    reached, released = held
    process = start(source, prefix, workers)
    assert reached.wait(60)
    process.kill()
    process.communicate()
    store.fault = lambda environ: None
    released.set()
    assert store.open_uploads()
    assert not [name for name in store.tree(prefix) if not name.startswith(".work/")]
    again = start(source, prefix, workers)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert store.tree(prefix) == wanted
    assert not store.open_uploads()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_gives_the_upload_up_and_lets_others_in(large, store, prefix, held, workers):
    source, wanted = large
    reached, released = held
    process = start(source, prefix, workers)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)

    def let_go_when_given_up(environ):
        if environ["REQUEST_METHOD"] == "DELETE" and "uploadId" in environ["QUERY_STRING"]:
            released.set()

    store.fault = let_go_when_given_up
    _, errors = process.communicate(timeout=60)
    assert released.is_set()
    assert process.returncode == 130, errors
    assert "units are done; the same command continues" in errors
    assert "Traceback" not in errors
    assert not store.open_uploads()
    assert [name for name in store.tree(prefix) if name.startswith(".work/leases/")] == []
    again = start(source, prefix, workers)
    assert again.communicate(timeout=120)[0].count("\n") >= 2
    assert store.tree(prefix) == wanted


@pytest.mark.slow
def test_a_missing_bucket_is_one_line_of_the_command(large, store):
    process = start(large[0], "x", 0, "--json", bucket="none")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert errors.startswith("error: s3://none/x: cannot be read (NoSuchBucket, HTTP 404); check the address")
    assert errors.count("\n") == 1
    assert json.loads(out)["error"]["where"] == "s3://none/x"
