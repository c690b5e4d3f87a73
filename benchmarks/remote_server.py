"""The servers that `remote.py` reads from, each a process of its own that ends when its stdin does.

    remote_server.py moto FOLDER                  every folder in FOLDER is a bucket
    remote_server.py nginx PROGRAM FOLDER WORK    a website of FOLDER; WORK is made for files of nginx's own
    remote_server.py proxy PORT LATENCY_MS        in front of a server: lets requests wait, and counts

Each says its port first. nginx answers the GET and HEAD of S3 too, with a folder for a bucket: all that
readers ask for. As S3 does it keeps connections, and it is not what they wait for; moto closes every
connection and takes some milliseconds of one interpreter for each request. The proxy knows where a request
begins, holds back its first byte for LATENCY_MS and passes on all that follows as it comes, answers too; a
new connection costs nothing more. At its end it says what has passed, as JSON.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PIECE_BYTES = 256 << 10
_START_S = 60
_NGINX = """daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 512; }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxied; fastcgi_temp_path {folder}/fast;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


class Traffic:
    """What has passed: requests, connections, and the bytes of each object."""

    def __init__(self) -> None:
        self.requests = self.connections = 0
        self._ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def add(self, path: str, begin: int, end: int) -> None:
        self._ranges[path].append((begin, end))

    def report(self) -> dict[str, int]:
        """`bytes` of bodies, and those of them that had been sent before: `twice`."""
        sent = sum(end - begin for ranges in self._ranges.values() for begin, end in ranges)
        different = 0
        for ranges in self._ranges.values():
            reached = 0
            for begin, end in sorted(ranges):
                different += max(0, end - max(begin, reached))
                reached = max(reached, end)
        counts = {"requests": self.requests, "connections": self.connections}
        return {**counts, "bytes": sent, "twice": sent - different}


async def _exchange(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    *,
    latency_s: float,
    traffic: Traffic,
) -> bool:
    """One request and its answer; whether another may follow."""
    asked = await client[0].readuntil(b"\r\n\r\n")
    traffic.requests += 1
    method, path, _ = asked.decode("latin-1").split(" ", 2)
    await asyncio.sleep(latency_s)
    server[1].write(asked)
    head = await server[0].readuntil(b"\r\n\r\n")
    client[1].write(head)
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    span = re.search(rb"(?i)\r\ncontent-range: *bytes (\d+)-", head)
    bodiless = method == "HEAD" or head.split(b" ", 2)[1] in (b"204", b"304")
    left = 0 if bodiless else int(length[1]) if length else sys.maxsize  # without a length: until it closes
    begin = at = int(span[1]) if span else 0
    try:
        while left and (data := await server[0].read(min(left, _PIECE_BYTES))):
            client[1].write(data)
            await client[1].drain()
            at, left = at + len(data), left - len(data)
    finally:
        if head.split(b" ", 2)[1].startswith(b"2"):
            traffic.add(path.partition("?")[0], begin, at)
    return left == 0


async def _proxy(port: int, latency_s: float) -> dict[str, int]:
    traffic = Traffic()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        traffic.connections += 1
        server = await asyncio.open_connection("127.0.0.1", port, limit=2 * _PIECE_BYTES)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # either end has gone
            while await _exchange((reader, writer), server, latency_s=latency_s, traffic=traffic):
                pass
        for end in (server[1], writer):
            end.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2 * _PIECE_BYTES, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    return traffic.report()


def _moto(folder: Path) -> None:
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def log(self, type: str, message: str, *args: Any) -> None:
            pass

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= credentials(server.server_port)
    client = boto3.client("s3")
    for bucket in folder.iterdir():
        client.create_bucket(Bucket=bucket.name)
        for path in bucket.rglob("*"):
            if path.is_file():
                key = path.relative_to(bucket).as_posix()
                client.put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes(), ACL="public-read")
    print(server.server_port, flush=True)
    sys.stdin.read()


def credentials(port: int) -> dict[str, str]:
    """The environment in which every library finds the S3 server of this machine at `port`."""
    endpoint = f"http://127.0.0.1:{port}"
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "S3_ENDPOINT_URL": endpoint,  # mosaicml-streaming's
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def _running(*words: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, __file__, *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.stdin.close()


@contextmanager
def moto(folder: Path) -> Iterator[int]:
    """The port of an S3 server with the folders in `folder` as buckets."""
    with _running("moto", folder) as (_, port):
        yield port


@contextmanager
def proxy(port: int, latency_ms: float) -> Iterator[tuple[int, dict[str, int]]]:
    """The port of a proxy before `port`; what passed is in the dict afterwards."""
    passed: dict[str, int] = {}
    with _running("proxy", port, latency_ms) as (process, own):
        assert process.stdin
        assert process.stdout
        try:
            yield own, passed
        finally:
            process.stdin.close()
            passed |= json.loads(process.stdout.read())


@contextmanager
def nginx(folder: Path, work: Path) -> Iterator[int]:
    """The port of an nginx that serves `folder`; FileNotFoundError if there is none on this machine."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not program:
        raise FileNotFoundError("nginx is not installed")
    with _running("nginx", program, folder, work) as (_, port):
        yield port


def _nginx(program: str, folder: Path, work: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    work.mkdir()
    (work / "nginx.conf").write_text(_NGINX.format(folder=work, root=folder, port=port))
    process = subprocess.Popen([program, "-p", work, "-c", work / "nginx.conf"])
    try:
        _await(port)
        print(port, flush=True)
        sys.stdin.read()
    finally:
        process.terminate()
        process.wait()


def _await(port: int) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def main(kind: str, *words: str) -> None:
    if kind == "moto":
        _moto(Path(words[0]))
    elif kind == "nginx":
        _nginx(words[0], *map(Path, words[1:]))
    else:
        print(json.dumps(asyncio.run(_proxy(int(words[0]), float(words[1]) / 1e3))))
    sys.stdout.flush()
    os._exit(0)  # connections that are kept would be waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
