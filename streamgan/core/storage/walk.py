"""Folders walked to the last file: linked folders are followed once, and what is passed over is named.

Like `find -L`, but in an order that depends on names alone, and with nothing lost in silence: folders that
cannot be listed, links to nothing, FIFOs and whatever else is no file come out as well, by their kind.
"""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["file", "hidden", "folder", "again", "special", "broken"]
_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Walked(NamedTuple):
    """What lies at `path`; `detail` says why it is passed over, `error` what the system said.

    file: a file, perhaps through links. hidden: a name with a dot before it. folder: one that is not entered
    without `recursive`. again: a linked folder that is walked elsewhere, or holds the link itself. special:
    neither file nor folder. broken: a folder that cannot be listed, or a link to nothing.
    """

    path: str
    kind: Kind
    detail: str = ""
    error: OSError | None = None


def walk(
    root: str | os.PathLike[str], *, recursive: bool = True, prune: Callable[[str], bool] | None = None
) -> Iterator[Walked]:
    """What lies below the folder `root`, a folder at a time, in the order of names; linked folders last.

    A folder for which `prune` is true is left out without a word.
    """
    top = os.fspath(root)
    seen = {_identity(os.stat(parent)) for parent in Path(os.path.realpath(top)).parents if parent.exists()}
    folders, linked = [top], deque[str]()
    while folders or linked:
        via_link = not folders
        folder = linked.popleft() if via_link else folders.pop()
        try:
            here = _identity(os.stat(folder))
            if here in seen:
                yield Walked(folder, "again", "leads to a folder that is walked already")
                continue
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Walked(folder, "broken", f"cannot be listed ({error.strerror})", error)
            continue
        if here[1]:  # some file systems have no numbers
            seen.add(here)
        below = []
        for entry in entries:
            if entry.name.startswith("."):
                yield Walked(entry.path, "hidden", "hidden")
                continue
            found = look(entry)
            if found.kind != "folder" or not recursive:
                yield found
            elif prune is None or not prune(entry.path):
                (linked if entry.is_symlink() else below).append(entry.path)
        folders += reversed(below)


def look(path: "str | os.PathLike[str] | os.DirEntry[str]") -> Walked:
    """What lies at `path`: file, folder, special or broken."""
    where = os.fspath(path)
    try:
        if isinstance(path, os.DirEntry) and path.is_file(follow_symlinks=False):
            return Walked(where, "file")  # mostly, and without a system call
        mode = os.stat(where).st_mode
    except OSError as error:
        what = (
            f"a link to nothing ({error.strerror})"
            if os.path.islink(where)
            else f"cannot be read ({error.strerror})"
        )
        return Walked(where, "broken", what, error)
    if stat.S_ISREG(mode):
        return Walked(where, "file")
    if stat.S_ISDIR(mode):
        return Walked(where, "folder", "a folder")
    return Walked(where, "special", f"{_SPECIAL.get(stat.S_IFMT(mode), 'something')}, not a file")


def counted(passed: Mapping[str, int], most: int | None = 10) -> str:
    """`12 .csv, 3 hidden`: what was passed over, the most frequent first; at most so many kinds."""
    ordered = sorted(passed.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count} {what}" for what, count in ordered[:most]]
    rest = sum(passed.values()) - sum(count for _, count in ordered[:most])
    return ", ".join(words + ([f"{rest} others"] if rest else []))


def ending(path: str) -> str:
    """What files are counted by: `.jpg` of `a/B.JPG`, `no ending` of `a/LICENSE`."""
    return os.path.splitext(path)[1].lower() or "no ending"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
