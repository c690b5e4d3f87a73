"""`streamgan shard`: plan, run the units that are not done yet, publish.

The state of a run is its folder. `.work/plan.json` says what is being made, `.work/unit-*.json` which units
are complete, `manifest.json` that everything is; the same command reads them and goes on from there.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from streamgan.core.errors import DataError
from streamgan.core.files import atomic_write, sha256_file
from streamgan.core.logs import progress, say
from streamgan.data.format import (
    INDEX_DTYPE,
    MANIFEST,
    QUARANTINE,
    SPLITS,
    Manifest,
    ShardEntry,
    SplitEntry,
    write_index,
    write_manifest,
)

from .check import Check
from .engines import ENGINES, wait_for_orphans
from .folder import (
    claim,
    finished_manifest,
    locked,
    read_record,
    refuse_foreign_files,
    remove_temporary,
    remove_work,
)
from .plan import HASH_RANGE, Unit, make_plan, parse_splits, split_of_file
from .source import SourceFile, read_source
from .writer import WORK, Job, disk_errors, make_unit, packed_path


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


@dataclass(frozen=True)
class ShardResult:
    """What a run leaves. `written_bytes` counts the shards that this run made, in `seconds`."""

    manifest: Manifest
    nothing_to_do: bool
    written_bytes: int = 0
    seconds: float = 0.0


@dataclass
class _Progress:
    """Complete units and what they add up to."""

    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, record: dict[str, Any]) -> int:
        """Count a record in; the bytes of its shards."""
        self.records[record["unit"]] = record
        self.rejected.update(row["reason"] for row in record["rejected"])
        return sum(shard["bytes"] for shard in record["shards"].values())


def shard(
    sources: Sequence[str],
    out: Path | str,
    *,
    options: ShardOptions | None = None,
    num_workers: int = 1,
    max_bad: float = 0.01,
) -> ShardResult:
    """Make the shard set of `sources` in the folder `out`, or finish it, or find it finished.

    `num_workers` processes, 0 for this one; the bytes do not depend on it. More than the fraction `max_bad`
    of bad rows is a DataError before anything is published. ConfigError, naming the difference, if `out`
    holds anything else than this set; the files of a set never change once they have their name.
    """
    began = time.monotonic()
    options, root = options or ShardOptions(), Path(out)
    files = read_source(
        sources,
        image_column=options.image_column,
        gray_column=options.gray_column,
        text_column=options.text_column,
        keep_gray=options.gray == "keep",
        keep_text=options.keep_text,
    )
    plan = make_plan(
        [file.group_rows for file in files],
        samples_per_shard=options.samples_per_shard,
        seed=options.seed,
        max_samples=options.max_samples,
    )
    if not plan:
        raise DataError(files[0].path, "the source has no rows", "check the files")
    job = _make_job(root, files, options)
    identity = _identity(files, options, job)
    refuse_foreign_files(root)
    if (root / MANIFEST).exists() and not (root / WORK).exists():
        return ShardResult(finished_manifest(root, identity), nothing_to_do=True)
    with disk_errors(root):
        (root / WORK).mkdir(parents=True, exist_ok=True)
    with locked(root / WORK):
        wait_for_orphans(root / WORK)
        remove_temporary(root)
        if (root / MANIFEST).exists():  # killed between publishing and tidying up
            manifest = finished_manifest(root, identity)
            remove_work(root)
            return ShardResult(manifest, nothing_to_do=True)
        state = _Progress()
        with disk_errors(root):
            claim(root, identity, len(plan))
        try:
            written = _run_units(job, plan, state, num_workers=num_workers, max_bad=max_bad)
        except KeyboardInterrupt:
            done = f"{len(state.records)} of {len(plan)} units are done"
            say(f"stopped: {done}; the same command continues")
            raise
        with disk_errors(root):
            manifest = _publish(job, identity, plan, state)
            remove_work(root)
    return ShardResult(manifest, False, written, time.monotonic() - began)


def _make_job(root: Path, files: list[SourceFile], options: ShardOptions) -> Job:
    by_file = options.splits == "source"
    return Job(
        root=root,
        files=tuple(files),
        split_ends={} if by_file else parse_splits(options.splits),
        file_splits=tuple(split_of_file(file.name) for file in files) if by_file else None,
        check=options.check,
        max_pixels=options.max_pixels,
    )


def _identity(files: list[SourceFile], options: ShardOptions, job: Job) -> dict[str, Any]:
    """What makes two runs the same set, as it stands in the manifest."""
    splits = (
        {"by": "file name"} if job.file_splits else {"by": "sha256", "of": HASH_RANGE, "ends": job.split_ends}
    )
    return {
        "source": {"files": [file.fingerprint() for file in files]},
        "options": {**asdict(options), "splits": splits},
    }


def _run_units(job: Job, plan: Sequence[Unit], state: _Progress, *, num_workers: int, max_bad: float) -> int:
    """Do what is left of the plan; the bytes of the shards made."""
    for unit in plan:
        if record := read_record(job.root, unit.number):
            state.add(record)
    units = [unit for unit in plan if unit.number not in state.records]
    total = sum(unit.num_rows for unit in plan)
    _refuse_too_many_bad(job, state, total=total, max_bad=max_bad)
    written, began = 0, time.monotonic()
    engine = ENGINES["local" if num_workers and units else "here"]
    results = engine(partial(make_unit, job), units, num_workers=num_workers, work=job.root / WORK)
    done_before = total - sum(unit.num_rows for unit in units)
    bar = progress(total=total, unit=" rows", label="shard", start=done_before)
    with bar, closing(results):
        for record in results:
            written += state.add(record)
            speed = written / 1e6 / (time.monotonic() - began)
            bar.set_postfix_str(f"{speed:.0f} MB/s, {state.rejected.total()} bad", refresh=False)
            bar.update(record["rows"])
            _refuse_too_many_bad(job, state, total=total, max_bad=max_bad)
    return written


def _refuse_too_many_bad(job: Job, state: _Progress, *, total: int, max_bad: float) -> None:
    bad = state.rejected.total()
    if bad > max_bad * total:
        _write_quarantine(job, state)
        reasons = ", ".join(f"{reason} {count}" for reason, count in state.rejected.most_common())
        raise DataError(
            job.root,
            f"{bad} of {total} rows are bad, more than --max-bad {max_bad:g} allows: {reasons}",
            f"read {QUARANTINE}, repair the source or raise --max-bad, and run the command again",
        )


def _write_quarantine(job: Job, state: _Progress) -> None:
    """The rejected rows in the order of the source, one JSON object a line."""
    rows = [row for record in state.records.values() for row in record["rejected"]]
    rows.sort(key=lambda row: (row["file"], row["row"]))
    with atomic_write(job.root / QUARANTINE) as file:
        for row in rows:
            line = {**row, "file": job.files[row["file"]].name}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _publish(job: Job, identity: dict[str, Any], plan: Sequence[Unit], state: _Progress) -> Manifest:
    """Write what speaks for the whole set, the manifest last."""
    names = [name for name in SPLITS if name in (job.split_ends or job.file_splits or ())]
    splits = {name: _write_split(job.root, name, plan, state) for name in names}
    if not any(split.samples for split in splits.values()):
        raise DataError(job.root, "not one row is usable", f"read {QUARANTINE} and repair the source")
    _write_quarantine(job, state)
    quarantine = {
        "rows": state.rejected.total(),
        "reasons": dict(sorted(state.rejected.items())),
        "sha256": sha256_file(job.root / QUARANTINE),
    }
    manifest = Manifest(identity["source"], identity["options"], splits, quarantine)
    write_manifest(job.root, manifest)
    return manifest


def _write_split(root: Path, split: str, plan: Sequence[Unit], state: _Progress) -> SplitEntry:
    entries, parts = [], [np.zeros(0, INDEX_DTYPE)]
    for unit in plan:
        if entry := state.records[unit.number]["shards"].get(split):
            entries.append(ShardEntry(**entry))
            parts.append(np.load(packed_path(root, split, unit.number), allow_pickle=False))
    path = root / f"{split}.index"
    write_index(path, np.concatenate(parts))
    samples, size = sum(entry.samples for entry in entries), sum(entry.bytes for entry in entries)
    return SplitEntry(samples, size, sha256_file(path), tuple(entries))
