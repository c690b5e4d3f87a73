"""`streamgan index`: tars that other programs made become a shard set as they are.

The tars are not touched; what is written are the indexes and the manifest, beside the tars or in a folder of
links to them. Images that only `streamgan shard` could make plain are rejected like bad rows. What neither
enters the set nor the quarantine is counted.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.logs import progress
from streamgan.core.machine import usable_cores
from streamgan.core.storage.files import atomic_write, json_bytes, read_json
from streamgan.core.storage.local import TEMPORARY_SUFFIX, LocalPath
from streamgan.core.storage.place import ObjectPath, Place, place
from streamgan.data.format import (
    FORMAT,
    INDEX_DTYPE,
    MANIFEST,
    QUARANTINE,
    SPLITS,
    Manifest,
    ShardEntry,
    SplitEntry,
    idx_bytes,
    idx_name,
    index_bytes,
    pack_index,
    write_manifest,
)
from streamgan.sharding.folder.publish import allowed
from streamgan.sharding.unit.writer import WORK, disk_errors

from .find_tars import find_tars
from .tars import Scan, rejection, scan_tar

KIND = "foreign"
_IMAGES = ("jpg", "jpeg", "png", "webp")
COLOR = tuple(f"{stem}{ending}" for stem in ("color.", "", "image.") for ending in _IMAGES)
GRAY = tuple(f"gray.{ending}" for ending in _IMAGES)
_SPLIT = re.compile(r"(?:^|[^A-Za-z])(train|validation|val|test)(?![A-Za-z])")
_OURS = {  # how these files begin
    ".idx": f'{{"format": "{FORMAT}"'.encode(),
    ".index": b"\x93NUMPY",
    ".jsonl": b'{"file": ',
}


@dataclass(frozen=True)
class IndexResult:
    """What `index` leaves. `passed_over` counts, by ending or a word, what the set does not use."""

    manifest: Manifest
    nothing_to_do: bool
    passed_over: dict[str, int]
    empty_tars: list[str]
    repeated_keys: int  # that stand in more than one tar; all of their samples are kept


def index(
    folder: Path | str,
    *,
    out: Path | str | None = None,
    color: Sequence[str] = (),
    gray: Sequence[str] | None = (),
    split: Literal["train", "val", "test"] | None = None,
    max_bad: float = 0.01,
) -> IndexResult:
    """Make a set of the tars in `folder`, indexed beside them or, those of a disk, in the folder `out`.

    `color` and `gray` are endings of member names, tried in their order; without twins gray is None. Splits
    stand in the names of the tars; where none has one, all are `split`, or train. DataError naming the tar
    that is damaged, compressed or in a sub-folder.
    """
    allowed(max_bad)
    where = place(folder)
    root = where if out is None else LocalPath(out)
    if isinstance(where, ObjectPath) and out is not None:
        raise ConfigError(
            "--out", "links into a bucket cannot be made", "leave it out: the index then lies beside the tars"
        )
    tars, hidden = find_tars(where)
    if not tars:
        raise DataError(where, "holds no .tar file", "name the folder of the tars")
    was = _previous(root)
    splits = _splits([tar.name for tar in tars], split)
    names = {"color": tuple(color) or COLOR, "gray": () if gray is None else tuple(gray) or GRAY}
    with (
        ThreadPoolExecutor(usable_cores()) as pool,
        progress(total=len(tars), unit=" tars", label="index") as bar,
    ):
        scans = {}
        for tar, scan in zip(tars, pool.map(partial(scan_tar, names=names), tars), strict=True):
            scans[tar.name] = scan
            bar.update()
    _require_twins(scans, wanted=bool(gray))
    _refuse_bad(where, scans, names, max_bad)
    with disk_errors(root, then="run the same command again, perhaps with another --out"):
        manifest, known = _publish(root, where, scans, splits, names, was)
    passed_over = sum((scan.passed_over for scan in scans.values()), Counter({"hidden tar": hidden}))
    keys = Counter(sample.key for scan in scans.values() for sample in scan.samples)
    return IndexResult(
        manifest,
        known,
        dict(passed_over.most_common()),
        [name for name, scan in scans.items() if not scan.samples and not scan.rejected],
        sum(1 for count in keys.values() if count > 1),
    )


def _previous(root: Place) -> dict[str, Any]:
    """The manifest that an earlier run has left in `root`, or {}; ConfigError for any other."""
    if WORK in root.names():
        raise ConfigError(root, "holds a set that `streamgan shard` has not finished", "use --out")
    if not (root / MANIFEST).exists():
        return {}
    was = read_json(root / MANIFEST, todo="remove it and run the same command again")
    source = was.get("source") if isinstance(was, dict) and was.get("format") == FORMAT else None
    if not isinstance(source, dict) or source.get("kind") != KIND:
        raise ConfigError(root, "holds a set that `streamgan shard` made, or another manifest", "use --out")
    return was


def _splits(names: list[str], split: str | None) -> dict[str, str]:
    """Split by name of the tar."""
    if split:
        return dict.fromkeys(names, split)
    matches = {name: _SPLIT.search(name) for name in names}
    silent = [name for name, match in matches.items() if not match]
    if silent and len(silent) < len(names):
        raise ConfigError(
            silent[0], "its name does not say its split, others do", "rename it, or choose with --split"
        )
    return {
        name: "train" if not match else "val" if match[1] == "validation" else match[1]
        for name, match in matches.items()
    }


def _require_twins(scans: dict[str, Scan], *, wanted: bool) -> None:
    """Reject samples without a twin where others have one, or where one was asked for."""
    if not wanted and not any(len(sample.members) > 1 for scan in scans.values() for sample in scan.samples):
        return
    for name, scan in scans.items():
        alone = [sample for sample in scan.samples if len(sample.members) < 2]
        scan.samples = [sample for sample in scan.samples if len(sample.members) > 1]
        scan.rejected += [rejection(name, -1, sample.key, "gray_missing") for sample in alone]


def _refuse_bad(
    folder: Place, scans: dict[str, Scan], names: dict[str, tuple[str, ...]], max_bad: float
) -> None:
    reasons = Counter(row["reason"] for scan in scans.values() for row in scan.rejected)
    good = sum(len(scan.samples) for scan in scans.values())
    if reasons.total() <= allowed(max_bad) * (good + reasons.total()) and good:
        return
    suffixes = sum((scan.suffixes for scan in scans.values()), Counter())
    have = ", ".join(f".{suffix}" for suffix, _ in suffixes.most_common(8)) or "no members"
    if not any(suffix in names["color"] for suffix in suffixes):
        raise ConfigError(folder, f"no colour image among the members (got {have})", "name it with --color")
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    total = good + reasons.total()
    what = f"{reasons.total()} of {total} samples are bad, more than --max-bad {max_bad:g} allows"
    todo = f"check --color and --gray (got {have}), or raise --max-bad"
    if reasons["gray_missing"]:
        todo = f"give --gray none to do without the gray twins, or {todo}"
    raise DataError(folder, f"{what}: {listed}", todo)


def _publish(
    root: Place,
    folder: Place,
    scans: dict[str, Scan],
    splits: dict[str, str],
    names: dict[str, tuple[str, ...]],
    was: dict[str, Any],
) -> tuple[Manifest, bool]:
    """Write the indexes, the manifest last, and remove those of tars that are gone; unless all is there."""
    links: dict[str, str] = {}
    if isinstance(root, LocalPath) and isinstance(folder, LocalPath) and root.resolve() != folder.resolve():
        links = {name: str((folder / name).resolve()) for name in scans}
    manifest, files = _contents(scans, splits, names)
    stale = _stale(root, files, links, was)
    sealed = json_bytes({"digest": manifest.digest, **manifest.body()})
    if not stale and _are_there(root, {**files, MANIFEST: sealed}, links):
        return manifest, True
    if isinstance(root, LocalPath):
        root.mkdir(parents=True, exist_ok=True)
    for name in files:
        path = root / name
        if path.exists() and not _is_ours(path):
            raise ConfigError(
                path, "is in the way, made by another program", "use --out, or move it elsewhere"
            )
    (root / MANIFEST).unlink(missing_ok=True)  # until the new one is there, this is no set
    for path in stale:
        path.unlink(missing_ok=True)
    for name, target in links.items():
        _link(Path(str(root / name)), target)
    for name, data in files.items():
        with atomic_write(root / name) as file:
            file.write(data)
    write_manifest(root, manifest)
    return manifest, False


def _contents(
    scans: dict[str, Scan], splits: dict[str, str], names: dict[str, tuple[str, ...]]
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the bytes of the other files by name."""
    files: dict[str, bytes] = {}
    entries: dict[str, list[ShardEntry]] = {name: [] for name in SPLITS if name in splits.values()}
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0, INDEX_DTYPE)] for name in entries}
    for name, scan in scans.items():
        about = {"name": name, "bytes": scan.bytes, "sha256": scan.sha256}
        files[idx_name(name)] = data = idx_bytes(about, scan.samples)
        entry = ShardEntry(name, len(scan.samples), scan.bytes, scan.sha256, sha256(data).hexdigest())
        entries[splits[name]].append(entry)
        parts[splits[name]].append(pack_index(scan.samples))
    tables = {}
    for name, shards in entries.items():
        files[f"{name}.index"] = data = index_bytes(np.concatenate(parts[name]))
        samples, size = sum(shard.samples for shard in shards), sum(shard.bytes for shard in shards)
        tables[name] = SplitEntry(samples, size, sha256(data).hexdigest(), tuple(shards))
    rejected = [row for scan in scans.values() for row in scan.rejected]
    files[QUARANTINE] = data = b"".join(json.dumps(row).encode() + b"\n" for row in rejected)
    reasons = dict(sorted(Counter(row["reason"] for row in rejected).items()))
    quarantine = {"rows": len(rejected), "reasons": reasons, "sha256": sha256(data).hexdigest()}
    tars = [{"name": name, "bytes": scan.bytes, "sha256": scan.sha256} for name, scan in scans.items()]
    source = {"kind": KIND, "files": tars, "color": list(names["color"]), "gray": list(names["gray"])}
    return Manifest(source, {}, tables, quarantine), files


