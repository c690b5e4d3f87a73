"""The folder of a set while it is being made: what may lie in it, whose it is, who writes, what is done.

`.work/plan.json` says what is being made, `.work/unit-*.json` which units are complete. Nothing here removes
a file that another program made, and nothing is continued that differs in an option or a source file.
"""

import errno
import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.files import TEMPORARY_SUFFIX, read_json, sync_directory, write_json
from streamgan.core.logs import say
from streamgan.data.format import FORMAT, MANIFEST, QUARANTINE, SPLITS, VERSION, Manifest, read_manifest

from .parts import Part, forget_count
from .writer import WORK, record_path

PLAN = "plan.json"
LOCK = "lock"
CLAIM_LOCK = "claim.lock"
_OURS = re.compile(
    rf"(({'|'.join(SPLITS)})(-\d{{6,}}\.(tar|idx)|\.index)|{re.escape(MANIFEST)}|{re.escape(QUARANTINE)})"
    rf"((\.[0-9a-f]+)?{re.escape(TEMPORARY_SUFFIX)})?|{re.escape(WORK)}"
)
_OF_UNIT = re.compile(r"\D+-(\d{6,})\.")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


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
def locked(work: Path, part: Part | None = None) -> Iterator[None]:
    """The only sharder in this folder, from here to the end of the block or of the process.

    Parts share the folder with other parts, and with nothing else; each is the only one of its number.
    """
    wait = "wait for it, or choose another --out"
    with ExitStack() as stack:
        if part is None:
            _hold(stack, work, LOCK, fcntl.LOCK_EX, "another sharder is writing here", wait)
            forget_count(work)
        else:
            _hold(stack, work, LOCK, fcntl.LOCK_SH, "a sharder without --part is writing here", wait)
            what, name = f"part {part} is running already", f"part-{part.label}.lock"
            _hold(stack, work, name, fcntl.LOCK_EX, what, "wait for it, or run another part")
        yield


def _hold(stack: ExitStack, work: Path, name: str, mode: int, what: str, todo: str) -> None:
    """Lock a file of `work` until `stack` is left, or ConfigError saying `what` and `todo`."""
    busy = ConfigError(work.parent, what, todo)
    try:
        lock = stack.enter_context(open(work / name, "ab"))  # noqa: SIM115 - the stack closes it
    except FileNotFoundError:  # a run that has just finished has removed the folder
        raise busy from None
    try:
        fcntl.flock(lock, mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise busy from None
        say(f"{work.parent}: this file system has no locks; make sure yourself that no other run writes here")
    # or only the file, between our open and our lock
    if not (work / name).exists() or os.fstat(lock.fileno()).st_ino != (work / name).stat().st_ino:
        raise busy


def claim(root: Path, identity: dict[str, Any], num_units: int) -> None:
    """Say in the folder what is being made here, or check that it is this."""
    path = root / WORK / PLAN
    with ExitStack() as stack:
        # parts begin at the same time: one of them writes the plan, the others find it
        lock = stack.enter_context(open(root / WORK / CLAIM_LOCK, "ab"))
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            if stray := sorted(set(os.listdir(root)) - {WORK}):
                raise ConfigError(root, f"holds {stray[0]} but no {WORK}/{PLAN}", "choose an empty folder")
            write_json(path, {"format": FORMAT, "version": VERSION, "units": num_units, **identity})
            return
    _refuse_difference(root, read_plan(root), identity)


def read_plan(root: Path) -> dict[str, Any]:
    """What is being made in the folder: `units` (how many) and the identity of the set."""
    todo = "check the path, or begin with `streamgan shard SOURCE --out DIR`"
    plan = read_json(root / WORK / PLAN, todo=todo)
    if plan.get("version") != VERSION:
        what = f"begun by a release that writes format {plan.get('version')} (this one writes {VERSION})"
        raise ConfigError(root, what, "empty the folder and start again")
    return plan


def remove_temporary(root: Path, units: Collection[int] | None = None) -> None:
    """Remove what a killed run was writing: everything, or of these units; only who holds their lock may."""
    for folder in (root, root / WORK):
        for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
            unit = _OF_UNIT.match(path.name)
            if units is None or (unit and int(unit[1]) in units):
                path.unlink(missing_ok=True)


def remove_work(root: Path) -> None:
    """Remove the records, the lock last: whoever finds it later knows that nothing is left to keep."""
    work = root / WORK
    for path in sorted(work.iterdir(), key=lambda path: path.name == LOCK):
        path.unlink()
    work.rmdir()
    sync_directory(root)
