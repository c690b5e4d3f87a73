"""The servers of `soak_load.py`: a website, or an S3 server behind it, that break in one way or another."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache_stress import Served, _Handler


class Faulty(Served):
    """Serves a folder; the next range of a tar goes wrong in the way that `fault` says, once."""

    fault: str | None = None

    def __init__(self, root: Path, behind: int = 0):
        super().__init__(root)
        self.RequestHandlerClass = _FaultyHandler
        self.behind = behind  # port of the server that answers when nothing breaks; 0: this one does


class _FaultyHandler(_Handler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Faulty)
        fault = server.fault
        name = self.path.partition("?")[0].rpartition("/")[2]
        if fault is None or "Range" not in self.headers or not name.endswith(".tar"):
            return self.forward() if server.behind else super().do_GET()
        server.fault = None
        if fault == "busy":
            self.send_response(503)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        begin, end = (int(one) for one in self.headers["Range"].removeprefix("bytes=").split("-"))
        data = bytearray((server.root / name).read_bytes())
        size, body = len(data), data[begin : end + 1]
        if fault == "flip":
            body[len(body) // 2] ^= 4
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        self.send_header("Content-Length", str(len(body) // 2 if fault == "short" else len(body)))
        self.end_headers()
        self.wfile.write(body if fault == "flip" else body[: len(body) // 2])
        if fault == "stall":
            time.sleep(40)  # longer than anybody waits for a byte
        if fault in ("stall", "reset"):
            self.close_connection = True
        return None

    def forward(self) -> None:
        """Let the server behind this one answer."""
        server = self.server
        assert isinstance(server, Faulty)
        connection = http.client.HTTPConnection("127.0.0.1", server.behind)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for header, value in answer.getheaders():
            if header.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(header, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        connection.close()

    def do_HEAD(self) -> None:
        self.forward()


@contextmanager
def bucket(root: Path) -> Iterator[int]:
    """The port of an S3 server that holds the set at s3://soak/set."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    with subprocess.Popen([sys.executable, *words], **quiet) as process:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        while True:
            try:
                client.create_bucket(Bucket="soak")
                break
            except Exception:  # it starts
                time.sleep(0.5)
                if process.poll() is not None:
                    raise
        for path in root.iterdir():
            client.upload_file(str(path), "soak", f"set/{path.name}")
        yield port
        process.terminate()
