"""The manifest of a set, of which a node cache keeps a copy: a warm cache serves while the server is down.

```
FOLDER/sets/SHA256.json   of an address: its manifest, and the commit that an address of the Hub stands for
```

These few kilobytes per set do not count towards the cap.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from streamgan.core.errors import DataError
from streamgan.core.logs import say
from streamgan.core.storage.address import is_remote, redacted
from streamgan.core.storage.files import atomic_write
from streamgan.core.storage.hub import pinned
from streamgan.core.storage.retry import error_kind, is_transient
from streamgan.data.format import Manifest, checked_manifest, read_manifest
from streamgan.data.reading import cache_folder

_unreachable: set[str] = set()  # addresses that this process has given up; it asks no more, and says so once
_read: dict[tuple[str, ...], Any] | None = None  # while `reading_once`
_T = TypeVar("_T")


@contextmanager
def reading_once() -> Iterator[None]:
    """Meanwhile the manifest of a set is read once: a run, whose validations open it again, sees one set."""
    global _read
    before, _read = _read, {} if _read is None else _read
    try:
        yield
    finally:
        _read = before


def once(make: Callable[[], _T], *key: str) -> _T:
    """What `make` gives; while `reading_once`, what it gave first for this key."""
    kept = {} if _read is None else _read
    if key not in kept:
        kept[key] = make()
    return kept[key]


def read_set(root: str, cache: str | Path | None) -> tuple[str, Manifest]:
    """(where its files lie, its manifest) of the set at `root`, a folder or an address.

    If the address cannot be reached, the copy in `cache` stands in, its digest checked, and a line says so.
    """
    return once(lambda: _read_set(root, cache), "manifest", root, str(cache))


def _read_set(root: str, cache: str | Path | None) -> tuple[str, Manifest]:
    folder = cache_folder(cache)
    if not is_remote(root) or folder is None:
        where = pinned(root)
        return where, read_manifest(where)
    copy = folder / "sets" / f"{hashlib.sha256(redacted(root).encode()).hexdigest()}.json"
    if root in _unreachable and (kept := _kept(copy, root)):
        return kept
    try:
        where = pinned(root)
        manifest = read_manifest(where)
    except DataError as error:
        cause = error.__cause__
        kept = _kept(copy, root) if cause and is_transient(cause) else None
        if not kept or not cause:
            raise
        _unreachable.add(root)
        digest = kept[1].digest[:12]
        say(f"{redacted(root)}: cannot be reached ({error_kind(cause)}); the cache goes on with set {digest}")
        return kept
    with suppress(OSError):  # whoever uses the cache will say what is wrong with it
        _keep(copy, manifest, commit=where if where != root else None)
    return where, manifest


def _keep(copy: Path, manifest: Manifest, *, commit: str | None) -> None:
    value = {"root": commit, "manifest": {"digest": manifest.digest, **manifest.body()}}
    text = json.dumps(value).encode()  # a large one takes seconds to indent
    if copy.exists() and copy.read_bytes() == text:
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(copy, token=f"{os.getpid():x}") as file:  # all ranks of a machine at once
        file.write(text)


def _kept(copy: Path, root: str) -> tuple[str, Manifest] | None:
    """What `_keep` has written for `root`; None if there is nothing, or nothing whole."""
    with suppress(OSError, ValueError, KeyError, TypeError, DataError):
        kept: dict[str, Any] = json.loads(copy.read_bytes())
        return kept["root"] or root, checked_manifest(copy, kept["manifest"])
    return None
