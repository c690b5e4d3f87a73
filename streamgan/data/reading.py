"""Where photos are read from, how, and by which rank: values made once and taken by every loader."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from streamgan.core.errors import ConfigError

from .limits import GrayMode, OnBad, check_options

DEFAULT_CACHE, DEFAULT_CACHE_GB = "~/.cache/streamgan/shards", 50.0


class Weighted(NamedTuple):
    """A shard set of a mixture. `weight` is its share of the samples, relative to the others'; None for all:
    each has as many shares as samples.
    """

    path: str
    weight: float | None = None


Shards = Path | str | Sequence[str | Weighted]


@dataclass(frozen=True)
class Source:
    """One shard set or several, each in a folder or at an address.

    What comes from an address (s3://, gs://, https://, hf://) goes through the folder `cache`, which holds at
    most `cache_gb` GB and may serve any number of processes; None or "none" reads single images by range.
    """

    shards: Shards
    cache: str | Path | None = DEFAULT_CACHE
    cache_gb: float = DEFAULT_CACHE_GB

    def __post_init__(self) -> None:
        check_options(**vars(self))


@dataclass(frozen=True)
class Reading:
    """How the photos of a source become batches.

    `size`: pixels per side of a crop. `gray`: "derive" computes JPEG luma from the colour crop, "twin" reads
    the set's own gray image, None skips it. `workers`: loader processes, 0 for none. `on_bad`: what a damaged
    sample does; another one takes its place `max_bad` times at most. `stall_s`: seconds without progress
    after which a worker is taken for dead. `pin_memory`: batches lie where a GPU can copy them from.
    """

    source: Source
    size: int
    gray: GrayMode | None = None
    workers: int = 2
    on_bad: OnBad = "raise"
    max_bad: int = 100
    stall_s: float = 8.0
    pin_memory: bool = False

    def __post_init__(self) -> None:
        check_options(**vars(self))


@dataclass(frozen=True)
class Ranks:
    """Which rank of how many reads. `node_ranks`: ranks on a machine, which share its cache (None: all)."""

    rank: int = 0
    world: int = 1
    node_ranks: int | None = None

    def __post_init__(self) -> None:
        check_options(**vars(self))
        if self.rank >= self.world:
            what = f"must be below world, {self.world} (got {self.rank})"
            raise ConfigError("rank", what, "ranks count from 0")


ALONE = Ranks()


def cache_folder(cache: str | Path | None) -> Path | None:
    """The folder that `cache` means, or None; ConfigError if it is in an unknown user's home."""
    if cache is None or str(cache) == "none":
        return None
    try:
        return Path(cache).expanduser()
    except RuntimeError as error:
        what = f"names an unknown user's home (got {cache})"
        raise ConfigError("data.cache", what, "choose another folder") from error


def as_sets(shards: Shards) -> tuple[Weighted, ...]:
    """`shards` as one or more sets; ConfigError if there is none, or if only some have a weight."""
    sets = [shards] if isinstance(shards, str | Path) else shards
    weighted = tuple(one if isinstance(one, Weighted) else Weighted(str(one)) for one in sets)
    if not weighted:
        raise ConfigError("data.shards", "names no shard set", "name at least one")
    for one in weighted:
        check_options(weight=one.weight)
    if len({one.weight is None for one in weighted}) > 1:
        bare = next(one.path for one in weighted if one.weight is None)
        raise ConfigError(
            "data.shards", f"{bare} has no weight but others have", "give all a weight, or none"
        )
    return weighted
