"""What holds for the tests as a whole; what they share is in `shared.py`."""

import gc
from pathlib import Path

import pytest
from skips import SkipsAllowed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--allow-skips", type=Path, metavar="FILE", help="Fail if a test not named here is skipped."
    )


def pytest_configure(config: pytest.Config) -> None:
    """xdist's controller runs no test, and needs none of the libraries; but all skips are told there."""
    if config.option.allow_skips and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipsAllowed(config.option.allow_skips))
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.import_plugin("shared")


def pytest_collection_finish() -> None:
    """What is imported stays: no need to look through it again, or to copy it in each fork."""
    gc.collect()
    gc.freeze()
