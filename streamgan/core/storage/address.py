"""Addresses, taken apart in this one place: of buckets, websites, the Hub, and paths of this machine.

Messages show an address `redacted`: it may hold a token.
"""

import re
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from streamgan.core.errors import ConfigError

BUCKETS = ("s3", "gs", "az", "abfs", "abfss")  # object stores, which can be written to
SCHEMES = (*BUCKETS, "https", "http", "hf")  # what can be read
_ESCAPED = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})  # in the path of a web address
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAME = r"\w(?:[\w.-]{0,94}\w)?"
_REPO = rf"(?P<repo>{_NAME}/{_NAME})"
_NO_REPO = re.compile(r"--|\.\.|\.git$")  # in its name the Hub has none of these
_ON_HUB = re.compile(
    rf"hf://(?P<kind>datasets/)?{_REPO}(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/@]+))?(?:/(?P<path>.*))?"
)
_PLAIN = re.compile(rf"{_REPO}(?:@(?P<revision>[^@*?\[\s]+))?")


class Address(NamedTuple):
    """`scheme` is "" for a path of this machine; `rest` is all that follows it and `://`."""

    scheme: str
    rest: str

    @property
    def root(self) -> str:
        """The bucket, or the host."""
        return self.rest.partition("/")[0]


def parse(text: str) -> Address:
    scheme, mark, rest = text.partition("://")
    return Address(scheme, rest) if mark else Address("", text)


def is_address(text: str) -> bool:
    """Whether `text` is no path of this machine, whatever else it may be."""
    return "://" in text


def is_remote(text: str) -> bool:
    """Whether `text` is an address; ConfigError if it is one that cannot be read."""
    if not is_address(text):
        return False
    address = parse(text)
    if address.scheme not in SCHEMES:
        what = f"cannot read {address.scheme}:// (it reads {', '.join(SCHEMES)})"
        raise ConfigError(redacted(text), what, "download it and name the folder")
    if address.scheme in ("https", "http"):
        try:
            parts = urlsplit(text)
            host = parts.hostname if parts.port != 0 else None
        except ValueError:  # a bracket of IPv6 without its other one, a port that is no number
            host = None
        if not host:
            raise ConfigError(redacted(text), "names no host", "write https://HOST/PATH")
        if address.scheme == "http" and host not in _LOOPBACK:
            raise ConfigError(redacted(text), f"plain http from {parse(redacted(text)).root}", "use https")
    return True


def parse_abfs(root: str) -> tuple[str, str]:
    """`CONTAINER@ACCOUNT.dfs.core.windows.net`, the root of abfs://, as (container, account).

    CONTAINER alone is one of the account that the environment names, as for az://.
    """
    container, _, host = root.partition("@")
    return container, host.partition(".")[0]


def redacted(text: str) -> str:
    """An address as it may stand in a message or a manifest: no user, no password, no query.

    In a bucket there are no queries: `?` and `#` are letters of names.
    """
    if not is_address(text) or text.startswith(("hf://", "abfs://", "abfss://")):
        return text
    scheme, rest = parse(text)
    root, slash, path = (rest if scheme in BUCKETS else re.split("[?#]", rest, maxsplit=1)[0]).partition("/")
    return f"{scheme}://{root.rpartition('@')[2]}{slash}{path}"


def join(root: str, name: str) -> str:
    """The address of the file `name` in the folder `root`; a query stays behind the path."""
    if parse(root).scheme in ("", "hf", *BUCKETS):
        return f"{root.rstrip('/')}/{name}"
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name.translate(_ESCAPED)}"))


class HubAddress(NamedTuple):
    """A repository of the Hugging Face Hub, or what lies at `path` in it. No revision: the main branch."""

    kind: Literal["dataset", "model"]
    repo: str
    revision: str | None
    path: str

    def at(self, commit: str) -> str:
        """The address of this repository at a commit, without the path."""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.repo}@{commit}"


def parse_hub(text: str, *, plain: Literal["dataset", "model"] | None = None) -> HubAddress | None:
    """`hf://[datasets/]ORG/NAME[@REVISION][/PATH]`; None if it is none.

    `plain` is what ORG/NAME[@REVISION] alone stands for, if that is an address here.
    """
    if match := _ON_HUB.fullmatch(text):
        kind: Literal["dataset", "model"] = "dataset" if match["kind"] else "model"
        revision, path = match["revision"], match["path"] or ""
    elif plain and (match := _PLAIN.fullmatch(text)):
        kind, revision, path = plain, match["revision"], ""
    else:
        return None
    if _NO_REPO.search(match["repo"]):
        return None
    return HubAddress(kind, match["repo"], unquote(revision) if revision else None, path)
