"""The tars of a folder, all or none: those that `streamgan index` would leave out are refused by name."""

import re
from collections.abc import Sequence
from pathlib import Path

from streamgan.core.errors import DataError
from streamgan.core.storage.local import LocalPath
from streamgan.core.storage.place import ObjectPath, Place
from streamgan.core.storage.walk import walk

_COMPRESSED = re.compile(
    r".*\.(tar\.(gz|bz2|xz|zst|zstd|lz|lz4|lzma|br|z)|tgz|tbz2?|txz|tzst|tlz|taz)", re.IGNORECASE | re.DOTALL
)


def find_tars(folder: Place) -> tuple[Sequence[Place], int]:
    """The tars right in `folder` by name, and how many hidden ones there are; DataError for others."""
    return _in_bucket(folder) if isinstance(folder, ObjectPath) else _on_disk(folder)


def _in_bucket(folder: ObjectPath) -> tuple[list[ObjectPath], int]:
    names = sorted(folder.tree())
    tars = [name for name in names if name.lower().endswith(".tar")]
    seen = [name for name in tars if not name.rpartition("/")[2].startswith(".")]
    here = [name for name in seen if "/" not in name]
    _refuse(
        folder, here, [name for name in names if _COMPRESSED.fullmatch(name)], sorted(set(seen) - set(here))
    )
    return [folder / name for name in here], len(tars) - len(seen)


def _on_disk(folder: LocalPath) -> tuple[list[LocalPath], int]:
    tars, hidden = list[Path](), 0
    below, compressed = list[Path](), list[str]()
    for found in walk(folder):
        path = Path(found.path)
        is_tar = path.suffix.lower() == ".tar"
        if found.kind == "hidden":
            hidden += is_tar
        elif found.kind == "broken" and (is_tar or not path.is_symlink()):
            raise DataError(path, found.detail, "repair it, or move it elsewhere")
        elif is_tar and found.kind != "again":
            if not path.name.isprintable():  # bytes that are not UTF-8 among them
                raise DataError(ascii(path.name), "is a name that a manifest cannot hold", "rename the tar")
            (tars if path.parent == folder else below).append(path)
        elif found.kind == "file" and _COMPRESSED.fullmatch(path.name):
            compressed.append(str(path.relative_to(folder)))
    first = {_identity(path): path for path in reversed(tars)}
    for path in tars:
        if (twin := first[_identity(path)]) != path:
            todo = "remove one of them: each of its samples would come twice"
            raise DataError(path, f"is the same file as {twin.name}", todo)
    below = [path for path in below if _identity(path) not in first]  # links of another index's --out
    _refuse(folder, tars, compressed, [str(path.relative_to(folder)) for path in below])
    return [LocalPath(path) for path in sorted(tars)], hidden


def _refuse(folder: Place, tars: Sequence[object], compressed: Sequence[str], below: Sequence[str]) -> None:
    """DataError for tars that would be left out."""
    if compressed:
        what = f"{len(compressed)} tars are compressed ({_few(compressed)}), so nothing in them has a place"
        raise DataError(folder, what, "decompress them (gunzip, zstd -d, ...), or move them elsewhere")
    if below and tars:
        what = f"{len(below)} tars in sub-folders would be left out ({_few(below)})"
        raise DataError(folder, what, "put all tars, or links to them, into one folder")
    if below:
        what = f"holds no .tar file, its sub-folders do ({_few(below)})"
        raise DataError(folder, what, "name the folder of the tars")


def _identity(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_ino


def _few(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
