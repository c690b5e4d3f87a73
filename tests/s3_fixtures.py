"""An S3 server on this machine (moto, over HTTP) that fails on demand, below the level of any client."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "shards"
Environ = dict[str, Any]


def answer(status: str, code: str) -> Callable[[Environ], str]:
    """A fault that answers with an error of S3."""
    return lambda environ: f"{status}\n<Error><Code>{code}</Code><Message>{code}</Message></Error>"


def reset(environ: Environ) -> str:
    """A fault that reads half of what is sent, and resets the connection."""
    size = int(environ.get("CONTENT_LENGTH") or 0)
    environ["wsgi.input"].read(size // 2)
    connection = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # `close` would wait for the files that the handler has made of it
    return ""


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        pass

    def run_wsgi(self) -> None:
        with suppress(OSError, ValueError):  # of a connection that was reset on purpose
            super().run_wsgi()


class Store:
    """`fault(environ)` of a request gives what happens instead of an answer, or None."""

    def __init__(self, url: str):
        self.url = url
        self.fault: Callable[[Environ], Callable[[Environ], str] | None] = lambda environ: None
        self.client = boto3.client("s3", endpoint_url=url)

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Every object below `prefix` with its bytes."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
        return {one["Key"].removeprefix(f"{prefix}/"): self.read(one["Key"]) for one in listed}

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def open_uploads(self) -> list[str]:
        """Names of the uploads in parts that nobody has completed or given up."""
        return [one["Key"] for one in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


@contextmanager
def s3_server() -> Iterator[Store]:
    """A server with the empty bucket BUCKET, to which this process and its children talk."""
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: Environ, start_response: Any) -> Any:
        happens = store.fault(environ)
        if happens is None:
            return moto(environ, start_response)
        status, _, body = happens(environ).partition("\n")
        if not status:
            raise OSError("reset on purpose")
        with suppress(OSError):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body.encode()]

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    server.log = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # botocore's own retries would wait, and hide ours
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        thread.start()
        store = Store(settings["AWS_ENDPOINT_URL"])
        try:
            store.client.create_bucket(Bucket=BUCKET)
            yield store
        finally:
            store.client.close()
            server.shutdown()
            thread.join()
            server.server_close()
