"""Servers on this machine that stand for object stores and websites, with faults on demand."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

Fault = Callable[[BaseHTTPRequestHandler, int], bool]


class Website:
    """Files under `root` by HTTP with Range. `fault(handler, n)` may answer the
    n-th GET of one range in its stead."""

    def __init__(self, root: Path):
        self.root, self.ranges, self.sent = root, True, 0
        self.fault: Fault | None = None
        self.requests: list[str] = []  # path and range of each GET
        lock = threading.Lock()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                request = f"{self.path} {self.headers.get('Range', '')}"
                with lock:
                    site.requests.append(request)
                    attempt = site.requests.count(request)
                if not (site.fault and site.fault(self, attempt)):
                    self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                asked = unquote(self.path.partition("?")[0])
                path = site.root / asked.lstrip("/")
                if "//" in asked or not path.is_file():  # to object stores and signatures it is another name
                    self.send_error(404)
                    return
                data = path.read_bytes()
                tag = hashlib.sha256(data).hexdigest()
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if wanted and site.ranges and int(wanted[1]) >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    data = b""
                elif wanted and site.ranges:
                    begin, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
                    data = data[begin:end]
                else:
                    self.send_response(200)
                if site.ranges:
                    self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{tag}"')
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    site.sent += len(data)
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def website(root: Path) -> Iterator[Website]:
    site = Website(root)
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        thread.join()
        site.server.server_close()
