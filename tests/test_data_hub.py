"""Shard sets on the Hub: one commit for the whole run, and a token that goes to the Hub alone."""

import json
import shutil
from contextlib import ExitStack

import pytest
from fault_fixtures import impatient
from remote_fixtures import website
from test_loader import assert_equal

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.hub import pinned, web_address
from streamgan.data.format import read_manifest
from streamgan.data.loader import build_loader

OLD, NEW = "a" * 40, "b" * 40
SETTINGS = {"batch": 8, "size": 16, "epochs": 1, "workers": 0}


class Hub:
    """The Hub's web addresses on this machine. Tars are redirected to a second server, as large files are."""

    def __init__(self, hub, cdn):
        self.hub, self.cdn, self.newest = hub, cdn, OLD
        self.seen: list[tuple[str, str, str | None]] = []  # server, path, token
        hub.fault, cdn.fault = self.answer, self.note

    def answer(self, handler, attempt) -> bool:
        self.seen.append(("hub", handler.path, handler.headers.get("Authorization")))
        if handler.path.startswith("/api/datasets/org/photos"):
            named = handler.path.partition("/revision/")[2]
            commit = self.newest if named in ("", "main") else named
            body = json.dumps({"id": "org/photos", "sha": commit}).encode()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        elif handler.path.endswith(".tar"):
            handler.send_response(302)
            handler.send_header("Location", f"{self.cdn.url}{handler.path}?signature=1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            return False
        return True

    def note(self, handler, attempt) -> bool:
        self.seen.append(("cdn", handler.path, handler.headers.get("Authorization")))
        return False


@pytest.fixture
def hub(shard_set, tmp_path, monkeypatch):
    """A data set of one commit, a copy of `shard_set` in its folder `set`."""
    impatient(monkeypatch)
    shutil.copytree(shard_set, tmp_path / f"web/datasets/org/photos/resolve/{OLD}/set")
    with ExitStack() as stack:
        sites = [stack.enter_context(website(tmp_path / "web")) for _ in range(2)]
        url = sites[0].url
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield Hub(*sites)


def test_files_of_the_hub_have_a_web_address(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    url, headers = web_address("hf://datasets/org/photos@refs/pr/3/shards/a.tar")
    assert url == f"{constants.ENDPOINT}/datasets/org/photos/resolve/refs%2Fpr%2F3/shards/a.tar"
    assert headers["authorization"] == "Bearer hf_secret"
    assert web_address("hf://datasets/org/photos/a.tar")[0].endswith(
        "/datasets/org/photos/resolve/main/a.tar"
    )
    assert web_address("https://a.org/b") == ("https://a.org/b", {})
    for address in ("hf://datasets/photos", "hf://datasets/org/photos/"):
        with pytest.raises(ConfigError, match="not an address on the Hub"):
            web_address(address)


@pytest.mark.parametrize("cache", ["folder", "none"])
def test_a_set_of_the_hub_is_read_and_the_token_goes_to_the_hub_alone(shard_set, hub, tmp_path, cache):
    where = tmp_path / "cache" if cache == "folder" else "none"
    loader = build_loader("hf://datasets/org/photos/set", cache=where, **SETTINGS)
    assert_equal(list(loader), list(build_loader(shard_set, **SETTINGS)))
    tokens = {server: {token for name, _, token in hub.seen if name == server} for server in ("hub", "cdn")}
    assert tokens == {"hub": {"Bearer hf_secret"}, "cdn": {None}}
    tars = {path.partition("?")[0].rpartition("/")[2] for server, path, _ in hub.seen if server == "cdn"}
    assert tars == {shard.name for shard in read_manifest(shard_set).splits["train"].shards}


def test_a_run_stays_with_the_commit_that_it_began_with(shard_set, hub, tmp_path):
    loader = build_loader("hf://datasets/org/photos@main/set", cache=tmp_path / "cache", **SETTINGS)
    hub.newest = NEW  # somebody pushes: of this commit there is nothing here
    assert_equal(list(loader), list(build_loader(shard_set, **SETTINGS)))
    paths = [path for _, path, _ in hub.seen if "/resolve/" in path]
    assert len(paths) > 4
    assert all(path.startswith(f"/datasets/org/photos/resolve/{OLD}/set/") for path in paths)
    with pytest.raises(DataError, match=rf"photos@{NEW}/set/manifest.json: cannot be read \(HTTP 404\)"):
        build_loader("hf://datasets/org/photos/set", cache=tmp_path / "cache", **SETTINGS)


def test_a_warm_cache_goes_on_with_its_commit_while_the_hub_is_down(shard_set, hub, tmp_path, capfd):
    warm = {"cache": tmp_path / "cache", **SETTINGS}
    expected = list(build_loader("hf://datasets/org/photos/set", **warm))

    def down(handler, attempt) -> bool:
        handler.send_error(503)
        return True

    hub.hub.fault = hub.cdn.fault = down
    assert_equal(list(build_loader("hf://datasets/org/photos/set", **warm)), expected)
    assert "hf://datasets/org/photos/set: cannot be reached (HTTP 503); the cache" in capfd.readouterr().err


def test_addresses_are_pinned_once(hub):
    assert pinned("hf://datasets/org/photos") == f"hf://datasets/org/photos@{OLD}"
    assert pinned("hf://datasets/org/photos@main/a/b/") == f"hf://datasets/org/photos@{OLD}/a/b"
    asked = len(hub.seen)
    for address in (f"hf://datasets/org/photos@{NEW}/set", "s3://bucket/set", "shards/photos"):
        assert pinned(address) == address
    assert len(hub.seen) == asked
