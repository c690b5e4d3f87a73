"""Any number of files through one colorizer: threads read and write, memory does not grow with their number.

Files go in portions, bounded in number and in pixels: while one is coloured, the next one is read and the
results are written.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain
from typing import BinaryIO, Literal, NamedTuple

from streamgan.core.errors import ConfigError, file_error
from streamgan.core.machine import usable_cores
from streamgan.core.storage.files import atomic_write
from streamgan.core.storage.walk import look

from .colorizer import Colorizer
from .containers import SUGGESTED, FilmOptions
from .inputs import Target
from .photo import LIMITS, Limits, Photo, check_pixels, count_pages, load_pages, load_photo, open_photo
from .saving import QUALITY, Colored, save_pages
from .segments import forget_segments
from .tint import is_in_color
from .video import color_video

_PORTION_PIXELS = 64 << 20  # of photos that are read, coloured or written at a time; a larger photo is alone
_MAX_THREADS = 8
_OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)
_ALREADY = "in colour already"


@dataclass(frozen=True)
class Handling:
    """How files are treated. `quality`, 1 to 100, is that of results in formats that are lossy.

    Photos that are in colour already come out as they are, unless `recolor`.
    """

    skip_existing: bool = False
    recolor: bool = False
    quality: int = QUALITY
    limits: Limits = LIMITS
    film: FilmOptions = SUGGESTED


_PLAIN = Handling()


class Outcome(NamedTuple):
    """What became of a file; `text` is the reason of a failure, or what else there is to say.

    `planned`: it would be coloured. `partial`: coloured as far as it could be read. `left_alone`: it is in
    colour already, and its result has the same pixels. `seconds` are those of reading, colouring and writing;
    photos that are coloured together share them.
    """

    target: Target
    kind: Literal["planned", "colored", "partial", "left_alone", "skipped", "failed"]
    text: str = ""
    seconds: float = 0.0


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
                    if portion.kind == "skipped" and portion.target.kind == "video":
                        forget_segments(portion.target.path)
                    yield portion
                    continue
                photos = [] if isinstance(portion, _Alone) else portion
                reading = [_Reading(one, pool.submit(_load, one, handling)) for one in photos]
                yield from _color_portion(colorizer, ahead, pool, handling)
                ahead = reading
                if isinstance(portion, _Alone):
                    color = _color_film if portion.target.kind == "video" else _color_pages
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
            yield Outcome(target, "failed", _line(error))
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
            yield Outcome(target, "failed", _line(error))
            continue
        if loaded.in_color:
            writing.append(
                (pool.submit(_timed, _leave_alone, target, [loaded.photo], handling), loaded.seconds)
            )
        else:
            given.append((target, loaded))
    began = time.monotonic()
    colors = colorizer.color([loaded.photo for _, loaded in given])
    for (target, loaded), rgb in zip(given, colors, strict=True):
        share = loaded.seconds + (time.monotonic() - began) / len(given)
        writing.append((pool.submit(_timed, _save, target, [(loaded.photo, [rgb])], handling), share))
    for future, seconds in writing:
        outcome = future.result()
        yield outcome._replace(seconds=outcome.seconds + seconds)


def _timed(work: Callable[..., Outcome], *arguments: object) -> Outcome:
    began = time.monotonic()
    return work(*arguments)._replace(seconds=time.monotonic() - began)


def _color_pages(colorizer: Colorizer, target: Target, handling: Handling) -> Outcome:
    """A page after the other, a band of rows after the other; pages in colour stay as they are."""

    def load() -> Iterator[Photo]:
        try:
            yield from load_pages(target.source, kind=target.kind, limits=handling.limits)
        except Exception as error:  # whatever a decoder meets in foreign bytes
            raise ValueError(_line(error)) from error

    def colored(pages: Iterable[Photo]) -> Iterator[Colored]:
        for photo in pages:
            if not handling.recolor and is_in_color(photo.pixels):
                yield replace(photo, notes=(*photo.notes, _ALREADY)), [photo.pixels]
            else:
                yield photo, colorizer.bands(photo, colorizer.predict([photo])[0])

    try:
        pages = load()
        first = next(pages)
        if handling.recolor or not is_in_color(first.pixels):
            return _save(target, colored(chain([first], pages)), handling)
        if all(is_in_color(photo.pixels) for photo in pages):
            return _leave_alone(target, load(), handling)
        return _save(target, colored(load()), handling)
    except ValueError as error:
        return Outcome(target, "failed", _line(error))


def _leave_alone(target: Target, pages: Iterable[Photo], handling: Handling) -> Outcome:
    """The file itself as the result; in another format where the result has another one."""
    if target.source.suffix.lower() != target.path.suffix.lower():
        done = _save(target, ((photo, [photo.pixels]) for photo in pages), handling)
        text = "; ".join(filter(None, (f"{_ALREADY}: saved as {target.kind}, not coloured", done.text)))
        return done._replace(kind="left_alone", text=text) if done.kind == "colored" else done
    try:
        with open(target.source, "rb") as source, _writing(target) as file:
            shutil.copyfileobj(source, file)
    except OSError as error:
        return _unwritten(error, target)
    return Outcome(target, "left_alone", f"{_ALREADY}: copied as it is")


def _save(target: Target, pages: Iterable[Colored], handling: Handling) -> Outcome:
    notes: dict[str, list[int]] = {}
    missing: list[str] = []
    count = 0

    def noted() -> Iterator[Colored]:
        nonlocal count
        for count, (photo, bands) in enumerate(pages, 1):
            for note in photo.notes:
                notes.setdefault(note, []).append(count)
            missing.extend([photo.missing] if photo.missing else [])
            yield photo, bands

    try:
        with _writing(target) as file:
            save_pages(noted(), file, target.kind, quality=handling.quality)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the encoder
            return _unwritten(error, target)
        return Outcome(target, "failed", _line(error))
    text = [
        note if len(numbers) == count else f"{note} (page {', '.join(map(str, numbers))})"
        for note, numbers in notes.items()
    ]
    return Outcome(target, "partial" if missing else "colored", "; ".join([*missing, *text]))


def _writing(target: Target) -> AbstractContextManager[BinaryIO]:
    target.path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_write(target.path)


def _color_film(colorizer: Colorizer, target: Target, handling: Handling) -> Outcome:
    try:
        made = color_video(colorizer, target.source, target.path, handling.film)
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
    if isinstance(error, MemoryError):
        return "not enough memory"
    return " ".join(str(error).split()) or type(error).__name__
