"""A source and the set made of it in a folder, for tests that say `pytest_plugins = ["sharding_fixtures"]`.

OPTIONS of the module are those of the set; SOURCE, if it has one, is what `write_source` is told.
"""

from pathlib import Path

import pytest
from parquet_fixtures import tree, write_source

from streamgan.sharding.run import shard


@pytest.fixture(scope="module")
def source(request, tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"), **getattr(request.module, "SOURCE", {}))


@pytest.fixture(scope="module")
def wanted(request, source, tmp_path_factory) -> dict[str, bytes]:
    """The files of the set."""
    out = tmp_path_factory.mktemp("wanted") / "set"
    shard([str(source)], out, options=request.module.OPTIONS, num_workers=0)
    return tree(out)
