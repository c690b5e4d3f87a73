"""Models pushed to the Hub and taken from it, against a small server that speaks its API."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from test_colorize import save_generator

from streamgan.core.storage.hub import is_hub_model

REPO, COMMIT = "org/old-photos", "c" * 40


class Handler(BaseHTTPRequestHandler):
    """One model repository in memory: created, committed to, read."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            assert json.loads(body)["name"] == "old-photos"
            self.json({"url": f"http://127.0.0.1/{REPO}", "name": REPO})
        elif path == "/api/validate-yaml":
            assert "license: apache-2.0" in json.loads(body)["content"]
            self.json({"errors": [], "warnings": []})
        elif path == f"/api/models/{REPO}/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self.json({"files": modes})
        elif path == f"/api/models/{REPO}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://127.0.0.1/{REPO}/commit/{COMMIT}"
            self.json({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        else:
            self.json({"error": f"no such call {path}"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        names = sorted(self.files)
        if re.fullmatch(rf"/api/models/{REPO}(/revision/.+)?", path):
            siblings = [{"rfilename": name} for name in names]
            self.json({"id": REPO, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        elif path == f"/api/models/{REPO}/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": n, "size": len(self.files[n]), "oid": "0" * 40} for n in names
            ]
            self.json(entries)
        elif (found := re.fullmatch(rf"/{REPO}/resolve/[^/]+/(.+)", path)) and found[1] in self.files:
            self.send(self.files[found[1]])
        else:
            self.json({"error": "Repository not found"}, 404)

    def json(self, value: object, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status)

    def send(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving():
    handler = type("OneRepository", (Handler,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield handler.files, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SCRIPT = f"""
import sys
from PIL import Image
import streamgan
from streamgan.core.errors import CheckpointError

gray = Image.open(sys.argv[2])
local = streamgan.Colorizer.load(sys.argv[1], device="cpu")
local.push_to_hub({REPO!r})
taken = [streamgan.Colorizer.from_pretrained({REPO!r}, device="cpu")]
taken += [streamgan.Colorizer.load(name, device="cpu") for name in ({REPO!r}, {REPO!r} + "@" + {COMMIT!r})]
assert all(one(gray).tobytes() == local(gray).tobytes() for one in taken)
assert all(sys.argv[1] != str(one.weights.path) for one in taken)
try:
    streamgan.Colorizer.load("org/none")
except CheckpointError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_model_is_pushed_and_colours_under_its_name_on_the_hub(photo, tmp_path):
    model = save_generator(tmp_path / "w.safetensors")
    photo(0).convert("L").save(tmp_path / "gray.png")
    with serving() as (files, address):
        files["trainer.pt"] = b"a pickle"
        # in a process of its own: the library reads the address of the Hub on import
        settings = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "hf")}
        settings |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", SCRIPT, str(model), str(tmp_path / "gray.png")]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(
        "org/none: no run or file here, and the Hub has no such model, or it is private .HTTP 404.; check",
        done.stdout,
    )
    assert files["model.safetensors"] == model.read_bytes()
    assert {"README.md", "LICENSE", "config.json"} <= set(files)
    assert f"# {REPO.split('/')[1]}" in files["README.md"].decode()
    assert not list((tmp_path / "hf").rglob("trainer.pt"))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("org/model", True), ("org/model@v1", True), ("./org/model", False), ("/org/model", False),
        ("model", False), ("org/model.safetensors", False), ("org/model/deeper", False), ("../model", False),
    ],
)  # fmt: skip
def test_names_of_the_hub_are_told_from_paths(name, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_model(name) == wanted
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert is_hub_model(name) == (wanted and "@" in name)
