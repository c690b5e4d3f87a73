"""The folder of a set while it is being made: what may lie in it, whose it is, who writes, what is done.

`.work/plan.json` says what is being made, `.work/unit-*.json` which units are complete. Nothing here removes
a file that another program made, and nothing is continued that differs in an option or a source file.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.files import TEMPORARY_SUFFIX, read_json, sync_directory, write_json
from streamgan.data.format import FORMAT, MANIFEST, QUARANTINE, SPLITS, VERSION, Manifest, read_manifest

from .writer import WORK, record_path

PLAN = "plan.json"
LOCK = "lock"
_OURS = re.compile(
    rf"(({'|'.join(SPLITS)})(-\d{{6,}}\.(tar|idx)|\.index)|{re.escape(MANIFEST)}|{re.escape(QUARANTINE)})"
    rf"({re.escape(TEMPORARY_SUFFIX)})?|{re.escape(WORK)}"
)


def refuse_foreign_files(root: Path) -> None:
    """ConfigError if `root` holds a file that no shard set has, or shards of nobody knows what."""
    names = sorted(os.listdir(root)) if root.is_dir() else []
    foreign = [name for name in names if not _OURS.fullmatch(name)]
    if not foreign and names and WORK not in names and MANIFEST not in names:
        foreign = names  # named like shards, but nobody says what they belong to
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise ConfigError(root, f"holds files that are not of this set ({shown})", "choose an empty folder")


def _difference(was: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first thing that differs between two identities, in words."""
    old, new = ({file["name"]: file for file in one["source"]["files"]} for one in (was, now))
    for name in sorted(old | new):
        if name not in new or name not in old:
            return f"source file {name} is {'gone' if name in old else 'new'}"
        for key in old[name]:
            if old[name][key] != new[name].get(key):
                return f"source file {name}: {key} is {new[name].get(key)}, was {old[name][key]}"
    for key, value in now["options"].items():
        if was["options"].get(key) != value:
            return f"option {key} is {value}, was {was['options'].get(key)}"
    return None


def _refuse_difference(root: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    if difference := _difference(was, now):
        raise ConfigError(
            root, f"holds another set: {difference}", "repeat the first command, or choose another --out"
        )


def finished_manifest(root: Path, identity: dict[str, Any]) -> Manifest:
    """The manifest of a finished set, if it is the one that is asked for and its shards are there."""
    manifest = read_manifest(root)
    _refuse_difference(root, {"source": manifest.source, "options": manifest.options}, identity)
    for split in manifest.splits.values():
        for entry in split.shards:
            if not _has_size(root / entry.name, entry.bytes):
                todo = "restore it, or empty the folder and run the same command again"
                raise DataError(root / entry.name, "missing or cut in a finished set", todo)
    return manifest


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def read_record(root: Path, unit: int) -> dict[str, Any] | None:
    """The record of a unit that is complete and whose shards are all there."""
    path = record_path(root, unit)
    if not path.exists():
        return None
    record = read_json(path, todo="remove this file and run the same command again")
    whole = all(_has_size(root / shard["name"], shard["bytes"]) for shard in record["shards"].values())
    return record if whole else None


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """The only sharder in this folder, from here to the end of the block or of the process."""
    busy = ConfigError(work.parent, "another sharder is writing here", "wait for it, or choose another --out")
    with open(work / LOCK, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        # a run that has just finished may have removed the file between our open and our lock
        if not (work / LOCK).exists() or os.fstat(lock.fileno()).st_ino != (work / LOCK).stat().st_ino:
            raise busy
        yield


def claim(root: Path, identity: dict[str, Any], num_units: int) -> None:
    """Say in the folder what is being made here, or check that it is this."""
    path = root / WORK / PLAN
    if not path.exists():
        if stray := sorted(set(os.listdir(root)) - {WORK}):
            raise ConfigError(root, f"holds {stray[0]} but no {WORK}/{PLAN}", "choose an empty folder")
        write_json(path, {"format": FORMAT, "version": VERSION, "units": num_units, **identity})
        return
    was = read_json(path, todo="empty the folder and start again")
    if was.get("version") != VERSION:
        what = f"begun by a release that writes format {was.get('version')} (this one writes {VERSION})"
        raise ConfigError(root, what, "empty the folder and start again")
    _refuse_difference(root, was, identity)


def remove_temporary(root: Path) -> None:
    """Remove what a killed run was writing; only the holder of the lock may."""
    for folder in (root, root / WORK):
        for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
            path.unlink()


def remove_work(root: Path) -> None:
    """Remove the records, the lock last: whoever finds it later knows that nothing is left to keep."""
    work = root / WORK
    for path in sorted(work.iterdir(), key=lambda path: path.name == LOCK):
        path.unlink()
    work.rmdir()
    sync_directory(root)
