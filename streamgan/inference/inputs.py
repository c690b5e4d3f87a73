"""What to colour and where it goes: files, folders with their tree, patterns; never a list of all of it.

Only names given one by one, or by a pattern, are kept in memory; folders are walked again for every pass,
one directory at a time, in the order of their names.
"""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from streamgan.core.errors import ConfigError

from .photo import FORMATS

VIDEOS = (".mp4", ".mov", ".mkv")
SUFFIXES = (*FORMATS, *VIDEOS)


class Target(NamedTuple):
    """A file and the name of its result."""

    source: Path
    path: Path

    @property
    def kind(self) -> str:
        """The format of the result: a value of FORMATS, or "video"."""
        return FORMATS.get(self.path.suffix.lower(), "video")


class Inputs:
    """The targets of INPUT... under `out`, any number of times; ConfigError if they cannot all be made.

    A folder gives its files (with `recursive` those of its subfolders) at their places below it, a pattern
    (`*`, `?`, `[`, `**`) at their places below its first part without one. Hidden files and `out` itself are
    left out. `unreadable` is told of directories that cannot be listed.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        out: Path,
        *,
        recursive: bool = False,
        unreadable: Callable[[Path, str], None] = lambda path, reason: None,
    ):
        self._out, self._recursive, self._unreadable = out, recursive, unreadable
        self._folders: list[Path] = []
        self._files: dict[Path, Path] = {}  # place below `out` -> source
        for given in inputs:
            path = Path(given)
            if path.is_dir():
                self._folders.append(path)
                self._refuse_overwriting(path, path)
            elif path.exists():
                self._add(path, Path(path.name))
            elif glob.has_magic(given):
                self._add_pattern(given)
            else:
                raise ConfigError(given, "no such file", "give a photo or a folder of photos")

    def __iter__(self) -> Iterator[Target]:
        for place, source in self._files.items():
            yield Target(source, self._out / place)
        for folder in self._folders:
            for place in self._walk(folder):
                yield Target(folder / place, self._out / place)

    def count(self) -> int:
        """How many there are; ConfigError if there are none, or if two would share a name."""
        number = len(self._files)
        for index, folder in enumerate(self._folders):
            for place in self._walk(folder):
                number += 1
                taken = place in self._files or any((one / place).exists() for one in self._folders[:index])
                if taken:
                    self._refuse_second(folder / place, place)
        if not number:
            deeper = "" if self._recursive else "; with --recursive subfolders count too"
            given = ", ".join(map(str, self._folders))
            raise ConfigError(given, "no photos here", f"give files of {', '.join(SUFFIXES)}{deeper}")
        return number

    def _add(self, source: Path, place: Path) -> None:
        if source.suffix.lower() not in SUFFIXES:
            place = place.with_name(f"{place.name}.png")
        if place in self._files:
            self._refuse_second(source, place)
        self._refuse_overwriting(source, (source.parent / place.name).parents[len(place.parts) - 1])
        self._files[place] = source

    def _add_pattern(self, pattern: str) -> None:
        parts = Path(pattern).parts
        base = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
        found = [Path(name) for name in sorted(glob.iglob(pattern, recursive=True))]
        found = [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not found:
            raise ConfigError(
                pattern, "no photos of this pattern", f"it should meet files of {', '.join(SUFFIXES)}"
            )
        for path in found:
            self._add(path, path.relative_to(base))

    def _walk(self, folder: Path) -> Iterator[Path]:
        """Places below `folder`."""
        out = self._out.resolve()

        def unreadable(error: OSError) -> None:
            self._unreadable(Path(error.filename), error.strerror or str(error))

        for root, folders, names in os.walk(folder, onerror=unreadable):
            below = Path(root)
            kept = [one for one in folders if not one.startswith(".") and (below / one).resolve() != out]
            folders[:] = sorted(kept) if self._recursive else []
            for name in sorted(names):
                if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                    yield below.relative_to(folder) / name

    def _refuse_overwriting(self, source: Path, base: Path) -> None:
        if base.resolve() == self._out.resolve():
            raise ConfigError(source, "would be overwritten", "choose another --out")

    def _refuse_second(self, source: Path, place: Path) -> None:
        raise ConfigError(source, f"a second photo called {place}", "colour them into separate folders")
