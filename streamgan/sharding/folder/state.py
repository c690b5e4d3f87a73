"""The folder of a set while it is being made: what may lie in it, whose it is, who writes, what is done.

`.work/plan.json` says what is being made, `.work/unit-*.json` which units are complete. Nothing here removes
a file that another program made, and nothing is continued that differs in an option or a source file.

A prefix of a bucket has the same files. Instead of locks there are leases there, instead of temporary names
uploads that are not complete: `Folder` is what the two have in common.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.files import json_bytes, parse_json, read_json
from streamgan.core.storage.local import TEMPORARY_SUFFIX, LocalPath
from streamgan.core.storage.place import ObjectPath, Place
from streamgan.data.format import (
    FORMAT,
    MANIFEST,
    QUARANTINE,
    SPLITS,
    VERSION,
    Manifest,
    idx_name,
    index_size,
    read_manifest,
)
from streamgan.sharding.unit.writer import WORK, record_name

from .bucket import BucketFolder
from .local import LocalFolder
from .parts import Part

PLAN = "plan.json"
_OURS = re.compile(
    rf"(({'|'.join(SPLITS)})(-\d{{6,}}\.(tar|idx)|\.index)|{re.escape(MANIFEST)}|{re.escape(QUARANTINE)})"
    rf"((\.[0-9a-f]+)?{re.escape(TEMPORARY_SUFFIX)})?|{re.escape(WORK)}"
)
_OF_UNIT = re.compile(r"\D+-(\d{6,})\.")


class Folder(Protocol):
    """What a sharder does in the folder of a set, beside making shards; on a disk or in a bucket."""

    def make(self) -> None:
        """Make the folder of the records."""
        ...

    def locked(self, part: Part | None = None) -> AbstractContextManager[Callable[[], None]]:
        """The only sharder in this folder, from here to the end of the block or of the process.

        Parts share the folder with other parts, and with nothing else; each is the only one of its number.
        Gives a function that raises if this is no longer so, as may happen to one that slept.
        """
        ...

    def claiming(self) -> AbstractContextManager[None]:
        """Parts begin at the same time: one of them writes the plan, the others find it."""
        ...

    def workers_lock(self, label: str = "") -> Path | None:
        """What the workers of a run, or of the part `label`, hold as long as they live."""
        ...

    def wait_for_orphans(self, label: str = "") -> None:
        """Return when no worker of an earlier, killed run is left; of a part with `label`."""
        ...

    def remove_unfinished(self, wanted: Callable[[str], bool]) -> None:
        """Remove what a killed run was writing, of names that are `wanted`; only who is `locked` may."""
        ...

    def remove_work(self) -> None:
        """Remove the records of a set that is published."""
        ...


def folder_of(root: Place) -> Folder:
    return BucketFolder(root) if isinstance(root, ObjectPath) else LocalFolder(LocalPath(str(root)))


def refuse_foreign_files(root: Place) -> None:
    """ConfigError if `root` holds a file that no shard set has, or shards of nobody knows what."""
    names = root.names()
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


def _refuse_difference(root: Place, was: dict[str, Any], now: dict[str, Any]) -> None:
    if difference := _difference(was, now):
        raise ConfigError(
            root, f"holds another set: {difference}", "repeat the first command, or choose another --out"
        )


def is_published(root: Place) -> bool:
    """Whether the folder holds a finished set and nothing of a run."""
    names = root.names()
    return MANIFEST in names and WORK not in names


def finished_manifest(root: Place, identity: dict[str, Any]) -> Manifest:
    """As `whole_manifest`, of the set that is asked for; ConfigError naming the difference otherwise."""
    manifest = whole_manifest(root)
    _refuse_difference(root, {"source": manifest.source, "options": manifest.options}, identity)
    return manifest


def whole_manifest(root: Place) -> Manifest:
    """The manifest of a finished set; DataError naming a file of it that is missing or cut.

    Tars and packed indexes are told by their size, the other files, which are small, by their sha256.
    """
    manifest = read_manifest(root)
    sizes = root.sizes()
    sealed = {QUARANTINE: manifest.quarantine["sha256"]} if "sha256" in manifest.quarantine else {}
    wanted = {}
    for split, entry in manifest.splits.items():
        wanted[f"{split}.index"] = index_size(entry.samples)
        wanted |= {shard.name: shard.bytes for shard in entry.shards}
        sealed |= {idx_name(shard.name): shard.idx_sha256 for shard in entry.shards}
    bad = [name for name, size in wanted.items() if sizes.get(name) != size]
    bad += sealed.keys() - sizes.keys()
    if not bad:
        read = root.read_many(list(sealed))
        pairs = zip(sealed.items(), read, strict=True)
        bad = [name for (name, sha256), data in pairs if hashlib.sha256(data).hexdigest() != sha256]
    if bad:
        todo = "restore it, or empty the folder and run the same command again"
        raise DataError(root / min(bad), "missing, cut or changed in a finished set", todo)
    return manifest


def read_records(root: Place, units: Collection[int]) -> Iterator[dict[str, Any]]:
    """The record of each of `units` that is complete and whose shards are all there."""
    work, sizes = root / WORK, root.sizes()
    there = work.sizes()
    names = [name for name in map(record_name, units) if name in there]
    for name, data in zip(names, work.read_many(names), strict=True):
        record = parse_json(work / name, data, todo="remove this file and run the same command again")
        if all(sizes.get(shard["name"]) == shard["bytes"] for shard in record["shards"].values()):
            yield record


def claim(root: Place, identity: dict[str, Any], num_units: int) -> None:
    """Say in the folder what is being made here, or check that it is this."""
    plan = root / WORK / PLAN
    with folder_of(root).claiming():
        if not plan.exists():
            if stray := sorted(set(root.names()) - {WORK}):
                what = f"holds {stray[0]} but no {WORK}/{PLAN}"
                raise ConfigError(root, what, "choose an empty folder")
            plan.create(json_bytes({"format": FORMAT, "version": VERSION, "units": num_units, **identity}))
    _refuse_difference(root, read_plan(root), identity)


def read_plan(root: Place) -> dict[str, Any]:
    """What is being made in the folder: `units` (how many) and the identity of the set."""
    todo = "check the path, or begin with `streamgan shard SOURCE --out DIR`"
    plan = read_json(root / WORK / PLAN, todo=todo)
    if plan.get("version") != VERSION:
        what = f"begun by a release that writes format {plan.get('version')} (this one writes {VERSION})"
        raise ConfigError(root, what, "empty the folder and start again")
    return plan


def remove_temporary(root: Place, units: Collection[int] | None = None) -> None:
    """Remove what a killed run was writing: everything, or of these units; only who holds their lock may."""

    def wanted(name: str) -> bool:
        unit = _OF_UNIT.match(name)
        return units is None or bool(unit and int(unit[1]) in units)

    folder_of(root).remove_unfinished(wanted)
