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
from typing import Any, Literal, TypedDict, Unpack

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.place import Place, place
from streamgan.data.format import MANIFEST, Manifest
from streamgan.sharding.engine.execute import ENGINES, Execution
from streamgan.sharding.engine.local import Results
from streamgan.sharding.engine.ray_cluster import AUTO
from streamgan.sharding.folder.parts import Part, claim_count, counts, refuse_missing
from streamgan.sharding.folder.publish import Records, allowed, publish, refuse_too_many_bad
from streamgan.sharding.folder.state import (
    PLAN,
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
from streamgan.sharding.sample.check import Check
from streamgan.sharding.sample.members import Rules
from streamgan.sharding.sample.pixels import Encoding
from streamgan.sharding.source.hub import recorded
from streamgan.sharding.source.read import SourceFile, Wanted, read_source
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


class How(TypedDict, total=False):
    """The keyword arguments of `shard`."""

    options: ShardOptions | None
    shard_bytes: int | None
    num_workers: int | None
    engine: Engine
    address: str
    max_bad: float


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
    how = How(
        options=options, shard_bytes=shard_bytes, num_workers=num_workers,
        engine=engine, address=address, max_bad=max_bad,
    )  # fmt: skip
    began, run = time.monotonic(), _prepare(sources, out, **how)
    root, folder = run.root, folder_of(run.root)
    refuse_foreign_files(root)
    if is_published(root):
        return ShardResult(finished_manifest(root, run.identity), nothing_to_do=True, passed=run.passed)
    folder.make()
    with folder.locked() as check:
        folder.wait_for_orphans()
        remove_temporary(root)
        if (root / MANIFEST).exists():
            return replace(_tidy_up(root, run.identity), passed=run.passed)
        with disk_errors(root):
            claim(root, run.identity, len(run.plan))
        execution = run.execution(run.plan, check)
        written, _ = execution.run(num_workers)
        check()
        manifest = _publish(root, run.identity, execution.records)
    return ShardResult(manifest, False, written, time.monotonic() - began, run.passed)


def shard_part(sources: Sequence[str], out: Path | str, *, part: Part, **how: Unpack[How]) -> PartResult:
    """Make the units in the share of `part` and publish nothing; other parts may run at the same time.

    As `shard` otherwise. Every part needs the same source and options; `finish` publishes the set.
    """
    began, run = time.monotonic(), _prepare(sources, out, **how)
    root, folder, share = run.root, folder_of(run.root), part.share(run.plan)
    refuse_foreign_files(root)
    if is_published(root):
        finished_manifest(root, run.identity)
        return PartResult(part, len(share), 0, 0, 0.0, run.passed)
    folder.make()
    with folder.locked(part) as check:
        folder.wait_for_orphans(part.label)
        remove_temporary(root, {unit.number for unit in share})
        with disk_errors(root):
            claim(root, run.identity, len(run.plan))
            claim_count(root / WORK, part)
        written, made = run.execution(share, check, part).run(how.get("num_workers", 1))
    return PartResult(part, len(share), made, written, time.monotonic() - began, run.passed)


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


@dataclass(frozen=True)
class _Run:
    """What the footers and the options make of a command: `identity` is what makes the set this one."""

    job: Job
    identity: dict[str, Any]
    plan: tuple[Unit, ...]
    passed: Counter[str]
    engine: Callable[..., Results]
    max_bad: float

    @property
    def root(self) -> Place:
        return self.job.root

    def execution(
        self, units: Sequence[Unit], check: Callable[[], None], part: Part | None = None
    ) -> Execution:
        total = sum(unit.num_rows for unit in self.plan)
        return Execution(self.job, self.identity, units, total, self.max_bad, check, self.engine, part)


def _prepare(sources: Sequence[str], out: Path | str, **how: Unpack[How]) -> _Run:
    """Read the footers; nothing is written."""
    max_bad, engine = how.get("max_bad", 0.01), how.get("engine", "local")
    options, passed = how.get("options") or ShardOptions(), Counter[str]()
    allowed(max_bad)
    root = place(out) if engine == "local" else place(out).absolute()  # other nodes are in another folder
    wanted = Wanted(
        options.image_column, options.gray_column, options.text_column,
        keep_gray=options.gray == "keep", keep_text=options.keep_text,
    )  # fmt: skip
    files = read_source(
        sources,
        wanted,
        split_folders=options.splits == "source",
        commits=recorded((root / MANIFEST, root / WORK / PLAN)),
        passed=passed,
    )
    if not any(sum(file.group_rows) for file in files):
        raise DataError(files[0].path, "the source has no rows", "check the files")
    if engine == "ray":
        files = [file.for_any_machine() for file in files]
    job = _make_job(root, files, options)
    if shard_bytes := how.get("shard_bytes"):
        share = largest_share(files, job.split_ends, job.file_splits)
        options = replace(options, samples_per_shard=rows_per_unit(files, shard_bytes, largest_share=share))
    plan = make_plan(
        [file.group_rows for file in files],
        samples_per_shard=options.samples_per_shard,
        seed=options.seed,
        max_samples=options.max_samples,
    )
    run = partial(ENGINES["ray"], address=how.get("address", AUTO)) if engine == "ray" else ENGINES[engine]
    return _Run(job, _identity(files, options, job), plan, passed, run, max_bad)


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
