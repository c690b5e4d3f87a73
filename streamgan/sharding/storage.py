"""Where source files lie: on this machine, or anywhere that fsspec can list and read by range.

A remote file is read in pieces (`core/remote.py`); nothing is downloaded whole but single images.
"""

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.remote import filesystem, is_remote, patiently, shown


@dataclass(frozen=True)
class Found:
    """A file of a source: its path or address, the folder it was asked for in, its size where that is known.

    `origin` names a pinned version of a repository of the Hub.
    """

    path: str
    base: str
    bytes: int | None = None
    origin: str | None = None


def find(source: str, suffixes: tuple[str, ...]) -> list[Found]:
    """Files under `source` (a file, a folder, a glob) that end in `suffixes`, or the one that is named."""
    return _find_remote(source, suffixes) if is_remote(source) else _find_local(source, suffixes)


def _wanted(relative: PurePosixPath, suffixes: tuple[str, ...]) -> bool:
    # download caches and desktops keep files of their own in dotted names
    dotted = any(part.startswith(".") for part in relative.parts)
    return not dotted and relative.name.lower().endswith(suffixes)


def _find_local(source: str, suffixes: tuple[str, ...]) -> list[Found]:
    matches = [source] if os.path.exists(source) else sorted(glob.glob(source, recursive=True))
    if not matches:
        raise DataError(source, "no such file or folder, nor a pattern that matches one", "check the path")
    found = []
    for match in map(os.path.abspath, matches):
        if not os.path.isdir(match):
            found.append(Found(match, os.path.dirname(match)))
            continue
        for folder, _, names in os.walk(match):
            relative = Path(folder).relative_to(match).as_posix()
            found += [
                Found(os.path.join(folder, name), match)
                for name in names
                if _wanted(PurePosixPath(relative, name), suffixes)
            ]
    return found


def _find_remote(source: str, suffixes: tuple[str, ...]) -> list[Found]:
    scheme = source.partition("://")[0]
    if scheme in ("http", "https"):  # there is no listing
        size = patiently(source, lambda: filesystem(source).info(source)["size"])
        if size is None:
            raise DataError(shown(source), "the server does not say its size", "download it first")
        return [Found(source, shown(source).rpartition("/")[0], size)]

    def listing() -> dict[str, Any]:
        fs = filesystem(source)
        fs.invalidate_cache()
        if any(letter in source for letter in "*?["):
            listed = fs.glob(source, detail=True)
            base = source[: min(source.find(letter) for letter in "*?[" if letter in source)]
            return {"base": base.rpartition("/")[0], "files": listed}
        listed = fs.find(source, detail=True)
        names = {fs._strip_protocol(source)}
        single = set(listed) == names
        return {"base": source.rstrip("/").rpartition("/")[0] if single else source, "files": listed}

    answer = patiently(source, listing)
    base = answer["base"].rstrip("/")
    root = PurePosixPath(base.partition("://")[2])
    files = [info for info in answer["files"].values() if info["type"] == "file"]
    if not files:
        raise DataError(source, "no such file or folder, or an empty one", "check the address")
    return [
        Found(f"{scheme}://{info['name']}", base, info["size"])
        for info in files
        if len(files) == 1 or _wanted(PurePosixPath(info["name"]).relative_to(root), suffixes)
    ]


def relative_names(folders_and_paths: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name by path: relative to the deepest folder that holds all `folders`, with forward slashes."""
    parts = {path: (_parts(folder), _parts(path)) for folder, path in folders_and_paths}
    schemes = {path.partition("://")[0] if "://" in path else "" for path in parts}
    if len(schemes) > 1:
        raise ConfigError(
            ", ".join(sorted(map(shown, parts))[:2]), "lie in different kinds of storage", "shard them apart"
        )
    levels = zip(*(folder for folder, _ in parts.values()), strict=False)
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return {path: "/".join(names[common:]) for path, (_, names) in parts.items()}


def _parts(path: str) -> list[str]:
    return (shown(path) if "://" in path else Path(path).as_posix()).split("/")
