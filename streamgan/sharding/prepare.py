"""From a command to what is to be done: footers and options give a plan, and what makes a set this one."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.place import Place, place
from streamgan.data.format import MANIFEST
from streamgan.sharding.engine.execute import ENGINES, Execution
from streamgan.sharding.engine.local import Results
from streamgan.sharding.engine.ray_cluster import AUTO
from streamgan.sharding.folder.parts import Part
from streamgan.sharding.folder.publish import allowed
from streamgan.sharding.folder.state import PLAN
from streamgan.sharding.sample.check import Check
from streamgan.sharding.sample.members import Rules
from streamgan.sharding.sample.pixels import Encoding
from streamgan.sharding.source.hub import recorded
from streamgan.sharding.source.read import SourceFile, Wanted, read_source
from streamgan.sharding.unit.plan import Unit, make_plan
from streamgan.sharding.unit.sizes import largest_share, rows_per_unit
from streamgan.sharding.unit.writer import WORK, Job

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
        made = self.encode or ("jpeg" if self.size is not None else "png")
        if self.quality is not None and made != "jpeg":
            raise ConfigError("--quality", "is that of JPEG, and nothing becomes one", "add --encode jpeg")
        for column, needs, met in (
            (self.gray_column, "leave out --gray derive", self.gray == "keep"),
            (self.text_column, "add --keep-text", self.keep_text),
        ):
            if column is not None and not met:
                raise ConfigError("--columns", f"the column {column!r} would not be read", needs)


@dataclass(frozen=True)
class Request:
    """What is asked for beside source and place, as `shard` says it."""

    options: ShardOptions | None = None
    shard_bytes: int | None = None
    num_workers: int | None = 1
    engine: Engine = "local"
    address: str = AUTO
    max_bad: float = 0.01


@dataclass(frozen=True)
class Prepared:
    """What all units need, what makes the set this one, and the units.

    `passed` counts the files that the source holds and the set does not, by ending or reason.
    """

    request: Request
    job: Job
    identity: dict[str, Any]
    plan: tuple[Unit, ...]
    passed: Counter[str]

    def run(
        self, units: Sequence[Unit], check: Callable[[], None], part: Part | None = None
    ) -> tuple[Execution, int, int]:
        """Do those of `units` that are not done; the bytes made, and of how many units they are.

        `check` raises when it must stop.
        """
        asked, total = self.request, sum(unit.num_rows for unit in self.plan)
        engine: Callable[..., Results] = ENGINES[asked.engine]
        if asked.engine == "ray":
            engine = partial(engine, address=asked.address)
        execution = Execution(self.job, self.identity, units, total, asked.max_bad, check, engine, part)
        return execution, *execution.run(asked.num_workers)


def prepare(sources: Sequence[str], out: Path | str, request: Request) -> Prepared:
    """Read the footers; nothing is written."""
    allowed(request.max_bad)
    options, passed = request.options or ShardOptions(), Counter[str]()
    on_cluster = request.engine == "ray"
    root = place(out).absolute() if on_cluster else place(out)  # its nodes do not know the folder we are in
    files = read_source(
        sources,
        Wanted(
            options.image_column, options.gray_column, options.text_column,
            keep_gray=options.gray == "keep", keep_text=options.keep_text,
        ),
        split_folders=options.splits == "source",
        commits=recorded((root / MANIFEST, root / WORK / PLAN)),
        passed=passed,
    )  # fmt: skip
    if not any(sum(file.group_rows) for file in files):
        raise DataError(files[0].path, "the source has no rows", "check the files")
    if on_cluster:
        files = [file.for_any_machine() for file in files]
    job = _make_job(root, files, options)
    if request.shard_bytes:
        share = largest_share(files, job.split_ends, job.file_splits)
        rows = rows_per_unit(files, request.shard_bytes, largest_share=share)
        options = replace(options, samples_per_shard=rows)
    plan = make_plan(
        [file.group_rows for file in files],
        samples_per_shard=options.samples_per_shard,
        seed=options.seed,
        max_samples=options.max_samples,
    )
    return Prepared(request, job, _identity(files, options, job), plan, passed)


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
