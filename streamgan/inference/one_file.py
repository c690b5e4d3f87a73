"""One file: coloured page by page, or as a film, or left alone; how files are treated, what became of one."""

import errno
import struct
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from streamgan.core.errors import ConfigError, file_error, in_one_line
from streamgan.core.storage.files import atomic_write

from .colorizer import Colorizer
from .containers import SUGGESTED, FilmOptions
from .inputs import Target
from .photo import LIMITS, Limits, Photo, TooManyPixels, load_pages
from .saving import QUALITY, Colored, save_pages
from .tint import is_in_color
from .video import color_video

_OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)
_ENCODING = (OSError, ValueError, MemoryError, OverflowError, struct.error)  # what saving raises
_PIECE = 1 << 20  # bytes that are copied at a time
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


PLAIN = Handling()


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


def color_pages(colorizer: Colorizer, target: Target, handling: Handling) -> Outcome:
    """A page after the other, a band of rows after the other; pages in colour stay as they are."""

    def load() -> Iterator[Photo]:
        return read_pages(target.source, target.kind, handling.limits)

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
            return save(target, colored(chain([first], pages)), handling)
        if all(is_in_color(photo.pixels) for photo in pages):
            return leave_alone(target, load(), handling)
        return save(target, colored(load()), handling)
    except ValueError as error:
        return Outcome(target, "failed", line(error))


def read_pages(source: Path, kind: str, limits: Limits) -> Iterator[Photo]:
    """As `load_pages`; whatever is wrong with the file is a ValueError that says so."""
    try:
        yield from load_pages(source, kind=kind, limits=limits)
    except Exception as error:  # whatever a decoder meets in foreign bytes
        raise ValueError(line(error)) from error


def leave_alone(target: Target, pages: Iterable[Photo], handling: Handling) -> Outcome:
    """The file itself as the result; in another format where the result has another one."""
    if target.source.suffix.lower() != target.path.suffix.lower():
        done = save(target, ((photo, [photo.pixels]) for photo in pages), handling)
        text = "; ".join(filter(None, (f"{_ALREADY}: saved as {target.kind}, not coloured", done.text)))
        return done._replace(kind="left_alone", text=text) if done.kind == "colored" else done
    missing = [photo.missing for photo in pages if photo.missing] if handling.limits.salvage else []
    try:
        with _writing(target) as file:
            for piece in _pieces(target.source):
                file.write(piece)
    except ValueError as error:
        return Outcome(target, "failed", line(error))
    except OSError as error:
        return unwritten(error, target)
    text = "; ".join([*missing, f"{_ALREADY}: copied as it is"])
    return Outcome(target, "partial" if missing else "left_alone", text)


def _pieces(source: Path) -> Iterator[bytes]:
    """The bytes of a file; ValueError if it cannot be read."""
    try:
        with open(source, "rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise ValueError(line(error)) from error


def save(target: Target, pages: Iterable[Colored], handling: Handling) -> Outcome:
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
    except _ENCODING as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the encoder
            return unwritten(error, target)
        return Outcome(target, "failed", line(error))
    text = [
        note if len(numbers) == count else f"{note} (page {', '.join(map(str, numbers))})"
        for note, numbers in notes.items()
    ]
    return Outcome(target, "partial" if missing else "colored", "; ".join([*missing, *text]))


def _writing(target: Target) -> AbstractContextManager[BinaryIO]:
    target.path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_write(target.path)


def color_film(colorizer: Colorizer, target: Target, handling: Handling) -> Outcome:
    try:
        made = color_video(colorizer, target.source, target.path, handling.film)
        text = "; ".join(filter(None, made))
        return Outcome(target, "partial" if made.missing else "colored", text)
    except ConfigError as error:
        return Outcome(target, "failed", f"{error.what}; {error.todo}")
    except OSError as error:
        return unwritten(error, target)
    except ValueError as error:
        return Outcome(target, "failed", line(error))


def unwritten(error: OSError, target: Target) -> Outcome:
    """A failed outcome if the name of this file is to blame; DataError if the others would meet it too."""
    if error.errno in _OF_ONE_NAME:
        said = file_error(error, target.path, what="cannot be written")
        return Outcome(target, "failed", f"{said.what}; {said.todo}")
    then = "run the same command with --skip-existing"
    raise file_error(error, target.path, what="cannot be written", then=then) from error


def line(error: Exception) -> str:
    """Why a file failed."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, TooManyPixels):
        return f"{error}; raise it with --max-pixels if that is right"
    if isinstance(error, OSError) and error.strerror:  # its text has a number and the name once more
        return f"cannot be read ({error.strerror})"
    return in_one_line(error)
