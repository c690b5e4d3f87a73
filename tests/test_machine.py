import os

import pytest

from streamgan.core import machine
from streamgan.core.machine import usable_cores


@pytest.fixture(autouse=True)
def group(tmp_path, monkeypatch):
    """The control group of a process, without limits at first."""
    monkeypatch.setattr(machine, "GROUP", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("9900000 100000", 8),
    ],
)
def test_cores_are_no_more_than_the_limit_of_a_container_pays_for(group, monkeypatch, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (group / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores() == expected


def test_cores_are_those_of_the_affinity_mask_where_there_is_one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 3


@pytest.mark.parametrize(("counted", "expected"), [(64, 64), (None, 1)])
def test_cores_are_all_there_are_where_no_process_has_a_mask(monkeypatch, counted, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert usable_cores() == expected
