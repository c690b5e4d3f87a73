"""Any number of files through one colorizer: threads read and write, memory does not grow with their number.

Files go in portions, bounded in number and in pixels: while one is coloured, the next one is read and the
results are written.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from streamgan.core.errors import ConfigError, file_error
from streamgan.core.machine import usable_cores
from streamgan.core.storage.files import atomic_write
from streamgan.core.storage.walk import look

from .colorizer import Colorizer
from .inputs import Target
from .photo import MAX_PIXELS, Photo, check_pixels, load_photo, open_photo
from .saving import QUALITY, save_photo
from .video import color_video

_PORTION_PIXELS = 64 << 20
_MAX_THREADS = 8
_OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)


@dataclass(frozen=True)
class Handling:
    """How files are treated. `quality`, 1 to 100, is that of results in formats that are lossy."""

    skip_existing: bool = False
    quality: int = QUALITY
    max_pixels: int = MAX_PIXELS


_PLAIN = Handling()


class Outcome(NamedTuple):
    """What became of a file; `text` is the reason of a failure, or what else there is to say.

    `planned`: it would be coloured. `partial`: a film that is coloured as far as it could be read. `seconds`
    are those of its reading, colouring and writing; files that are worked on together share them.
    """

    target: Target
    kind: Literal["planned", "colored", "partial", "skipped", "failed"]
    text: str = ""
    seconds: float = 0.0


class _Reading(NamedTuple):
    target: Target
    photo: "Future[tuple[Photo, float]]"


def plan_files(targets: Iterable[Target], handling: Handling) -> Iterator[Outcome]:
    """What `color_files` would do, as far as names and headers tell."""
    for portion in _portions(targets, 1, handling):
        if isinstance(portion, Outcome):
            yield portion
        else:
            for target in portion if isinstance(portion, list) else [portion]:
                yield Outcome(target, "planned")


def color_files(
    colorizer: Colorizer, targets: Iterable[Target], handling: Handling = _PLAIN
) -> Iterator[Outcome]:
    """Colour every file; one that cannot be read or coloured is a failed outcome, and the rest goes on.

    Results appear whole or not at all. DataError if they cannot be written.
    """
    with ThreadPoolExecutor(min(_MAX_THREADS, usable_cores()), "photo") as pool:
        ahead: list[_Reading] = []
        try:
            for portion in _portions(targets, 4 * colorizer.batch, handling):
                if isinstance(portion, Outcome):
                    yield portion
                    continue
                photos = portion if isinstance(portion, list) else []
                reading = [_Reading(one, pool.submit(_load, one, handling)) for one in photos]
                yield from _color_portion(colorizer, ahead, pool, handling)
                ahead = reading
                if isinstance(portion, Target):
                    yield _timed(_color_film, colorizer, portion)
            yield from _color_portion(colorizer, ahead, pool, handling)
        finally:
            pool.shutdown(cancel_futures=True)


def _portions(
    targets: Iterable[Target], num_files: int, handling: Handling
) -> Iterator[list[Target] | Target | Outcome]:
    """Photos in portions, films alone, and between them what is decided already."""
    portion: list[Target] = []
    pixels = 0
    for target in targets:
        if handling.skip_existing and os.path.exists(target.path):  # False also for a name that is too long
            yield Outcome(target, "skipped", "there already")
            continue
        if target.kind == "video":
            yield target
            continue
        if (found := look(target.source)).kind != "file":  # opening a FIFO would wait for ever
            yield Outcome(target, "failed", found.detail)
            continue
        try:
            with open_photo(target.source) as (image, _):  # the header alone
                check_pixels(image, handling.max_pixels)
                size = image.width * image.height
        except Exception as error:  # whatever a parser meets in foreign bytes
            yield Outcome(target, "failed", _line(error))
            continue
        if portion and (len(portion) == num_files or pixels + size > _PORTION_PIXELS):
            yield portion
            portion, pixels = [], 0
        portion.append(target)
        pixels += size
    if portion:
        yield portion


def _load(target: Target, handling: Handling) -> tuple[Photo, float]:
    began = time.monotonic()
    photo = load_photo(target.source, kind=target.kind, max_pixels=handling.max_pixels)
    return photo, time.monotonic() - began


def _color_portion(
    colorizer: Colorizer, reading: list[_Reading], pool: ThreadPoolExecutor, handling: Handling
) -> Iterator[Outcome]:
    photos: list[Photo] = []
    targets: list[Target] = []
    seconds: list[float] = []
    for target, future in reading:
        try:
            photo, took = future.result()
            photos.append(photo)
            targets.append(target)
            seconds.append(took)
        except Exception as error:  # whatever a decoder meets in foreign bytes
            yield Outcome(target, "failed", _line(error))
    began = time.monotonic()
    writing = [
        pool.submit(_timed, _save, target, photo, rgb, handling)
        for target, photo, rgb in zip(targets, photos, colorizer.color(photos), strict=True)
    ]
    share = (time.monotonic() - began) / max(1, len(photos))
    for future, took in zip(writing, seconds, strict=True):
        outcome = future.result()
        yield outcome._replace(seconds=outcome.seconds + took + share)


def _timed(work: Callable[..., Outcome], *arguments: object) -> Outcome:
    began = time.monotonic()
    return work(*arguments)._replace(seconds=time.monotonic() - began)


def _save(target: Target, photo: Photo, rgb_HW3: np.ndarray, handling: Handling) -> Outcome:
    try:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target.path) as file:
            save_photo(photo, rgb_HW3, file, target.kind, quality=handling.quality)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the encoder
            return _unwritten(error, target)
        return Outcome(target, "failed", _line(error))
    return Outcome(target, "colored", "; ".join(photo.notes))


def _color_film(colorizer: Colorizer, target: Target) -> Outcome:
    try:
        made = color_video(colorizer, target.source, target.path)
        text = "; ".join(filter(None, made))
        return Outcome(target, "partial" if made.missing else "colored", text)
    except ConfigError as error:
        return Outcome(target, "failed", f"{error.what}; {error.todo}")
    except OSError as error:
        return _unwritten(error, target)
    except ValueError as error:
        return Outcome(target, "failed", _line(error))


def _unwritten(error: OSError, target: Target) -> Outcome:
    """A failed outcome if the name of this file is to blame; DataError if the others would meet it too."""
    if error.errno in _OF_ONE_NAME:
        said = file_error(error, target.path, what="cannot be written")
        return Outcome(target, "failed", f"{said.what}; {said.todo}")
    then = "run the same command with --skip-existing"
    raise file_error(error, target.path, what="cannot be written", then=then) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
