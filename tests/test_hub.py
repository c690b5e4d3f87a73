"""Data sets of the Hub, against a small server that speaks its API: pinned, continued, refused."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from parquet_fixtures import pair, tree, write_rows, write_source

from streamgan.core.errors import ConfigError
from streamgan.core.storage.hub import hub_error
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.source.hub import find, is_hub, recorded
from streamgan.sharding.source.read import read_source

OLD, NEW, REPO = "a" * 40, "b" * 40, "org/photos"


class Hub:
    """Commits of one data set: folder by commit; `main` is the commit that no revision means."""

    def __init__(self, commits):
        self.commits, self.main, self.tokens, self.paths = commits, OLD, set(), []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.tokens.add(self.headers.get("Authorization"))
                path = unquote(urlsplit(self.path).path)
                hub.paths.append(path)
                if match := re.fullmatch(rf"/api/datasets/{REPO}(?:/revision/(.+))?", path):
                    commit = hub.commit(match[1])
                    about = {"id": REPO, "sha": commit, "private": False, "tags": [], "siblings": []}
                    self.json(about, commit)
                elif match := re.fullmatch(rf"/api/datasets/{REPO}/tree/([^/]+)(?:/(.*))?", path):
                    root = hub.commits[match[1]]
                    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
                    sizes = {str(file.relative_to(root)): file.stat().st_size for file in files}
                    about = {"type": "file", "oid": "0" * 40}
                    self.json(
                        [{**about, "path": name, "size": size} for name, size in sizes.items()], match[1]
                    )
                elif match := re.fullmatch(rf"/datasets/{REPO}/resolve/([^/]+)/(.*)", path):
                    self.send((hub.commits[match[1]] / match[2]).read_bytes())
                else:
                    self.json({"error": "Repository not found"}, None)

            def json(self, value, found) -> None:
                self.send(json.dumps(value).encode(), 200 if found else 404)

            def send(self, data: bytes, status: int = 200) -> None:
                wanted, whole = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")), len(data)
                if wanted:
                    data, status = data[int(wanted[1]) : int(wanted[2]) + 1], 206
                self.send_response(status)
                if wanted:
                    self.send_header("Content-Range", f"bytes {wanted[1]}-{wanted[2]}/{whole}")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def commit(self, revision):
        known = {None: self.main, "main": self.main, **{commit: commit for commit in self.commits}}
        return known.get(revision)

    def shard(self, *arguments) -> subprocess.CompletedProcess:
        return run_shard(f"http://127.0.0.1:{self.server.server_port}", *arguments)


def run_shard(address, *arguments) -> subprocess.CompletedProcess:
    """The command in a process of its own: the library reads the address of the Hub on import."""
    settings = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_secret"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "streamgan.cli", "shard", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **settings}, check=False
    )


@contextmanager
def serving(hub: Hub):
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()


@pytest.fixture(scope="module")
def commits(tmp_path_factory):
    old = tmp_path_factory.mktemp("old")
    write_source(old / "data", files=2)
    (old / "README.md").write_text("about")
    new = tmp_path_factory.mktemp("new")
    write_rows(new / "data" / "train-00000-of-00001.parquet", [pair(i) for i in range(9)])
    return {OLD: old, NEW: new}


@pytest.mark.slow
def test_a_data_set_is_pinned_and_the_same_command_continues_the_same_commit(commits, tmp_path):
    with serving(Hub(commits)) as hub:
        out = tmp_path / "set"
        arguments = ("--out", out, "--workers", "0", "--samples-per-shard", "10")
        done = hub.shard(REPO, *arguments)
        assert done.returncode == 0, done.stderr
        manifest = json.loads((out / "manifest.json").read_text())
        assert {file["from"] for file in manifest["source"]["files"]} == {f"hf://datasets/{REPO}@{OLD}"}
        options = ShardOptions(samples_per_shard=10)
        shard([str(commits[OLD])], tmp_path / "local", options=options, num_workers=0)
        shards = {name: data for name, data in tree(out).items() if name.endswith(".tar")}
        assert shards == {
            name: data for name, data in tree(tmp_path / "local").items() if name.endswith(".tar")
        }
        assert "Bearer hf_secret" in hub.tokens
        written = b"".join(tree(out).values()) + (done.stdout + done.stderr).encode()
        assert b"hf_secret" not in written

        hub.main = NEW
        again = hub.shard(REPO, *arguments)
        assert again.returncode == 0, again.stderr
        assert "nothing to do" in again.stdout
        other = hub.shard(f"hf://datasets/{REPO}@{NEW}", *arguments)
        assert other.returncode == 2
        assert "holds another set: source file" in other.stderr
        assert "Traceback" not in other.stderr


@pytest.mark.slow
def test_what_the_hub_does_not_hold_is_one_line(commits, tmp_path):
    with serving(Hub(commits)) as hub:
        done = hub.shard("org/none", "--out", tmp_path / "set", "--workers", "0")
    assert done.returncode == 3
    assert re.search(
        r"^error: org/none: no such folder here, and the Hub has no such data set.*404", done.stderr, re.M
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "set").exists()


def test_no_network_is_said_in_words(tmp_path):
    with socket.socket() as nobody:  # bound, so that nobody else listens there, and not listening
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = run_shard(address, "org/none", "--out", tmp_path / "set", "--workers", "0")
    assert done.returncode == 3
    assert "error: org/none: no such folder here, and the Hub cannot be reached: no network?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, "gives this model to those who accept its terms"),
        (RevisionNotFoundError, "has no such revision of this model"),
        (RepositoryNotFoundError, r"has no such model, or it is private \(HTTP 401\)"),
        (HfHubHTTPError, r"has no such model, or it is private \(HTTP 401\)"),
    ],
)
def test_what_the_hub_refuses_is_said_in_words(error, words):
    response = SimpleNamespace(status_code=401, headers={}, request=None)
    what, todo = hub_error(error("no", response=response), "model")
    assert re.search(words, what)
    assert todo


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("org/photos", True),
        ("org/photos@v1", True),
        ("hf://datasets/org/photos/data", True),
        ("./org/photos", False),
        ("org/photos.parquet", False),
        ("org/photos/data", False),
        ("/org/photos", False),
        ("org/*", False),
        ("photos", False),
        ("runs/a--b", False),
        ("runs/..", False),
    ],
)
def test_names_of_the_hub_are_told_from_paths(source, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub(source) == wanted
    (tmp_path / "org" / "photos").mkdir(parents=True)
    assert is_hub(source) == source.startswith(("hf://", "org/photos@"))


def test_the_commit_of_a_set_is_read_from_its_records(tmp_path):
    files = [{"name": "x", "from": f"hf://datasets/{REPO}@{OLD}"}, {"name": "y"}]
    (tmp_path / "good").write_text(json.dumps({"source": {"files": files}}))
    (tmp_path / "bad").write_text("{")
    assert recorded([tmp_path / "good", tmp_path / "bad", tmp_path / "none"]) == {REPO: OLD}


@pytest.mark.parametrize("source", ["hf://models/org", "hf://datasets/org/a--b", "hf://datasets/org/-a"])
def test_an_address_that_is_no_data_set_is_refused(source):
    with pytest.raises(ConfigError, match="not the address of a data set"):
        find(source, (".parquet",), {}, Counter())


@pytest.mark.parametrize(
    ("inside", "names"),
    [
        ("", ["data/cats/a.jpg", "data/dogs/[b].jpg", "old/data/cats/a.jpg"]),
        ("data", ["cats/a.jpg", "dogs/[b].jpg"]),
        ("data/*/*.jpg", ["cats/a.jpg", "dogs/[b].jpg"]),
        ("data/**/a.jpg", ["cats/a.jpg"]),
        ("**/a.jpg", ["data/cats/a.jpg", "old/data/cats/a.jpg"]),
        ("data/dogs/[b].jpg", ["[b].jpg"]),
    ],
)
def test_a_pattern_means_the_same_as_in_a_bucket_and_photos_keep_their_names(inside, names, monkeypatch):
    class Api:
        def dataset_info(self, repo, revision):
            return SimpleNamespace(sha=OLD)

        def list_repo_tree(self, repo, **_):
            paths = ["README.md", "data/cats/a.jpg", "data/dogs/[b].jpg", "old/data/cats/a.jpg"]
            return [SimpleNamespace(path=path, size=9) for path in paths]

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    [photos] = read_source([f"hf://datasets/{REPO}/{inside}"])
    assert [image.name for image in photos.images] == names
