"""Folders of photographs as a source of colour images: every file is a row and a group of its own.

The list of names and sizes is the fingerprint; no image is opened before its turn. A row's number is the
position of its name in the sorted list, and its KEY.json holds the name.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.address import is_address, redacted
from streamgan.core.storage.download import read_whole
from streamgan.sharding.splits import split_of_file

from .listing import Found, identity_of, refuse_changed, relative_names, source_error
from .rows import Cell, Row

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
NAME = "images"
NUM_REQUESTS = 16  # questions to a store at a time whether an image is still the same


class ImageFile(NamedTuple):
    """One image of a folder, by its name in it."""

    name: str
    path: str
    bytes: int
    identity: str | None


@dataclass(frozen=True)
class ImageFolder:
    """Image files as one file of the source, sorted by name."""

    name: str
    images: tuple[ImageFile, ...]
    text: None = None
    origin: str | None = None

    @property
    def path(self) -> str:
        return redacted(self.images[0].path).rpartition("/")[0]

    @property
    def group_rows(self) -> tuple[int, ...]:
        return (1,) * len(self.images)

    @property
    def bytes(self) -> int:
        return sum(image.bytes for image in self.images)

    def fingerprint(self) -> dict[str, Any]:
        listing = hashlib.sha256()
        for image in self.images:
            listing.update(f"{image.name}\0{image.bytes}\n".encode())
        print_ = {"name": self.name, "bytes": self.bytes, "rows": len(self.images)}
        return {
            **print_,
            "listing_sha256": listing.hexdigest(),
            **({"from": self.origin} if self.origin else {}),
        }

    def read(self, *, row_group: int, start: int, stop: int) -> Iterator[Row]:
        """The one image of a group; DataError if it is not what was listed."""
        image = self.images[row_group]
        if start < stop:
            data = _read(image)
            if len(data) != image.bytes:
                what = f"{len(data)} bytes (listed with {image.bytes}): the source has changed"
                raise DataError(redacted(image.path), what, "restore it, or start again in an empty folder")
            yield Row(row_group, Cell(data), None, None, image.name)

    def confirm(self, row_groups: Iterable[int]) -> None:
        """DataError if an image of these groups is not what was listed any more."""
        images = [self.images[group] for group in row_groups]
        with ThreadPoolExecutor(NUM_REQUESTS if is_address(self.images[0].path) else 1) as pool:
            list(pool.map(_confirm, images))

    def for_any_machine(self) -> Self:
        """Without what this machine alone knows of local files."""
        if is_address(self.images[0].path):
            return self
        return replace(self, images=tuple(image._replace(identity=None) for image in self.images))


def _read(image: ImageFile) -> bytes:
    if is_address(image.path):
        return read_whole(image.path)
    try:
        with open(image.path, "rb") as file:
            refuse_changed(image.path, image.identity, identity_of(file.fileno()))
            return file.read()
    except OSError as error:
        raise source_error(error, image.path) from error


def _confirm(image: ImageFile) -> None:
    if image.identity is None:
        return
    try:
        now = identity_of(image.path)
    except OSError:
        now = "gone"
    refuse_changed(image.path, image.identity, now)


def read_images(found: Sequence[Found], *, by_folder: bool) -> list[ImageFolder]:
    """Image files as one file of the source or, `by_folder`, as one for each top folder train, val, test."""
    names = relative_names((one.base, one.path) for one in found)
    images = sorted(ImageFile(names[one.path], one.path, one.bytes, one.identity) for one in found)
    origin = found[0].origin
    if not by_folder:
        return [ImageFolder(NAME, tuple(images), origin=origin)]
    folders: dict[str, list[ImageFile]] = {}
    for image in images:
        top, slash, _ = image.name.partition("/")
        try:
            split_of_file(top if slash else "")
        except ConfigError:
            raise ConfigError(
                redacted(image.path),
                "lies in no folder train, validation, val or test, where --splits source looks for it",
                "move it, or split by content with --splits train=70,val=20,test=10",
            ) from None
        folders.setdefault(top, []).append(image)
    return [ImageFolder(top, tuple(inside), origin=origin) for top, inside in sorted(folders.items())]
