"""The folder of a set while it is being made: what may lie in it, whose it is, who writes, what is done.

`.work/plan.json` says what is being made, `.work/unit-*.json` which units are complete. Nothing here removes
a file that another program made, and nothing is continued that differs in an option or a source file.

A prefix of a bucket has the same files. Instead of locks there are leases there, instead of temporary names
uploads that are not complete.
"""

import errno
import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.logs import say
from streamgan.core.storage.files import (
    NUM_REQUESTS,
    TEMPORARY_SUFFIX,
    file_sizes,
    json_bytes,
    list_names,
    parse_json,
    read_json,
    read_many,
    sync_directory,
    write_json,
)
from streamgan.core.storage.locks import is_at, try_lock, wait_for_lock
from streamgan.core.storage.objects import ObjectPath, Place
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
from streamgan.sharding.unit.writer import WORK, disk_errors, record_path

from .bucket_lease import WHOLE, is_lease, leased
from .parts import Part, forget_count

PLAN = "plan.json"
LOCK = "lock"
CLAIM_LOCK = "claim.lock"
_OURS = re.compile(
    rf"(({'|'.join(SPLITS)})(-\d{{6,}}\.(tar|idx)|\.index)|{re.escape(MANIFEST)}|{re.escape(QUARANTINE)})"
    rf"((\.[0-9a-f]+)?{re.escape(TEMPORARY_SUFFIX)})?|{re.escape(WORK)}"
)
_OF_UNIT = re.compile(r"\D+-(\d{6,})\.")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def refuse_foreign_files(root: Place) -> None:
    """ConfigError if `root` holds a file that no shard set has, or shards of nobody knows what."""
    names = list_names(root)
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
    names = list_names(root)
    return MANIFEST in names and WORK not in names


def make_work(root: Place) -> None:
    """The folder of the records; a bucket needs none."""
    work = root / WORK
    if not isinstance(work, ObjectPath):
        with disk_errors(root):
            work.mkdir(parents=True, exist_ok=True)


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
    sizes = file_sizes(root)
    sealed = {QUARANTINE: manifest.quarantine["sha256"]} if "sha256" in manifest.quarantine else {}
    wanted = {}
    for split, entry in manifest.splits.items():
        wanted[f"{split}.index"] = index_size(entry.samples)
        wanted |= {shard.name: shard.bytes for shard in entry.shards}
        sealed |= {idx_name(shard.name): shard.idx_sha256 for shard in entry.shards}
    bad = [name for name, size in wanted.items() if sizes.get(name) != size]
    bad += sealed.keys() - sizes.keys()
    if not bad:
        read = read_many([root / name for name in sealed])
        pairs = zip(sealed.items(), read, strict=True)
        bad = [name for (name, sha256), data in pairs if hashlib.sha256(data).hexdigest() != sha256]
    if bad:
        todo = "restore it, or empty the folder and run the same command again"
        raise DataError(root / min(bad), "missing, cut or changed in a finished set", todo)
    return manifest


def read_records(root: Place, units: Collection[int]) -> Iterator[dict[str, Any]]:
    """The record of each of `units` that is complete and whose shards are all there."""
    there = file_sizes(root / WORK)
    paths = [path for path in (record_path(root, unit) for unit in units) if path.name in there]
    sizes = file_sizes(root)
    for path, data in zip(paths, read_many(paths), strict=True):
        record = parse_json(path, data, todo="remove this file and run the same command again")
        if all(sizes.get(shard["name"]) == shard["bytes"] for shard in record["shards"].values()):
            yield record


StillOurs = Callable[[], None]


