"""`make` sets up .venv for the Python that is asked for, and notices one of another version."""

import os
import shutil
import subprocess
import sys

import pytest
from training import ROOT

HERE = "{}.{}".format(*sys.version_info)


@pytest.fixture
def checkout(tmp_path):
    """A function: what `make install` would do where .venv is of Python `version` (None: there is none)."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    def plan(version: str | None, *words: str) -> str:
        if version:
            python = tmp_path / ".venv" / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text(f"#!/bin/sh\necho {version}\n")
            python.chmod(0o755)
            (tmp_path / ".venv" / ".installed").touch()
        command = ["make", "--dry-run", "install", *words]
        alone = {"PATH": os.environ["PATH"]}  # make takes every other variable as one of its own
        done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, check=True)
        return done.stdout

    return plan


def test_a_clean_checkout_gets_an_environment_of_the_python_asked_for(checkout):
    assert f"{sys.executable} -m venv --clear .venv" in checkout(None, f"PYTHON={sys.executable}")


def test_python3_is_used_where_nobody_asks(checkout):
    assert "python3 -m venv --clear .venv" in checkout(None)


def test_an_environment_of_another_python_is_made_anew(checkout):
    lines = checkout("3.9", f"PYTHON={sys.executable}")
    assert f"{sys.executable} -m venv --clear .venv" in lines
    assert ".venv/bin/pip install" in lines


@pytest.mark.parametrize("words", [[], [f"PYTHON={sys.executable}"]])
def test_an_environment_of_this_python_stays(checkout, words):
    assert "Nothing to be done" in checkout(HERE, *words)


def test_the_environment_that_is_there_stays_where_nobody_asks(checkout):
    assert "Nothing to be done" in checkout("3.99")


def test_what_is_installed_for_more_tests_is_installed_where_it_is_not(checkout):
    lines = checkout(HERE, "EXTRA=ci")
    assert ".venv/bin/pip install --editable '.[ci]'" in lines
    assert "--clear" not in lines


def test_an_environment_whose_python_is_gone_is_made_anew(checkout, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "gone")
    (tmp_path / ".venv" / ".installed").touch()
    assert "python3 -m venv --clear .venv" in checkout(None)
