"""A Google Cloud Storage server on this machine (gcp-storage-emulator, over HTTP) that fails on demand.

Two things the emulator lacks are put right before it sees a request: its parser of multipart uploads takes a
carriage return at the end of the data for its own, and it knows no `ifGenerationMatch`.
"""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

import fsspec
import pytest
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from streamgan.core.storage import store as clients

BUCKET = "shards"
Fault = Callable[[str, str], int | None]  # (method, path) -> the HTTP status that is the answer, or None


class Store:
    """`fault(method, path)` of a request gives an HTTP status instead of an answer, or None."""

    def __init__(self) -> None:
        self.objects = Storage(use_memory_fs=True)
        self.fault: Fault = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        buckets.create_bucket(BUCKET, self.objects)

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Every object below `prefix` with its bytes."""
        listed, _ = self.objects.get_file_list(BUCKET, f"{prefix}/")
        return {one["name"].removeprefix(f"{prefix}/"): self.read(one["name"]) for one in listed}

    def read(self, name: str) -> bytes:
        return self.objects.get_file(BUCKET, name)

    def has(self, name: str) -> bool:
        try:
            self.objects.get_file_obj(BUCKET, name)
        except NotFound:
            return False
        return True


class _Handler(RequestHandler):
    def __init__(self, store: Store, *args, **kwargs):
        self.store = store
        super().__init__(store.objects, *args, **kwargs)

    def parse_request(self) -> bool:
        """Read the head of a request; False if it has been answered."""
        if not super().parse_request():
            return False
        self.store.requests.append((self.command, self.path))
        if status := self.store.fault(self.command, self.path):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return self._refuse(status)
        query = parse_qs(urlsplit(self.path).query)
        if query.get("uploadType") == ["multipart"]:
            return self._as_plain_upload(query)
        return True

    def _as_plain_upload(self, query: dict[str, list[str]]) -> bool:
        boundary = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, about, rest = body.split(boundary, 2)
        name = about.partition(b'"name": "')[2].partition(b'"')[0].decode()
        data = rest.partition(b"\n\n")[2].removesuffix(b"\n" + boundary + b"--")
        if query.get("ifGenerationMatch") == ["0"] and self.store.has(name):
            return self._refuse(412)
        if not data:  # which it takes in parts alone
            self.rfile = io.BufferedReader(io.BytesIO(body))  # pyright: ignore[reportArgumentType]
            return True
        self.path = f"{urlsplit(self.path).path}?uploadType=media&name={quote(name, safe='')}"
        self.headers.replace_header("Content-Length", str(len(data)))
        self.headers.replace_header("Content-Type", "application/octet-stream")
        self.rfile = io.BufferedReader(io.BytesIO(data))  # pyright: ignore[reportArgumentType]
        return True

    def _refuse(self, status: int) -> bool:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False


@contextmanager
def gs_server() -> Iterator[Store]:
    """A server with the empty bucket BUCKET, to which this process and its children talk."""
    store = Store()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, store))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # would ask another service about buckets
        forget_clients()
        thread.start()
        try:
            yield store
        finally:
            forget_clients()
            server.shutdown()
            thread.join()
            server.server_close()


def forget_clients() -> None:
    """fsspec keeps a filesystem for life, and that its first endpoint."""
    clients._filesystem.cache_clear()
    fsspec.get_filesystem_class("gs").clear_instance_cache()
