"""`--allow-skips`: a test that is skipped without being named fails the run, which says which and why."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = """
import pytest

def test_good():
    pass

@pytest.mark.skip(reason="no such card")
def test_card():
    raise AssertionError

def test_kernel():
    pytest.skip("the kernel forbids it")

@pytest.mark.xfail(reason="known")
def test_known():
    raise AssertionError
"""
MODULE = "import pytest\npytest.importorskip('no_such_library')\n\ndef test_library(): pass\n"


@pytest.fixture
def run(tmp_path):
    """`run(allowed, *options)`: exit code and output of pytest; with None, any skip is allowed."""
    for name in ("conftest.py", "skips.py"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "shared.py").write_text("")
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)

    def run(allowed: str | None, *options: str) -> tuple[int, str]:
        if allowed is not None:
            (tmp_path / "allowed").write_text(allowed)
            options += ("--allow-skips", "allowed")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            ".",
            *options,
            ".",
        ]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    return run


ALL = """
test_module.py | no_such_library  # a library
test_some.py::test_card | no such card
test_some.py::test_k* | forbids
"""


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_a_skip_that_is_not_allowed_fails_the_run_and_is_named_with_its_reason(run, options):
    code, said = run("test_some.py::test_k* | another reason", *options)
    assert code == 1
    for line in (
        "test_some.py::test_card: no such card",
        "test_some.py::test_kernel: the kernel forbids it",
        "test_module.py: could not import 'no_such_library'",
    ):
        assert line in said
    assert "test_known" not in said


@pytest.mark.parametrize("allowed", [ALL, None])
def test_skips_that_are_allowed_pass(run, allowed):
    code, said = run(allowed)
    assert code == 0
    assert "1 passed, 3 skipped, 1 xfailed" in said