def _are_there(root: Place, files: dict[str, bytes], links: dict[str, str]) -> bool:
    with suppress(OSError):
        linked = all(os.readlink(str(root / name)) == target for name, target in links.items())
        return linked and all((root / name).read_bytes() == data for name, data in files.items())
    return False


def _is_ours(path: Place) -> bool:
    """Whether a run of `index` may replace or remove this file."""
    begin = _OURS[os.path.splitext(path.name)[1]]
    with path.open_binary() as file:
        head = file.read(len(begin))
    return head == begin or (path.name == QUARANTINE and not head)


def _stale(root: Place, files: dict[str, bytes], links: dict[str, str], was: dict[str, Any]) -> list[Place]:
    """What earlier runs have left in `root` of tars and splits that are not there any more."""
    indexes = {f"{name}.index" for name in SPLITS}
    tars, stale = set(), []
    with suppress(KeyError, TypeError):
        tars = {file["name"] for file in was["source"]["files"]}
    for name in set(root.names()) - set(files) - set(links):
        path, ending = root / name, os.path.splitext(name)[1]
        if name.endswith(TEMPORARY_SUFFIX):
            made = name.removesuffix(TEMPORARY_SUFFIX)
            if made in {MANIFEST, QUARANTINE} | indexes or made.endswith(".idx"):
                stale.append(path)
        elif (name in indexes or ending == ".idx") and path.is_file() and _is_ours(path):
            stale.append(path)
        elif links and ending.lower() == ".tar" and os.path.islink(link := str(path)):
            if name not in tars and Path(os.readlink(link)).parent != Path(next(iter(links.values()))).parent:
                raise ConfigError(path, "is none of these tars", "choose an empty folder for --out")
            stale.append(path)
    return stale


def _link(link: Path, target: str) -> None:
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise ConfigError(link, "is in the way of a link to the tar", "choose an empty folder for --out")
    link.symlink_to(target)
