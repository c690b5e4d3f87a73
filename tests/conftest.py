"""What holds for the tests as a whole; what they share is in `shared.py`."""

import gc

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """xdist's controller runs no test, and needs none of the libraries."""
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.import_plugin("shared")


def pytest_collection_finish() -> None:
    """What is imported stays: no need to look through it again, or to copy it in each fork."""
    gc.collect()
    gc.freeze()
