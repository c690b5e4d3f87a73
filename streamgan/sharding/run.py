"""`streamgan shard`: plan, run the units that are not done yet, publish.

The state of a run is its folder. `.work/plan.json` says what is being made, `.work/unit-*.json` which units
are complete, `manifest.json` that everything is; the same command reads them and goes on from there.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.objects import Place, place
from streamgan.data.format import MANIFEST, Manifest
from streamgan.sharding.engine.execute import ENGINES, Execution
from streamgan.sharding.engine.local import Results, wait_for_orphans
from streamgan.sharding.engine.ray_cluster import AUTO
from streamgan.sharding.folder.parts import Part, claim_count, counts, refuse_missing
from streamgan.sharding.folder.publish import Records, allowed, publish, refuse_too_many_bad
from streamgan.sharding.folder.state import (
    PLAN,
    claim,
    finished_manifest,
    is_published,
    locked,
    make_work,
    read_plan,
    read_records,
    refuse_foreign_files,
    remove_temporary,
    remove_work,
    whole_manifest,
)
from streamgan.sharding.sample.check import Check
from streamgan.sharding.sample.members import Rules
from streamgan.sharding.sample.pixels import Encoding
from streamgan.sharding.source.hub import recorded
from streamgan.sharding.source.read import SourceFile, read_source
from streamgan.sharding.unit.plan import Unit, make_plan
from streamgan.sharding.unit.sizes import largest_share, rows_per_unit
from streamgan.sharding.unit.writer import WORK, Job, disk_errors

from .splits import HASH_RANGE, parse_splits, split_of_file

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class ShardOptions:
    """Everything but the source that decides the bytes of a set; all of it stands in the manifest."""

    samples_per_shard: int = 1000
    seed: int = 0
    splits: str = "train=70,val=20,test=10"
    gray: Literal["keep", "derive"] = "keep"
    keep_text: bool = False
    image_column: str | None = None
    gray_column: str | None = None
    text_column: str | None = None
    max_samples: int | None = None
    max_pixels: int = 50_000_000
    check: Check = "header"
    size: int | None = None
    encode: Literal["jpeg", "png"] | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.check == "none":
            raise ConfigError("--size", "needs the size of every image", "leave out --check none")


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
    `num_workers` processes (None: one a CPU), 0 for this one; the bytes do not depend on it. The engine `ray`
    takes a cluster, at `address`, instead of this machine. More than the fraction `max_bad`
    of bad rows is a DataError before anything is published. ConfigError, naming the difference, if `out`
    holds anything else than this set; the files of a set never change once they have their name.
    """
    allowed(max_bad)
    began, root, passed = time.monotonic(), _root(out, engine), Counter[str]()
    job, identity, plan = _prepare(sources, root, options or ShardOptions(), shard_bytes, engine, passed)
    job = (
        job if engine == "local" else replace(job, files=tuple(file.for_any_machine() for file in job.files))
    )
    refuse_foreign_files(root)
    if is_published(root):
        return ShardResult(finished_manifest(root, identity), nothing_to_do=True, passed=passed)
    make_work(root)
    with locked(root / WORK) as check:
        wait_for_orphans(root / WORK)
        remove_temporary(root)
        if (root / MANIFEST).exists():
            return replace(_tidy_up(root, identity), passed=passed)
        with disk_errors(root):
            claim(root, identity, len(plan))
        how = _engine(engine, address)
        execution = Execution(job, identity, plan, _num_rows(plan), max_bad, check, how)
        written, _ = execution.run(num_workers)
        check()
        with disk_errors(root):
            manifest = publish(root, identity, execution.records)
            remove_work(root)
    return ShardResult(manifest, False, written, time.monotonic() - began, passed)


