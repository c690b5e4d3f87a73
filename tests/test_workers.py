"""Worker processes: forks of a server of our own that know all they need, whatever happens around them."""

import errno
import json
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from remote_fixtures import website
from worker_fixtures import (
    BlockAfter,
    Change,
    Tell,
    answer_half,
    fork_servers,
    is_fork_server,
    let_workers_decode,
    loader_workers,
)

import streamgan
from streamgan.core.counters import Counters
from streamgan.core.errors import DataError
from streamgan.data import Weighted, build_loader
from streamgan.data import loader as loader_module
from streamgan.data.shards.ranged import RangedFiles
from streamgan.data.shards.reader import ShardReader
from streamgan.data.workers import processes
from streamgan.data.workers.processes import SERVER, Workers
from streamgan.data.workers.queues import Results
from streamgan.data.workers.samples import Defect

OPTIONS = {"batch": 4, "size": 16, "workers": 2, "stop_step": 8}


def build(root, **options):
    return build_loader(root, **{**OPTIONS, **options})


def ids(batches) -> list[list[int]]:
    return [batch.ids_B.tolist() for batch in batches]


def test_the_server_has_one_thread_and_its_workers_import_nothing_more(shard_set, tmp_path, monkeypatch):
    first = build(shard_set, workers=1)
    monkeypatch.setattr(loader_module, "begin", Tell(tmp_path / "begun", ()))
    batches = iter(first)
    next(batches)
    (server,), (worker,) = fork_servers(), loader_workers()
    assert server.pid == SERVER.pid
    assert os.listdir(f"/proc/{server.pid}/task") == [str(server.pid)]
    begun = json.loads((tmp_path / "begun").read_text())
    assert len(begun["threads"]) == 1
    assert worker.num_threads() == 2  # one listens
    assert {"simplejpeg", "PIL.JpegImagePlugin"} < set(begun["modules"])
    assert not {"torch", "pytest", "test_workers"} & set(begun["modules"])


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Descriptor 2 is a file meanwhile."""
    kept = os.dup(2)
    try:
        with path.open("w") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_a_worker_finds_itself_where_the_training_process_is(shard_set, tmp_path, monkeypatch):
    """Variables change from one cell of a notebook to the next, while the server runs on."""
    list(build(shard_set))
    for number in range(2):
        where = tmp_path / f"folder-{number}"
        where.mkdir()
        monkeypatch.chdir(where)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"secret-{number}")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.syspath_prepend(f"/nowhere/{number}")
        told = tmp_path / f"told-{number}"
        names = ("AWS_SECRET_ACCESS_KEY", "HOME", "OMP_NUM_THREADS")
        monkeypatch.setattr(loader_module, "begin", Tell(told, names))
        with stderr_to(tmp_path / f"stderr-{number}"):
            list(build(shard_set, workers=1))
        found = json.loads(told.read_text())
        assert found["environment"] == {name: os.environ.get(name) for name in names}
        assert found["folder"] == str(where)
        assert found["path"] == sys.path
        assert found["package"] == streamgan.__file__
        assert (tmp_path / f"stderr-{number}").read_text() == "said by a worker\n"


def test_a_server_that_was_killed_is_a_data_error_and_the_next_loader_has_a_new_one(shard_set):
    expected = ids(build(shard_set, workers=0, stop_step=40))
    batches = iter(build(shard_set, stop_step=40))
    next(batches)
    (server,), workers = fork_servers(), loader_workers()
    server.kill()
    psutil.wait_procs([server], timeout=10)
    with pytest.raises(
        DataError, match=r"loader: the process that starts the workers is gone \(killed\?\); check"
    ):
        list(batches)
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert ids(build(shard_set, stop_step=40)) == expected
    assert [one.pid for one in fork_servers()] != [server.pid]


@pytest.mark.parametrize("how", ["ends", "cannot fork"])
def test_a_server_that_starts_nothing_is_a_data_error(shard_set, monkeypatch, capfd, how):
    if how == "ends":
        SERVER.stop()
        monkeypatch.setattr(processes, "_SERVE", "raise SystemExit('its own words')")
        message = r"loader: the process that starts the workers has ended; see what it said above"
    else:

        def refuse(descriptors: list[int]) -> None:
            Connection(os.dup(descriptors[1]), readable=False).send(-errno.EAGAIN)

        monkeypatch.setattr(SERVER, "fork", refuse)
        message = r"loader: no worker process can be started \(Resource temporarily unavailable\); raise"
    with pytest.raises(DataError, match=message):
        list(build(shard_set))
    monkeypatch.undo()
    assert ("its own words" in capfd.readouterr().err) == (how == "ends")
    assert len(list(build(shard_set))) == 8


def test_a_worker_that_is_killed_at_any_moment_is_a_data_error(shard_set):
    chance = random.Random(0)
    for _ in range(10):
        batches = iter(build(shard_set, stop_step=None))
        for _ in range(chance.randrange(1, 12)):
            next(batches)
        chance.choice(loader_workers()).kill()
        with pytest.raises(
            DataError, match=r"loader: DataLoader worker \d \(pid \d+\) is gone \(exit code -9\)"
        ):
            list(batches)


def test_a_worker_that_is_killed_is_a_data_error_where_a_thread_pins_memory(shard_set, monkeypatch):
    """What PyTorch asks before it starts that thread, and what the thread does, in place of a card."""
    device = torch.device("cpu")
    for name, answer in {
        "is_available": True,
        "current_accelerator": device,
        "current_device_index": 0,
        "set_device_index": None,
    }.items():
        monkeypatch.setattr(torch.accelerator, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", lambda data, device=None: data)
    let_workers_decode(monkeypatch, BlockAfter(4))
    batches = iter(build(shard_set, workers=1, stall_s=60, pin_memory=True))
    next(batches)
    assert any("pin_memory" in str(thread) for thread in threading.enumerate())
    loader_workers()[0].kill()
    with pytest.raises(
        DataError, match=r"DataLoader worker 0 \(pid \d+\) is gone \(exit code -9\), at work on"
    ):
        next(batches)


def test_a_worker_killed_in_the_middle_of_an_answer_is_a_data_error(shard_set, monkeypatch):
    monkeypatch.setattr(loader_module, "begin", Change("queues", "_Outbox.put", answer_half))
    with pytest.raises(DataError, match=r"DataLoader worker \d \(pid \d+\) is gone \(exit code -9\)"):
        list(build(shard_set))


def test_a_defect_in_the_first_words_of_a_worker_keeps_its_traceback(shard_set, monkeypatch):
    monkeypatch.setattr(loader_module, "begin", Change("nowhere", "a", 1))
    with pytest.raises(
        Defect,
        match=r"(?s)in loader process \d:.*Traceback.*No module named 'streamgan\.data\.workers\.nowhere'",
    ):
        list(build(shard_set))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_of_the_process_group_disturb_neither_server_nor_workers(shard_set, number):
    expected = ids(build(shard_set, workers=0))
    batches = iter(build(shard_set))
    found = ids([next(batches)])
    for one in (*fork_servers(), *loader_workers()):
        one.send_signal(number)
    assert found + ids(batches) == expected
    assert ids(build(shard_set)) == expected


def count(counters: list[Counters], *_: object) -> None:
    for number, one in enumerate(counters):
        one.write(0, (number,))


def test_a_process_gets_any_number_of_descriptors():
    counters = [Counters(1, 1) for _ in range(260)]
    workers = Workers(partial(count, counters))
    workers.Queue()  # of the results
    workers.Queue()
    process = workers.Process()
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [one.row(0)[0] for one in counters] == list(range(260))


def test_a_mixture_of_many_sets_is_read_by_workers(shard_set, tmp_path):
    sets = []
    for number in range(100):
        (tmp_path / f"{number}").symlink_to(shard_set)
        sets.append(Weighted(str(tmp_path / f"{number}"), 1))
    options = {"batch": 100, "size": 16, "stop_step": 2}
    assert ids(build_loader(sets, workers=2, **options)) == ids(build_loader(sets, workers=0, **options))


def test_an_index_that_is_replaced_while_it_is_read_is_told(shard_set, tmp_path):
    root = shutil.copytree(shard_set, tmp_path / "set")
    loader = build(root)
    assert len(list(loader)) == 8
    shutil.copy(root / "train.index", tmp_path / "other")
    (tmp_path / "other").replace(root / "train.index")
    with pytest.raises(DataError, match=r"train\.index: was replaced while the set is read; end what writes"):
        list(loader)
    assert len(list(build(root))) == 8


def test_a_loader_leaves_no_descriptors(shard_set):
    list(build(shard_set))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        batches = iter(build(shard_set))
        next(batches)
        assert len(os.listdir("/proc/self/fd")) > before
        del batches
        list(build(shard_set))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_fork_of_the_program_has_workers_of_its_own_and_ends_none_of_its_parents(shard_set):
    expected = ids(build(shard_set, workers=0))
    batches = iter(build(shard_set))
    found = ids([next(batches)])
    child = os.fork()
    if child == 0:
        server = SERVER.pid
        code = 1
        try:
            code = 0 if server is None and ids(build(shard_set)) == expected else 2
            SERVER.stop()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert found + ids(batches) == expected


def test_the_memory_of_an_index_from_an_address_is_shared(shard_set):
    reader = ShardReader(shard_set, "train")
    with website(shard_set) as site:
        files = RangedFiles(site.url, "train", reader.entry)
        rows = files.load_index()
        assert np.array_equal(rows, reader.index)
        assert np.shares_memory(rows, files.load_index())
    reader.close()


def test_a_worker_is_no_child_of_the_program(shard_set):
    before = set(psutil.Process().children())
    batches = iter(build(shard_set))
    next(batches)
    assert all(is_fork_server(child) for child in set(psutil.Process().children()) - before)
    assert len(loader_workers()) == 2


def test_the_thread_that_pins_memory_looks_up_at_once_while_workers_live():
    results = Results()
    _, (_outbox,) = results.__reduce__()  # of a worker that has nothing to say
    found = []
    thread = threading.Thread(target=lambda: found.append(results.get(timeout=600)), daemon=True)
    thread.start()
    results.put((None, None))
    thread.join(20)
    assert found == [(None, None)]
