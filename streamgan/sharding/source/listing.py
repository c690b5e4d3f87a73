"""Where source files lie: on this machine, in a bucket, or, a single one, at a website.

A remote file is read in pieces (`core/storage/download.py`); nothing is downloaded whole but single images.
What a listing passes over is counted: in a `Counter` by ending, and by reason where the ending is not
the reason.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError, DataError, StreamganError, file_error
from streamgan.core.logs import say
from streamgan.core.storage.address import BUCKETS, is_address, is_remote, parse, redacted
from streamgan.core.storage.download import file_info
from streamgan.core.storage.store import object_tree
from streamgan.core.storage.walk import Walked, ending, look, walk

HIDDEN, PRIVATE, AGAIN = "hidden", "under a name with _", "the same file again"
_MAGIC = re.compile(r"(\*\*/?|\*|\?|\[[^]]+\])")
_REPAIR = "repair or remove it, so that nothing is lost in silence"


@dataclass(frozen=True)
class Found:
    """A file of a source: its path or address, the folder it was asked for in, its size, its `identity`.

    `origin` names a pinned version of a repository of the Hub.
    """

    path: str
    base: str
    bytes: int
    identity: str | None = None
    origin: str | None = None


def find(source: str, suffixes: tuple[str, ...], passed: Counter[str]) -> list[Found]:
    """Files under `source` (a file, a folder, a glob) that end in `suffixes`, or the one that is named."""
    return (_find_remote if is_remote(source) else _find_local)(source, suffixes, passed)


def identity_of(path: str | int) -> str:
    """What becomes another one when the file at a path, address or descriptor is replaced or written to.

    Here device, inode, size and time; elsewhere size and the version that the store gives, if it gives one.
    """
    if isinstance(path, str) and is_address(path):
        info = file_info(path)
        return _version(info) if info else "gone"
    status = os.stat(path)
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def refuse_changed(path: str, planned: str | None, now: str | None) -> None:
    """DataError if `now` is not the identity that the file had when the plan was made, as far as we know."""
    if planned is not None and now != planned:
        what = "the source has changed since the plan was made"
        raise DataError(redacted(path), what, "restore it, or start again in an empty folder")


def source_error(error: OSError, path: str, what: str = "cannot be read") -> StreamganError:
    """`error` while a file of the source is read, in one line."""
    if isinstance(error, FileNotFoundError) and not is_address(path):
        return DataError(path, "has disappeared since the source was listed", "restore it, or start again")
    return file_error(error, redacted(path), what=what)


def _version(info: dict[str, Any]) -> str:
    written = info["last_modified"]
    version = (info["e_tag"] or "").strip('"') or (
        written.isoformat() if written else ""
    )  # Azure lists it bare
    return f"{version} {info['size']}"


def reason_to_pass(name: str, suffixes: tuple[str, ...]) -> str | None:
    """Why a listing passes over `name`, relative to the folder that was asked for; None: it does not.

    Download caches and desktops keep files of their own in dotted names; Spark and its kin keep what is
    unfinished, and tables about tables, in names with _. Cameras do call their photos _DSC0001.JPG.
    """
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return HIDDEN
    if not name.lower().endswith(suffixes):
        return ending(name)
    table = name.lower().endswith(".parquet")
    private = (part == "_temporary" or (table and part.startswith("_") and "=" not in part) for part in parts)
    return PRIVATE if any(private) else None


def _find_local(source: str, suffixes: tuple[str, ...], passed: Counter[str]) -> list[Found]:
    if os.path.lexists(source):
        matches, by_name = [source], True
    else:
        _refuse_unreadable(source)
        matches = sorted(glob.glob(source, recursive=True))
        by_name = not glob.has_magic(ending(source)) and "." in ending(source)
    if not matches:
        raise DataError(source, "no such file or folder, nor a pattern that matches one", "check the path")
    found: list[Found] = []
    for match in map(os.path.abspath, matches):
        one = look(match)
        if one.kind == "folder":
            found += _walked(match, suffixes, passed)
        elif not by_name and (reason := reason_to_pass(os.path.basename(match), suffixes)):
            passed[reason] += 1
        elif one.kind != "file":
            raise _broken(one)
        else:
            found.append(_local(match, os.path.dirname(match)))
    return found


def _walked(root: str, suffixes: tuple[str, ...], passed: Counter[str]) -> Iterator[Found]:
    for one in walk(root):
        name = Path(os.path.relpath(one.path, root)).as_posix()
        reason = reason_to_pass(name, suffixes)
        if one.kind == "again":
            say(f"{one.path}: passed over: {one.detail}")
            passed["linked folders walked already"] += 1
        elif one.kind == "broken" or (one.kind == "special" and not reason):
            raise _broken(one)
        elif reason:
            passed[reason] += 1
        else:
            yield _local(one.path, root)


def _broken(one: Walked) -> StreamganError:
    if one.error is None or isinstance(one.error, FileNotFoundError) or os.path.islink(one.path):
        return DataError(one.path, one.detail, _REPAIR)
    return file_error(one.error, one.path, what="cannot be read")


def _local(path: str, base: str) -> Found:
    try:
        return Found(path, base, os.stat(path).st_size, identity_of(path))
    except OSError as error:
        raise source_error(error, path) from error


def _refuse_unreadable(pattern: str) -> None:
    """DataError for a folder that `pattern` goes through and that cannot be listed: glob says nothing."""
    parts = Path(pattern).parts
    for depth, part in enumerate(parts):
        if glob.has_magic(part):
            above = parts[: depth + (part == "**")]
            for folder in glob.glob(os.path.join(*above, "") if above else ".", recursive=True):
                if not os.access(folder, os.R_OK | os.X_OK):
                    raise DataError(folder, "cannot be listed", "change its permissions, or another pattern")


def _find_remote(source: str, suffixes: tuple[str, ...], passed: Counter[str]) -> list[Found]:
    listed = parse(source).scheme in BUCKETS  # elsewhere the one file is there, or it is an error
    source = source.rstrip("/") if listed else source
    if _MAGIC.search(parse(source).root) and listed:
        raise ConfigError(source, "is a pattern in the name of a bucket", "name the bucket")
    if info := file_info(source) if not listed or "/" in parse(source).rest else None:
        return [Found(source, redacted(source).rpartition("/")[0], info["size"], _version(info))]
    base, wanted = split_pattern(source)
    files = {name: info for name, info in object_tree(base).items() if wanted.fullmatch(name)}
    if not files:
        raise DataError(source, "no such file or folder, or an empty one", "check the address")
    found = []
    for name, info in sorted(files.items()):
        if len(files) > 1 and (reason := reason_to_pass(name, suffixes)):
            passed[reason] += 1
        else:
            found.append(Found(f"{base}/{name}", base, info["size"], _version(info)))
    return found


def split_pattern(glob_: str) -> tuple[str, re.Pattern[str]]:
    """The folder in which a glob begins to be one, and what the names of files below it must be."""
    magic = _MAGIC.search(glob_)
    folder = glob_[: magic.start()].rpartition("/")[0] if magic else glob_
    return folder, _pattern(glob_.removeprefix(folder).lstrip("/") or "**")


def _pattern(glob_: str) -> re.Pattern[str]:
    """A glob as bash has it: `*` and `?` stay in a folder, `**/` goes through any number of them."""
    meaning = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = _MAGIC.split(glob_)  # every second one is magic
    literal = [re.escape(part) for part in parts[::2]]
    magic = [meaning.get(part) or part.replace("[!", "[^") for part in parts[1::2]] + [""]
    try:
        return re.compile("".join(map("".join, zip(literal, magic, strict=True))), re.DOTALL)
    except re.error as error:
        raise ConfigError(glob_, f"is no pattern ({error.msg})", "check what is in brackets") from error


def without_copies(found: Iterable[Found], passed: Counter[str]) -> list[Found]:
    """Each file once, however many links lead to it, under the name of the file itself if that is there."""
    kept: dict[str, Found] = {}
    for one in {one.path: one for one in found}.values():
        key = one.identity if one.identity and not is_address(one.path) else one.path
        other = kept.setdefault(key, one)
        if other is not one:
            passed[AGAIN] += 1
            if os.path.islink(other.path) and not os.path.islink(one.path):
                kept[key] = one
    return list(kept.values())


def relative_names(folders_and_paths: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name by path: relative to the deepest folder that holds all `folders`, with forward slashes."""
    parts = {path: (_parts(folder), _parts(path)) for folder, path in folders_and_paths}
    schemes = {parse(path).scheme for path in parts}
    if len(schemes) > 1:
        raise ConfigError(
            ", ".join(sorted(map(redacted, parts))[:2]),
            "lie in different kinds of storage",
            "shard them separately",
        )
    levels = zip(*(folder for folder, _ in parts.values()), strict=False)
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    found = {path: "/".join(names[common:]) for path, (_, names) in parts.items()}
    for path, name in found.items():
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(path.encode("utf-8", "replace").decode(), "its name is not UTF-8", "rename it")
    return found


def _parts(path: str) -> list[str]:
    return (redacted(path) if is_address(path) else Path(path).as_posix()).split("/")