def shard_part(
    sources: Sequence[str],
    out: Path | str,
    *,
    part: Part,
    options: ShardOptions | None = None,
    shard_bytes: int | None = None,
    num_workers: int | None = 1,
    engine: Engine = "local",
    address: str = AUTO,
    max_bad: float = 0.01,
) -> PartResult:
    """Make the units in the share of `part` and publish nothing; other parts may run at the same time.

    As `shard` otherwise. Every part needs the same source and options; `finish` publishes the set.
    """
    allowed(max_bad)
    began, root, passed = time.monotonic(), _root(out, engine), Counter[str]()
    job, identity, plan = _prepare(sources, root, options or ShardOptions(), shard_bytes, engine, passed)
    job = (
        job if engine == "local" else replace(job, files=tuple(file.for_any_machine() for file in job.files))
    )
    share = part.share(plan)
    refuse_foreign_files(root)
    if is_published(root):
        finished_manifest(root, identity)
        return PartResult(part, len(share), 0, 0, 0.0, passed)
    make_work(root)
    with locked(root / WORK, part) as check:
        wait_for_orphans(root / WORK, part.label)
        remove_temporary(root, {unit.number for unit in share})
        with disk_errors(root):
            claim(root, identity, len(plan))
            claim_count(root / WORK, part)
        how = _engine(engine, address)
        execution = Execution(job, identity, share, _num_rows(plan), max_bad, check, how, part)
        written, made = execution.run(num_workers)
    return PartResult(part, len(share), made, written, time.monotonic() - began, passed)


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
    counted = counts(root / WORK)
    with locked(root / WORK) as check:
        wait_for_orphans(root / WORK)
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
            manifest = publish(root, identity, records)
            remove_work(root)
    return ShardResult(manifest, False, 0, time.monotonic() - began)


def _root(out: Path | str, engine: Engine) -> Place:
    """Where the set goes; other nodes do not know the folder that we are in."""
    root = place(out)
    return root.absolute() if engine == "ray" and isinstance(root, Path) else root


def _engine(name: Engine, address: str) -> Callable[..., Results]:
    return partial(ENGINES[name], address=address) if name == "ray" else ENGINES[name]


def _prepare(
    sources: Sequence[str],
    root: Place,
    options: ShardOptions,
    shard_bytes: int | None,
    engine: Engine,
    passed: Counter[str],
) -> tuple[Job, dict[str, Any], tuple[Unit, ...]]:
    """Read the footers: what all units need, what makes the set this one, and the units."""
    files = read_source(
        sources,
        image_column=options.image_column,
        gray_column=options.gray_column,
        text_column=options.text_column,
        keep_gray=options.gray == "keep",
        keep_text=options.keep_text,
        split_folders=options.splits == "source",
        commits=recorded((root / MANIFEST, root / WORK / PLAN)),
        passed=passed,
    )
    if not any(sum(file.group_rows) for file in files):
        raise DataError(files[0].path, "the source has no rows", "check the files")
    if engine == "ray":
        files = [file.for_any_machine() for file in files]
    job = _make_job(root, files, options)
    if shard_bytes:
        share = largest_share(files, job.split_ends, job.file_splits)
        rows = rows_per_unit(files, shard_bytes, largest_share=share)
        options = replace(options, samples_per_shard=rows)
    plan = make_plan(
        [file.group_rows for file in files],
        samples_per_shard=options.samples_per_shard,
        seed=options.seed,
        max_samples=options.max_samples,
    )
    return job, _identity(files, options, job), plan


def _num_rows(plan: Sequence[Unit]) -> int:
    return sum(unit.num_rows for unit in plan)


def _tidy_up(root: Place, identity: dict[str, Any]) -> ShardResult:
    """Remove what is left of a run that was killed between publishing and its own tidying up."""
    remove_temporary(root)
    manifest = finished_manifest(root, identity)
    remove_work(root)
    return ShardResult(manifest, nothing_to_do=True)


def _make_job(root: Place, files: Sequence[SourceFile], options: ShardOptions) -> Job:
    by_file = options.splits == "source"
    return Job(
        root=root,
        files=tuple(files),
        split_ends={} if by_file else parse_splits(options.splits),
        file_splits=tuple(split_of_file(file.name) for file in files) if by_file else None,
        rules=Rules(
            options.check, options.max_pixels, Encoding(options.size, options.encode, options.quality)
        ),
    )


def _identity(files: Sequence[SourceFile], options: ShardOptions, job: Job) -> dict[str, Any]:
    """What makes two runs the same set, as it stands in the manifest."""
    splits = (
        {"by": "file name"} if job.file_splits else {"by": "crc32", "of": HASH_RANGE, "ends": job.split_ends}
    )
    return {
        "source": {"files": [file.fingerprint() for file in files]},
        "options": {**asdict(options), "splits": splits},
    }
