"""`streamgan index`: tars that other programs made become a shard set as they are.

The tars are not touched; what is written are the indexes and the manifest, beside the tars or in a folder of
links to them. Images that only `streamgan shard` could make plain are rejected like bad rows.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.files import atomic_write, read_json, sha256_file
from streamgan.core.logs import progress
from streamgan.data.format import (
    FORMAT,
    INDEX_DTYPE,
    MANIFEST,
    QUARANTINE,
    SPLITS,
    Manifest,
    ShardEntry,
    SplitEntry,
    idx_name,
    pack_index,
    write_idx,
    write_index,
    write_manifest,
)

from .tars import Scan, scan_tar
from .writer import disk_errors

KIND = "foreign"
_IMAGES = ("jpg", "jpeg", "png", "webp")
COLOR = tuple(f"{stem}{ending}" for stem in ("color.", "", "image.") for ending in _IMAGES)
GRAY = tuple(f"gray.{ending}" for ending in _IMAGES)
_SPLIT = re.compile(r"(?:^|[^A-Za-z])(train|validation|val|test)(?![A-Za-z])")


def index(
    folder: Path | str,
    *,
    out: Path | str | None = None,
    color: Sequence[str] = (),
    gray: Sequence[str] = (),
    split: Literal["train", "val", "test"] | None = None,
    max_bad: float = 0.01,
) -> tuple[Manifest, bool]:
    """(manifest, whether it was there already) of the tars in `folder`, indexed beside them or in `out`.

    `color` and `gray` are endings of member names, tried in their order. Splits stand in the names of the
    tars; where none has one, all are `split`, or train. DataError naming the tar that is damaged.
    """
    folder = Path(folder)
    root = Path(out) if out else folder
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(folder, "holds no .tar file", "name the folder of the tars")
    _refuse_other_sets(root)
    splits = _splits([tar.name for tar in tars], split)
    names = {"color": tuple(color) or COLOR, "gray": tuple(gray) or GRAY}
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(total=len(tars), unit=" tars", label="index") as bar,
    ):
        scans = {}
        for tar, scan in zip(tars, pool.map(partial(scan_tar, names=names), tars), strict=True):
            scans[tar.name] = scan
            bar.update()
    _require_twins(scans, wanted=bool(gray))
    _refuse_bad(folder, scans, names, max_bad)
    with disk_errors(root):
        return _publish(root, folder, scans, splits, names)


def _refuse_other_sets(root: Path) -> None:
    if (root / MANIFEST).exists():
        was = read_json(root / MANIFEST, todo="remove it and run the same command again")
        if was.get("format") != FORMAT or was.get("source", {}).get("kind") != KIND:
            raise ConfigError(
                root, "holds a set that `streamgan shard` made, or another manifest", "use --out"
            )


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
        for sample in [sample for sample in scan.samples if len(sample.members) < 2]:
            scan.samples.remove(sample)
            where = {"file": name, "row": -1, "name": sample.key}
            scan.rejected.append({**where, "reason": "gray_missing", "detail": ""})


def _refuse_bad(
    folder: Path, scans: dict[str, Scan], names: dict[str, tuple[str, ...]], max_bad: float
) -> None:
    reasons = Counter(row["reason"] for scan in scans.values() for row in scan.rejected)
    good = sum(len(scan.samples) for scan in scans.values())
    if reasons.total() <= max_bad * (good + reasons.total()) and good:
        return
    suffixes = sum((scan.suffixes for scan in scans.values()), Counter())
    have = ", ".join(f".{suffix}" for suffix, _ in suffixes.most_common(8)) or "no members"
    if not any(suffix in names["color"] for suffix in suffixes):
        raise ConfigError(folder, f"no colour image among the members (got {have})", "name it with --color")
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    total = good + reasons.total()
    what = f"{reasons.total()} of {total} samples are bad, more than --max-bad {max_bad:g} allows"
    raise DataError(folder, f"{what}: {listed}", f"check --color and --gray (got {have}), or raise --max-bad")


def _publish(
    root: Path,
    folder: Path,
    scans: dict[str, Scan],
    splits: dict[str, str],
    names: dict[str, tuple[str, ...]],
) -> tuple[Manifest, bool]:
    """Write the indexes, the manifest last, unless they are there."""
    root.mkdir(parents=True, exist_ok=True)
    was = read_json(root / MANIFEST, todo="") if (root / MANIFEST).exists() else {}
    old = {
        shard["name"]: shard["sha256"] for one in was.get("splits", {}).values() for shard in one["shards"]
    }
    (root / MANIFEST).unlink(missing_ok=True)  # until the new one is there, this is no set
    entries: dict[str, list[ShardEntry]] = {name: [] for name in SPLITS if name in splits.values()}
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0, INDEX_DTYPE)] for name in entries}
    for name, scan in scans.items():
        if root.resolve() != folder.resolve():
            _link(root / name, folder / name)
        idx = root / idx_name(name)
        write_idx(idx, {"name": name, "bytes": scan.bytes, "sha256": scan.sha256}, scan.samples)
        entry = ShardEntry(name, len(scan.samples), scan.bytes, scan.sha256, sha256_file(idx))
        entries[splits[name]].append(entry)
        parts[splits[name]].append(pack_index(scan.samples))
    tables = {}
    for name, shards in entries.items():
        path = root / f"{name}.index"
        write_index(path, np.concatenate(parts[name]))
        samples, size = sum(shard.samples for shard in shards), sum(shard.bytes for shard in shards)
        tables[name] = SplitEntry(samples, size, sha256_file(path), tuple(shards))
    rejected = [row for scan in scans.values() for row in scan.rejected]
    with atomic_write(root / QUARANTINE) as file:
        for row in rejected:
            file.write(json.dumps(row).encode() + b"\n")
    reasons = dict(sorted(Counter(row["reason"] for row in rejected).items()))
    quarantine = {"rows": len(rejected), "reasons": reasons, "sha256": sha256_file(root / QUARANTINE)}
    files = [{"name": name, "bytes": scan.bytes, "sha256": scan.sha256} for name, scan in scans.items()]
    source = {"kind": KIND, "files": files, "color": list(names["color"]), "gray": list(names["gray"])}
    manifest = Manifest(source, {}, tables, quarantine)
    write_manifest(root, manifest)
    return manifest, was.get("digest") == manifest.digest and old == {n: s.sha256 for n, s in scans.items()}


def _link(link: Path, tar: Path) -> None:
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise ConfigError(link, "is in the way of a link to the tar", "choose an empty folder for --out")
    link.symlink_to(tar.resolve())