@contextmanager
def locked(work: Place, part: Part | None = None) -> Iterator[StillOurs]:
    """The only sharder in this folder, from here to the end of the block or of the process.

    Parts share the folder with other parts, and with nothing else; each is the only one of its number. Gives
    a function that raises if this is no longer so, as may happen to one that slept, and in a bucket alone.
    """
    if isinstance(work, ObjectPath):
        label = part.label if part else WHOLE
        with leased(work, label, conflicts=lambda other: _conflict(part, other)) as lease:
            if part is None:
                forget_count(work)
            yield lease.check
        return
    wait = "wait for it, or choose another --out"
    with ExitStack() as stack:
        if part is None:
            _hold(stack, work / LOCK, "another sharder is writing here", wait)
            forget_count(work)
        else:
            _hold(stack, work / LOCK, "a sharder without --part is writing here", wait, shared=True)
            what, path = f"part {part} is running already", work / f"part-{part.label}.lock"
            _hold(stack, path, what, "wait for it, or run another part")
        yield lambda: None


def _conflict(part: Part | None, other: str) -> str | None:
    """Why `part`, or a run without, may not begin while `other` lives; None if it may."""
    if part is None:
        return "another sharder is writing here"
    if other == WHOLE:
        return "a sharder without --part is writing here"
    return f"part {part} is running already" if other == part.label else None


def _hold(stack: ExitStack, path: Path, what: str, todo: str, *, shared: bool = False) -> None:
    """Lock a file of the work folder until `stack` is left, or ConfigError saying `what` and `todo`."""
    root = path.parents[1]
    busy = ConfigError(root, what, todo)
    try:
        lock = stack.enter_context(open(path, "ab"))  # noqa: SIM115 - the stack closes it
    except FileNotFoundError:  # a run that has just finished has removed the folder
        raise busy from None
    try:
        if not try_lock(lock, shared=shared):
            raise busy
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise busy from None
        say(f"{root}: this file system has no locks; make sure yourself that no other run writes here")
    if not is_at(lock, path):  # or only the file, between our open and our lock
        raise busy


def claim(root: Place, identity: dict[str, Any], num_units: int) -> None:
    """Say in the folder what is being made here, or check that it is this."""
    path = root / WORK / PLAN
    plan = {"format": FORMAT, "version": VERSION, "units": num_units, **identity}
    if isinstance(root, ObjectPath):
        if not (root / WORK / PLAN).exists():
            _refuse_strays(root)
            (root / WORK / PLAN).create(json_bytes(plan))  # or another part has
        return _refuse_difference(root, read_plan(root), identity)
    with ExitStack() as stack:
        # parts begin at the same time: one of them writes the plan, the others find it
        lock = stack.enter_context(open(root / WORK / CLAIM_LOCK, "ab"))
        wait_for_lock(lock)
        if not path.exists():
            _refuse_strays(root)
            write_json(path, plan)
            return None
    return _refuse_difference(root, read_plan(root), identity)


def _refuse_strays(root: Place) -> None:
    if stray := sorted(set(list_names(root)) - {WORK}):
        raise ConfigError(root, f"holds {stray[0]} but no {WORK}/{PLAN}", "choose an empty folder")


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

    if isinstance(root, ObjectPath):
        root.abort_uploads(lambda name: wanted(name.removeprefix(f"{WORK}/")))
        return
    for folder in (root, root / WORK):
        for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
            if wanted(path.name):
                path.unlink(missing_ok=True)


def remove_work(root: Place) -> None:
    """Remove the records, the lock last: whoever finds it later knows that nothing is left to keep."""
    if isinstance(root, ObjectPath):
        remove_temporary(root)  # workers of a run that was killed may have begun one after we had looked
        ours = [path for path in (root / WORK).iterdir() if not is_lease(path, WHOLE)]
        with ThreadPoolExecutor(NUM_REQUESTS) as pool:
            list(pool.map(lambda path: path.unlink(missing_ok=True), ours))
        return  # the lease goes when `locked` is left
    work = root / WORK
    for path in sorted(work.iterdir(), key=lambda path: path.name == LOCK):
        path.unlink()
    work.rmdir()
    sync_directory(root)
