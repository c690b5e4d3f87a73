"""A Google Cloud Storage server on this machine that fails on demand.

Of Google's two protocols obstore speaks the one that is S3's with other names of headers (the XML API), so
this is the server of the S3 tests behind a translation of those names.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import s3_fixtures
from s3_fixtures import BUCKET, Environ, s3_server

__all__ = ["BUCKET", "Store", "gs_server"]


class Store:
    """`fault(method, path)` of a request gives an HTTP status instead of an answer, or None."""

    def __init__(self, behind: s3_fixtures.Store):
        self.tree, self.read = behind.tree, behind.read
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        behind.fault = self._translate

    def _translate(self, environ: Environ) -> Callable[[Environ], str] | None:
        method, path = environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        if "AWS4" in environ.get("HTTP_AUTHORIZATION", ""):
            return None  # a test that looks for itself
        self.requests.append((method, path))
        if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        if status := self.fault(method, path):
            return lambda environ: f"{status} On purpose\n"
        return None


@contextmanager
def gs_server() -> Iterator[Store]:
    """A server with the empty bucket BUCKET, to which this process and its children talk."""
    with s3_server() as behind, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", behind.url)
        yield Store(behind)
