import os
import tempfile
from multiprocessing import get_context

import pytest

from streamgan.core.counters import Counters


def write_a_row(counters: Counters, row: int) -> None:
    counters.write(row, (row, 10))
    counters.add(row, (5,), column=1)


@pytest.fixture
def shared_memory_files():
    before = set(os.listdir("/dev/shm"))
    yield
    assert set(os.listdir("/dev/shm")) == before


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["of Linux", "of a file"])
def test_each_process_writes_its_row_and_another_reads_them_all(
    method, kind, shared_memory_files, monkeypatch, tmp_path
):
    if kind == "of a file":
        monkeypatch.delattr(os, "memfd_create")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    context = get_context(method)
    counters = Counters(3, 2)
    writers = [context.Process(target=write_a_row, args=(counters, row)) for row in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert counters.all() == [[0, 0], [1, 15], [2, 15]]
    assert counters.row(2) == [2, 15]
    assert not list(tmp_path.iterdir())
