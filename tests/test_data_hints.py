"""Hints for local shards: what the next window needs, never more than fits, and nothing else."""

import os

import pytest

from streamgan.data import build_loader
from streamgan.data.prefetch import readahead as hints_module
from streamgan.data.prefetch.demand import Use
from streamgan.data.prefetch.readahead import Hints
from streamgan.data.shards.reader import ShardReader


class Needs:
    start = 0

    def __init__(self, uses, budget_bytes):
        self._uses, self.budget_bytes = uses, budget_bytes

    def uses(self):
        return iter(self._uses)


@pytest.fixture
def asked(monkeypatch):
    """Names of the shards that the kernel was asked to read, in order."""
    names = []

    def advise(descriptor, offset, length, advice):
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_WILLNEED)
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(hints_module, "_LOOK_S", 0.01)
    return names


def wait_for(condition) -> None:
    import time

    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_shards_are_asked_for_as_the_budget_goes(shard_set, asked):
    reader = ShardReader(shard_set, "train")
    sizes = [shard.bytes for shard in reader.entry.shards]
    names = [shard.name for shard in reader.entry.shards]
    uses = [Use(0, 1, 0), Use(0, 3, 1), Use(2, 4, 2), Use(4, 6, 3)]
    with Hints(reader.files, Needs(uses, sizes[0] + sizes[1] + sizes[2]), node_ranks=1) as hints:
        wait_for(lambda: asked == [names[2]])  # 0 and 1 are read from already, there is no room for 3
        hints.advance(1)
        assert asked == [names[2]]
        hints.advance(2)  # shard 0 is past
        wait_for(lambda: asked == [names[2], names[3]])
    reader.close()


def test_a_loader_asks_for_later_windows_and_reads_the_same(shard_set, asked):
    options = {"batch": 8, "size": 16, "workers": 1, "lanes": 1, "window": 1, "epochs": 2}
    loader = build_loader(shard_set, **options)
    ids = [batch.ids_B.tolist() for batch in loader]
    assert [batch.ids_B.tolist() for batch in loader] == ids  # again, with hints anew
    known = {shard.name for shard in ShardReader(shard_set, "train").entry.shards}
    assert set(asked) <= known  # on a busy machine the reader may be there before some hints
    assert len(set(asked)) >= len(known) // 2
    reader = ShardReader(shard_set, "train")
    first = reader._shard(ids[0][0])
    assert asked[0] != reader.entry.shards[first].name  # is read from already
    reader.close()


def test_a_shard_that_is_gone_is_left_to_the_reader(shard_set, asked, tmp_path):
    reader = ShardReader(shard_set, "train")
    hints = Hints(reader.files, Needs([], 1), node_ranks=1)
    reader.files.root = tmp_path
    hints._ask(0)
    assert asked == []
