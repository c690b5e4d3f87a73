"""Azure Blob Storage on this machine: azurite, Microsoft's own emulator (`npm install azurite`)."""

import base64
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

CONTAINER = "shards"
# The account that every azurite has
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-08-06"
_START_S = 30.0


def program() -> str | None:
    """azurite's server of blobs, on the PATH or in node_modules of this project."""
    beside = Path(__file__).parents[1] / "node_modules" / ".bin"
    return shutil.which("azurite-blob", path=os.pathsep.join([os.environ["PATH"], str(beside)]))


@contextmanager
def az_server() -> Iterator[None]:
    """A server with the empty container CONTAINER, to which this process and its children talk."""
    command = program()
    if not command:
        pytest.skip("NOT TESTED, Azure: azurite is not installed (npm install azurite)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    started = [command, *words, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    stated = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(started, stdout=subprocess.DEVNULL) as server,
    ):
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", stated)
        try:
            _wait_for(port)
            _make_container(port)
            yield
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            assert time.monotonic() < deadline, "azurite does not start"
            time.sleep(0.05)


def _make_container(port: int) -> None:
    """obstore makes none: one request, signed as "Authorize with Shared Key" of Azure's pages says."""
    date = formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:{_VERSION}\n"
    text = "PUT" + "\n" * 12 + headers + f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    signed = {
        "x-ms-date": date,
        "x-ms-version": _VERSION,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"/{ACCOUNT}/{CONTAINER}?restype=container", headers=signed)
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()
