"""Folders of photographs as a source of colour images: every file is a row and a group of its own.

The list of names and sizes is the fingerprint; no image is opened before its turn. A row's number is the
position of its name in the sorted list, and its KEY.json holds the name.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.remote import filesystem, patiently, shown

from .plan import split_of_file
from .rows import Cell, Row
from .storage import Found, relative_names

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
NAME = "images"


@dataclass(frozen=True)
class ImageFolder:
    """Image files as one file of the source: (name, path, bytes) each, sorted by name."""

    name: str
    images: tuple[tuple[str, str, int], ...]
    text: None = None
    origin: str | None = None

    @property
    def path(self) -> str:
        return shown(self.images[0][1]).rpartition("/")[0]

    @property
    def group_rows(self) -> tuple[int, ...]:
        return (1,) * len(self.images)

    @property
    def bytes(self) -> int:
        return sum(size for _, _, size in self.images)

    def fingerprint(self) -> dict[str, Any]:
        listing = hashlib.sha256()
        for name, _, size in self.images:
            listing.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
        print_ = {"name": self.name, "bytes": self.bytes, "rows": len(self.images)}
        return {
            **print_,
            "listing_sha256": listing.hexdigest(),
            **({"from": self.origin} if self.origin else {}),
        }

    def read(self, *, row_group: int, start: int, stop: int) -> Iterator[Row]:
        """The one image of a group; DataError if it is not the size that was listed."""
        name, path, size = self.images[row_group]
        if start < stop:
            data = _read(path)
            if len(data) != size:
                what = f"{len(data)} bytes (listed with {size}): the source has changed"
                raise DataError(shown(path), what, "restore it, or start again in an empty folder")
            yield Row(row_group, Cell(data), None, None, name)


def _read(path: str) -> bytes:
    if "://" in path:
        return patiently(path, lambda: filesystem(path).cat_file(path))
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "check the source") from error


def read_images(found: Sequence[Found], *, by_folder: bool) -> list[ImageFolder]:
    """Image files as one file of the source or, `by_folder`, as one for each top folder train, val, test."""
    names = relative_names((one.base, one.path) for one in found)
    images = sorted({(names[one.path], one.path, _size(one)) for one in found})
    for name, path, _ in images:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(path.encode("utf-8", "replace").decode(), "its name is not UTF-8", "rename it")
    origin = found[0].origin
    if not by_folder:
        return [ImageFolder(NAME, tuple(images), origin=origin)]
    folders: dict[str, list[tuple[str, str, int]]] = {}
    for image in images:
        top, slash, _ = image[0].partition("/")
        try:
            split_of_file(top if slash else "")
        except ConfigError:
            raise ConfigError(
                shown(image[1]),
                "lies in no folder train, validation, val or test, where --splits source looks for it",
                "move it, or split by content with --splits train=70,val=20,test=10",
            ) from None
        folders.setdefault(top, []).append(image)
    return [ImageFolder(top, tuple(inside), origin=origin) for top, inside in sorted(folders.items())]


def _size(found: Found) -> int:
    if found.bytes is not None:
        return found.bytes
    try:
        return Path(found.path).stat().st_size
    except OSError as error:
        raise DataError(found.path, f"cannot be read ({error.strerror})", "check the source") from error
