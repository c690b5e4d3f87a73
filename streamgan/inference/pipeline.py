"""Any number of files through one colorizer: threads read and write, memory does not grow with their number.

Files go in portions, bounded in number and in pixels: while one is coloured, the next one is read and the
results are written.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
from PIL import UnidentifiedImageError

from streamgan.core.errors import ConfigError, file_error
from streamgan.core.machine import usable_cores
from streamgan.core.storage.files import atomic_write
from streamgan.core.storage.walk import look

from .colorizer import Colorizer
from .inputs import Target
from .photo import Photo, check_pixels, load_photo, open_photo, save_photo
from .video import color_video

_PORTION_PIXELS = 64 << 20
_MAX_THREADS = 8
_OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)


class Outcome(NamedTuple):
    """What became of a file; `text` is the reason of a failure, or what else there is to say.

    `partial`: a film that is coloured as far as it could be read.
    """

    target: Target
    kind: Literal["colored", "partial", "skipped", "failed"]
    text: str = ""


class _Reading(NamedTuple):
    target: Target
    photo: "Future[Photo]"


def color_files(
    colorizer: Colorizer, targets: Iterable[Target], *, skip_existing: bool = False
) -> Iterator[Outcome]:
    """Colour every file; one that cannot be read or coloured is a failed outcome, and the rest goes on.

    Results appear whole or not at all. DataError if they cannot be written.
    """
    with ThreadPoolExecutor(min(_MAX_THREADS, usable_cores()), "photo") as pool:
        ahead: list[_Reading] = []
        try:
            for portion in _portions(targets, 4 * colorizer.batch, skip_existing):
                if isinstance(portion, Outcome):
                    yield portion
                    continue
                photos = portion if isinstance(portion, list) else []
                reading = [
                    _Reading(one, pool.submit(load_photo, one.source, kind=one.kind)) for one in photos
                ]
                yield from _color_portion(colorizer, ahead, pool)
                ahead = reading
                if isinstance(portion, Target):
                    yield _color_film(colorizer, portion)
            yield from _color_portion(colorizer, ahead, pool)
        finally:
            pool.shutdown(cancel_futures=True)


def _portions(
    targets: Iterable[Target], num_files: int, skip_existing: bool
) -> Iterator[list[Target] | Target | Outcome]:
    """Photos in portions, films alone, and between them what is decided already."""
    portion: list[Target] = []
    pixels = 0
    for target in targets:
        if skip_existing and os.path.exists(target.path):  # False also for a name that is too long
            yield Outcome(target, "skipped")
            continue
        if target.kind == "video":
            yield target
            continue
        if (found := look(target.source)).kind != "file":  # opening a FIFO would wait for ever
            yield Outcome(target, "failed", found.detail)
            continue
        try:
            with open_photo(target.source) as (image, _):  # the header alone
                check_pixels(image)
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


def _color_portion(
    colorizer: Colorizer, reading: list[_Reading], pool: ThreadPoolExecutor
) -> Iterator[Outcome]:
    photos: list[Photo] = []
    targets: list[Target] = []
    for target, future in reading:
        try:
            photos.append(future.result())
            targets.append(target)
        except Exception as error:  # whatever a decoder meets in foreign bytes
            yield Outcome(target, "failed", _line(error))
    writing = [
        pool.submit(_save, target, photo, rgb)
        for target, photo, rgb in zip(targets, photos, colorizer.color(photos), strict=True)
    ]
    for future in writing:
        yield future.result()


def _save(target: Target, photo: Photo, rgb_HW3: np.ndarray) -> Outcome:
    try:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target.path) as file:
            save_photo(photo, rgb_HW3, file, target.kind)
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
    if isinstance(error, UnidentifiedImageError):  # its text names an object of Python
        return "not an image that can be read"
    return " ".join(str(error).split()) or type(error).__name__
