"""What to colour and where it goes: files, folders with their tree, patterns; never a list of all of it.

Only names given one by one, or by a pattern, are kept in memory; folders are walked again for every pass,
one directory at a time, in the order of their names.
"""

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from streamgan.core.errors import ConfigError
from streamgan.core.storage.walk import Walked, counted, ending, look, walk

from .containers import VIDEOS, Codec, film_name
from .formats import ENDINGS, result_name

SUFFIXES = (*ENDINGS, *VIDEOS)


class Target(NamedTuple):
    """A file and the name of its result."""

    source: Path
    path: Path

    @property
    def kind(self) -> str:
        """The format of the result: a key of FORMATS, or "video"."""
        return ENDINGS.get(self.path.suffix.lower(), "video")


class Naming(NamedTuple):
    """How results are called: with the ending of the format `wanted`, if any, and `suffix` before it.

    A film whose container cannot hold pictures of `codec` has another one.
    """

    wanted: str | None = None
    suffix: str = ""
    codec: Codec | None = None

    def place(self, source: Path) -> Path:
        """The place of a result below its folder, for that of its source."""
        if source.suffix.lower() in VIDEOS:
            return source.with_name(film_name(source.name, codec=self.codec, suffix=self.suffix))
        return source.with_name(result_name(source.name, wanted=self.wanted, suffix=self.suffix))


_PLAIN = Naming()


class Inputs:
    """The targets of INPUT... under `out`, any number of times; ConfigError if they cannot all be made.

    A folder gives its files (with `recursive` those of its subfolders) at their places below it, a pattern
    (`*`, `?`, `[`, `**`) at their places below its first part without one. `out` itself is left out, and
    linked folders are followed once. `unreadable` is told of photos and folders that cannot be read and why,
    `passed` of whatever else is passed over, in words to count it by.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        out: Path,
        *,
        recursive: bool = False,
        naming: Naming = _PLAIN,
        unreadable: Callable[[Path, str], None] = lambda path, reason: None,
        passed: Callable[[Path, str], None] = lambda path, reason: None,
    ):
        self._out, self._recursive, self._naming = out, recursive, naming
        self._unreadable, self._passed = unreadable, passed
        self._folders: list[Path] = []
        self._files: dict[Path, Path] = {}  # place below `out` -> source
        self._not_met: list[tuple[Path, str]] = []  # by patterns
        self._unread: list[tuple[Path, str]] = []
        for given in inputs:
            path = Path(given)
            if path.is_dir():
                self._folders.append(path)
                self._refuse_overwriting(path, path)
            elif os.path.lexists(given):
                self._add(path, Path(path.name))
            elif glob.has_magic(given):
                self._add_pattern(given)
            else:
                raise ConfigError(given, "no such file", "give a photo or a folder of photos")

    def __iter__(self) -> Iterator[Target]:
        for path, reason in self._not_met:
            self._passed(path, reason)
        for path, reason in self._unread:
            self._unreadable(path, reason)
        for place, source in self._files.items():
            yield Target(source, self._out / place)
        for folder in self._folders:
            for place in self._walk(folder):
                yield Target(folder / place, self._out / self._naming.place(place))

    def count(self) -> int:
        """How many there are; ConfigError if there are none, or if two would share a name."""
        number, passed = len(self._files), Counter[str]()

        def count(path: Path, reason: str) -> None:
            passed[reason] += 1

        counting = Inputs([], self._out, recursive=self._recursive, passed=count)
        for index, folder in enumerate(self._folders):
            parent, taken = None, dict[str, Path]()  # name of result -> source, in one folder after the other
            for place in counting._walk(folder):
                number += 1
                result = self._naming.place(place)
                if place.parent != parent:
                    parent = place.parent
                    taken = {}
                    for one in self._folders[:index]:
                        taken |= self._names(one / parent)
                if other := taken.get(result.name, self._files.get(result)):
                    self._refuse_second(folder / place, result, other)
                taken[result.name] = folder / place
        if not number:
            deeper = "" if self._recursive else "; with --recursive subfolders count too"
            given = ", ".join(map(str, self._folders))
            got = f" (got {counted(passed, most=None)})" if passed else ""
            raise ConfigError(given, f"no photos here{got}", f"give files of {', '.join(SUFFIXES)}{deeper}")
        return number

    def _add(self, source: Path, place: Path) -> None:
        place = self._naming.place(place)
        if place in self._files:
            self._refuse_second(source, place, self._files[place])
        self._refuse_overwriting(source, (source.parent / place.name).parents[len(place.parts) - 1])
        self._files[place] = source

    def _add_pattern(self, pattern: str) -> None:
        parts = Path(pattern).parts
        base = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
        found = []
        for one in _met(base, pattern):
            path = Path(one.path)
            wanted = ending(one.path) in SUFFIXES
            if one.kind == "file" and wanted:
                found.append(path)
            elif one.kind == "broken" or (one.kind == "special" and wanted):
                self._unread.append((path, one.detail))
            else:
                self._not_met.append((path, _reason(one)))
        if not found:
            raise ConfigError(
                pattern,
                "no photo matches this pattern",
                f"it should match files that end in {', '.join(SUFFIXES)}",
            )
        for path in found:
            self._add(path, path.relative_to(base))

    def _walk(self, folder: Path) -> Iterator[Path]:
        """Places below `folder`."""
        out = self._out.resolve()
        for found in walk(folder, recursive=self._recursive, prune=lambda path: Path(path).resolve() == out):
            wanted = ending(found.path) in SUFFIXES
            if found.kind == "file" and wanted:
                yield Path(os.path.relpath(found.path, folder))
            elif found.kind == "broken" or (found.kind == "special" and wanted):
                self._unreadable(Path(found.path), found.detail)
            elif found.kind != "folder" or Path(found.path).resolve() != out:
                self._passed(Path(found.path), _reason(found))

    def _names(self, folder: Path) -> dict[str, Path]:
        """The files right in a folder, which need not be there, by the names of their results."""
        listed = os.listdir(folder) if folder.is_dir() else []
        return {
            self._naming.place(Path(name)).name: folder / name for name in listed if ending(name) in SUFFIXES
        }

    def _refuse_overwriting(self, source: Path, base: Path) -> None:
        if base.resolve() == self._out.resolve():
            raise ConfigError(source, "would be overwritten", "choose another --out")

    def _refuse_second(self, source: Path, place: Path, other: Path) -> None:
        what = f"another photo would also become {place} (got {other})"
        raise ConfigError(source, what, "colour them into different folders")


def _reason(found: Walked) -> str:
    """What something that is passed over is counted by."""
    if found.kind == "file":
        return ending(found.path)
    names = {"hidden": "hidden", "folder": "folders", "again": "linked folders walked already"}
    return names.get(found.kind, found.kind)


def _met(base: Path, pattern: str) -> Iterator[Walked]:
    """What a pattern meets; through links once, where glob's `**` goes round and round."""
    wanted = Path(pattern).parts[len(base.parts) :]
    if "**" not in wanted:
        yield from map(look, sorted(glob.iglob(pattern)))
        return
    for found in walk(base):
        unlisted = found.kind == "again" or (found.kind == "broken" and not os.path.islink(found.path))
        if unlisted or _matches(Path(os.path.relpath(found.path, base)).parts, wanted):
            yield found


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
