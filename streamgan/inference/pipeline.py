"""Any number of files through one colorizer: threads read and write, memory does not grow with their number.

Files go in portions, bounded in number and in pixels: while one is coloured, the next one is read and the
results are written.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from streamgan.core.machine import usable_cores
from streamgan.core.storage.walk import look

from .colorizer import Colorizer
from .inputs import Target
from .one_file import PLAIN, Handling, Outcome, color_film, color_pages, leave_alone, line, save
from .photo import Photo, check_pixels, count_pages, load_photo, open_photo
from .segments import forget_segments
from .tint import is_in_color

_PORTION_PIXELS = 64 << 20  # of photos that are read, coloured or written at a time; a larger photo is alone
_MAX_THREADS = 8


class _Alone(NamedTuple):
    """A file that is worked on by itself: a film, a file of several pictures, or a large photo."""

    target: Target


class _Loaded(NamedTuple):
    photo: Photo
    in_color: bool
    seconds: float


class _Reading(NamedTuple):
    target: Target
    loaded: "Future[_Loaded]"


def plan_files(targets: Iterable[Target], handling: Handling) -> Iterator[Outcome]:
    """What `color_files` would do, as far as names and headers tell."""
    for portion in _portions(targets, 1, handling):
        if isinstance(portion, Outcome):
            yield portion
        else:
            for target in [portion.target] if isinstance(portion, _Alone) else portion:
                yield Outcome(target, "planned")


def color_files(
    colorizer: Colorizer, targets: Iterable[Target], handling: Handling = PLAIN
) -> Iterator[Outcome]:
    """Colour every file; one that cannot be read or coloured is a failed outcome, and the rest goes on.

    Results appear whole or not at all. DataError if they cannot be written.
    """
    with ThreadPoolExecutor(min(_MAX_THREADS, usable_cores()), "photo") as pool:
        ahead: list[_Reading] = []
        try:
            for portion in _portions(targets, 4 * colorizer.batch, handling):
                if isinstance(portion, Outcome):
                    if portion.kind == "skipped" and portion.target.kind == "video":
                        forget_segments(portion.target.path)
                    yield portion
                    continue
                photos = [] if isinstance(portion, _Alone) else portion
                reading = [_Reading(one, pool.submit(_load, one, handling)) for one in photos]
                yield from _color_portion(colorizer, ahead, pool, handling)
                ahead = reading
                if isinstance(portion, _Alone):
                    color = color_film if portion.target.kind == "video" else color_pages
                    yield _timed(color, colorizer, portion.target, handling)
            yield from _color_portion(colorizer, ahead, pool, handling)
        finally:
            pool.shutdown(cancel_futures=True)


def _portions(
    targets: Iterable[Target], num_files: int, handling: Handling
) -> Iterator[list[Target] | _Alone | Outcome]:
    """Photos in portions, or alone, and between them what is decided already."""
    portion: list[Target] = []
    pixels = 0
    for target in targets:
        if handling.skip_existing and os.path.exists(target.path):  # False also for a name that is too long
            yield Outcome(target, "skipped", "there already")
            continue
        if target.kind == "video":
            yield _Alone(target)
            continue
        if (found := look(target.source)).kind != "file":  # opening a FIFO would wait for ever
            yield Outcome(target, "failed", found.detail)
            continue
        try:
            with open_photo(target.source) as (image, _):  # the header alone
                check_pixels(image, handling.limits.max_pixels)
                size = image.width * image.height
                alone = size > _PORTION_PIXELS or count_pages(image, target.kind)[1] > 1
        except Exception as error:  # whatever a parser meets in foreign bytes
            yield Outcome(target, "failed", line(error))
            continue
        if alone:
            yield _Alone(target)
            continue
        if portion and (len(portion) == num_files or pixels + size > _PORTION_PIXELS):
            yield portion
            portion, pixels = [], 0
        portion.append(target)
        pixels += size
    if portion:
        yield portion


def _load(target: Target, handling: Handling) -> _Loaded:
    began = time.monotonic()
    photo = load_photo(target.source, kind=target.kind, limits=handling.limits)
    return _Loaded(photo, not handling.recolor and is_in_color(photo.pixels), time.monotonic() - began)


def _color_portion(
    colorizer: Colorizer, reading: list[_Reading], pool: ThreadPoolExecutor, handling: Handling
) -> Iterator[Outcome]:
    given: list[tuple[Target, _Loaded]] = []
    writing: list[tuple[Future[Outcome], float]] = []
    for target, future in reading:
        try:
            loaded = future.result()
        except Exception as error:  # whatever a decoder meets in foreign bytes
            yield Outcome(target, "failed", line(error))
            continue
        if loaded.in_color:
            writing.append(
                (pool.submit(_timed, leave_alone, target, [loaded.photo], handling), loaded.seconds)
            )
        else:
            given.append((target, loaded))
    began = time.monotonic()
    colors = colorizer.color([loaded.photo for _, loaded in given])
    for (target, loaded), rgb in zip(given, colors, strict=True):
        share = loaded.seconds + (time.monotonic() - began) / len(given)
        writing.append((pool.submit(_timed, save, target, [(loaded.photo, [rgb])], handling), share))
    for future, seconds in writing:
        outcome = future.result()
        yield outcome._replace(seconds=outcome.seconds + seconds)


def _timed(work: Callable[..., Outcome], *arguments: object) -> Outcome:
    began = time.monotonic()
    return work(*arguments)._replace(seconds=time.monotonic() - began)
