"""Addresses are taken apart in one place, and the two kinds of folder are asked in the same way."""

import pytest

from streamgan.core.errors import ConfigError
from streamgan.core.storage.address import HubAddress, is_remote, join, parse, parse_hub, redacted
from streamgan.core.storage.local import LocalPath
from streamgan.core.storage.place import ObjectPath, WebPath, place, readable
from streamgan.sharding.folder.bucket import BucketFolder
from streamgan.sharding.folder.local import LocalFolder
from streamgan.sharding.folder.state import Folder, folder_of

COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("text", "scheme", "root"),
    [
        ("photos/a", "", "photos"),
        ("s3://bucket/a/b", "s3", "bucket"),
        ("https://host:80/a?t=1", "https", "host:80"),
        ("hf://datasets/org/name@main/a", "hf", "datasets"),
        ("s3:/bucket", "", "s3:"),
    ],
)
def test_an_address_has_a_scheme_and_a_root(text, scheme, root):
    assert (parse(text).scheme, parse(text).root) == (scheme, root)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hf://datasets/org/name", HubAddress("dataset", "org/name", None, "")),
        ("hf://datasets/org/name@v1/a/b.tar", HubAddress("dataset", "org/name", "v1", "a/b.tar")),
        ("hf://datasets/org/name@refs/pr/3/a", HubAddress("dataset", "org/name", "refs/pr/3", "a")),
        ("hf://datasets/org/name@refs%2Fpr%2F3/a", HubAddress("dataset", "org/name", "refs/pr/3", "a")),
        (f"hf://org/model@{COMMIT}/w", HubAddress("model", "org/model", COMMIT, "w")),
        ("org/name", HubAddress("model", "org/name", None, "")),
        ("org/name@feature/x", HubAddress("model", "org/name", "feature/x", "")),
        ("org/name/deeper", None),
        ("./org/name", None),
        ("org/name@v1/*.parquet", None),
        ("s3://org/name", None),
        ("runs/a--b", None),  # the Hub refuses these names
        ("runs/a..b", None),
        ("runs/a-", None),
        ("-runs/a", None),
        ("runs/a.git", None),
        (f"runs/{'a' * 97}", None),
    ],
)
def test_addresses_of_the_hub(text, found):
    assert parse_hub(text, plain="model") == found


def test_a_repository_at_a_commit_is_an_address_again():
    for text in ("hf://datasets/org/name", "hf://org/name"):
        assert parse_hub(parse_hub(text).at(COMMIT)).revision == COMMIT


def test_what_cannot_be_read_is_refused_without_its_secrets():
    for text in ("ftp://user:secret@host/a", "://a", "http://user:secret@host/a"):
        with pytest.raises(ConfigError) as caught:
            is_remote(text)
        assert "secret" not in str(caught.value)
    assert redacted("https://user:secret@host/a?token=secret") == "https://host/a"
    assert redacted("https://user:secret@host?token=a/b#c") == "https://host"


@pytest.mark.parametrize("text", ["https://[x/y", "http://[::1/a", "https://host:port/a", "https:///a"])
def test_an_address_without_a_host_is_refused(text):
    with pytest.raises(ConfigError, match="names no host; write https://HOST/PATH"):
        is_remote(text)


def test_names_in_a_bucket_may_have_any_letter():
    for name in ("a#1.jpg", "b?2.jpg", "[c].jpg"):
        assert redacted(f"s3://bucket/{name}") == f"s3://bucket/{name}" == join("s3://bucket", name)
    assert join("gs://bucket/a?b", "c") == "gs://bucket/a?b/c"
    assert join("https://host/a?t=1", "50%?#.tar") == "https://host/a/50%25%3F%23.tar?t=1"
    assert redacted("s3://b[ab]/x") == "s3://b[ab]/x"


def test_a_place_is_what_its_address_says(tmp_path):
    assert place(tmp_path) == LocalPath(tmp_path) == place(str(tmp_path))
    assert place("s3://bucket/a/") == ObjectPath("s3://bucket/a") == readable("s3://bucket/a")
    assert readable("https://host/a?t=1") / "b" == WebPath("https://host/a/b?t=1")
    with pytest.raises(ConfigError, match="cannot hold a shard set"):
        place("https://host/a")


def test_a_disk_and_a_bucket_are_asked_in_the_same_way(tmp_path):
    calls = {name for name in vars(ObjectPath) if not name.startswith("_")}
    only_in_a_bucket = {"tree", "url", "modified"}
    assert [name for name in calls - only_in_a_bucket if not hasattr(LocalPath, name)] == []
    folders: list[Folder] = [folder_of(place(tmp_path)), folder_of(place("s3://bucket/a"))]
    assert [type(folder) for folder in folders] == [LocalFolder, BucketFolder]
