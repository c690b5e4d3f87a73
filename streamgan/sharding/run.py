"""`streamgan shard`: plan, run the units that are not done yet, publish.

The state of a run is its folder. `.work/plan.json` says what is being made, `.work/unit-*.json` which units
are complete, `manifest.json` that everything is; the same command reads them and goes on from there.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from streamgan.core.storage.place import Place, place
from streamgan.data.format import MANIFEST, Manifest
from streamgan.sharding.engine.ray_cluster import AUTO
from streamgan.sharding.folder.parts import Part, claim_count, counts, refuse_missing
from streamgan.sharding.folder.publish import Records, allowed, publish, refuse_too_many_bad
from streamgan.sharding.folder.state import (
    claim,
    finished_manifest,
    folder_of,
    is_published,
    read_plan,
    read_records,
    refuse_foreign_files,
    remove_temporary,
    whole_manifest,
)
from streamgan.sharding.unit.writer import WORK, disk_errors

from .prepare import Engine, Request, ShardOptions, prepare

__all__ = ["PartResult", "ShardOptions", "ShardResult", "finish", "shard", "shard_part"]


@dataclass(frozen=True)
class ShardResult:
    """What a run leaves. `written_bytes` counts the shards that this run made, in `seconds`.

    `passed` counts the files that the source holds and the set does not, by ending or reason.
    """

    manifest: Manifest
    nothing_to_do: bool
    written_bytes: int = 0
    seconds: float = 0.0
    passed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PartResult:
    """What a part leaves: `units` of it are complete, `made` of them by this run."""

    part: Part
    units: int
    made: int
    written_bytes: int
    seconds: float
    passed: Mapping[str, int] = field(default_factory=dict)


def shard(
    sources: Sequence[str],
    out: Path | str,
    *,
    options: ShardOptions | None = None,
    shard_bytes: int | None = None,
    num_workers: int | None = 1,
    engine: Engine = "local",
    address: str = AUTO,
    max_bad: float = 0.01,
) -> ShardResult:
    """Make the shard set of `sources` in the folder or prefix `out`, or finish it, or find it finished.

    `shard_bytes` stands instead of the option `samples_per_shard`, which is then chosen from the footers.
    `num_workers` processes (None: one per CPU), 0 for this one; the bytes do not depend on it. The engine
    `ray` takes a cluster, at `address`, instead of this machine. More than the fraction `max_bad` of bad rows
    is a DataError before anything is published. ConfigError, naming the difference, if `out` holds anything
    else than this set; the files of a set never change once they have their name.
    """
    began = time.monotonic()
    made = prepare(sources, out, Request(options, shard_bytes, num_workers, engine, address, max_bad))
    root, folder = made.job.root, folder_of(made.job.root)
    refuse_foreign_files(root)
    if is_published(root):
        return ShardResult(finished_manifest(root, made.identity), nothing_to_do=True, passed=made.passed)
    folder.make()
    with folder.locked() as check:
        folder.wait_for_orphans()
        remove_temporary(root)
        if (root / MANIFEST).exists():
            return replace(_tidy_up(root, made.identity), passed=made.passed)
        with disk_errors(root):
            claim(root, made.identity, len(made.plan))
        execution, written, _ = made.run(made.plan, check)
        check()
        manifest = _publish(root, made.identity, execution.records)
    return ShardResult(manifest, False, written, time.monotonic() - began, made.passed)


def shard_part(sources: Sequence[str], out: Path | str, *, part: Part, **request: Any) -> PartResult:
    """Make the units in the share of `part` and publish nothing; other parts may run at the same time.

    `request` are the keyword arguments of `shard`. Every part needs the same source and options; `finish`
    publishes the set.
    """
    began, made = time.monotonic(), prepare(sources, out, Request(**request))
    root, folder, share = made.job.root, folder_of(made.job.root), part.share(made.plan)
    refuse_foreign_files(root)
    if is_published(root):
        finished_manifest(root, made.identity)
        return PartResult(part, len(share), 0, 0, 0.0, made.passed)
    folder.make()
    with folder.locked(part) as check:
        folder.wait_for_orphans(part.label)
        remove_temporary(root, {unit.number for unit in share})
        with disk_errors(root):
            claim(root, made.identity, len(made.plan))
            claim_count(root / WORK, part)
        _, written, num_made = made.run(share, check, part)
    return PartResult(part, len(share), num_made, written, time.monotonic() - began, made.passed)


def finish(out: Path | str, *, max_bad: float = 0.01) -> ShardResult:
    """Publish the set that parts have made in the folder `out`; DataError naming the units that are missing.

    Needs neither the source nor the options: the folder knows what is made in it.
    """
    allowed(max_bad)
    began, root = time.monotonic(), place(out)
    refuse_foreign_files(root)
    if is_published(root):
        return ShardResult(whole_manifest(root), nothing_to_do=True)
    identity = read_plan(root)
    num_units = identity.pop("units")
    counted, folder = counts(root / WORK), folder_of(root)
    with folder.locked() as check:
        folder.wait_for_orphans()
        if (root / MANIFEST).exists():
            return _tidy_up(root, identity)
        records = Records()
        for record in read_records(root, range(num_units)):
            records.add(record)
        missing = sorted(set(range(num_units)) - set(records.units))
        refuse_missing(root, missing, total=num_units, count=max(counted, default=None))
        refuse_too_many_bad(root, identity, records, total=records.num_rows, max_bad=max_bad)
        check()
        with disk_errors(root):
            remove_temporary(root)
        manifest = _publish(root, identity, records)
    return ShardResult(manifest, False, 0, time.monotonic() - began)


def _publish(root: Place, identity: dict[str, Any], records: Records) -> Manifest:
    with disk_errors(root):
        manifest = publish(root, identity, records)
        folder_of(root).remove_work()
    return manifest


def _tidy_up(root: Place, identity: dict[str, Any]) -> ShardResult:
    """Remove what is left of a run that was killed between publishing and its own tidying up."""
    remove_temporary(root)
    manifest = finished_manifest(root, identity)
    folder_of(root).remove_work()
    return ShardResult(manifest, nothing_to_do=True)
