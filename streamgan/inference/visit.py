"""What a visitor of the page has: the photos given, what each model predicted for them, and the results.

The chroma of a photo is predicted once and kept, so the saturation moves without the generator. Results are
as `streamgan colorize` writes them; beside them lie small views for the browser.
"""

import itertools
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from streamgan.core.errors import StreamganError
from streamgan.core.storage.files import atomic_write

from .colorizer import Chroma, Colorizer
from .formats import ENDINGS, result_name
from .one_file import line, read_pages
from .photo import LIMITS, Limits, Photo
from .saving import Colored, save_pages, to_image

VIEW_PIXELS = 1600  # long side of what the browser is shown


class View(NamedTuple):
    """Images for the browser, of one `size`, (width, height)."""

    gray: Path
    color: Path
    size: tuple[int, int]


@dataclass
class Given:
    """A photo that was uploaded; its files lie in `folder`, its results are called `name`.

    By model: the chroma of every page, the result, and views of the first page.
    """

    source: Path  # a copy: uploads are removed after a while
    folder: Path
    name: str
    notes: tuple[str, ...] = ()
    chroma: dict[str, list[Chroma]] = field(default_factory=dict)
    results: dict[str, Path] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)


class Visit:
    """The photos of a visitor by the path of their upload, and why others could not be coloured."""

    def __init__(self, folder: Path, colorizers: Mapping[str, Colorizer], limits: Limits = LIMITS):
        self.folder, self._colorizers, self._limits = folder, colorizers, limits
        self.photos: dict[str, Given] = {}
        self.failed: dict[str, str] = {}
        self._numbers = itertools.count()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self, uploads: list[str]) -> None:
        """Forget all uploads but these."""
        for upload in self.photos.keys() - set(uploads):
            shutil.rmtree(self.photos.pop(upload).folder, ignore_errors=True)
        self.failed = {upload: why for upload, why in self.failed.items() if upload in uploads}

    def color(self, upload: str, saturation: float) -> None:
        """Put the results of an upload into `photos`, its chroma times `saturation`, or into `failed`."""
        if upload in self.failed:
            return
        given = self.photos.get(upload) or self._new(upload)
        try:
            if not given.chroma:
                shutil.copyfile(upload, given.source)
                self._predict(given)
            for name in self._colorizers:
                self._paint(given, name, saturation)
            self.photos[upload] = given
        except (OSError, ValueError, MemoryError, StreamganError) as error:
            reason = error.strerror if isinstance(error, OSError) else None  # without the folders here
            self.failed[upload] = reason or line(error)
            self.photos.pop(upload, None)
            shutil.rmtree(given.folder, ignore_errors=True)

    def _new(self, upload: str) -> Given:
        path, folder = Path(upload), self.folder / str(next(self._numbers))
        folder.mkdir(parents=True)
        return Given(folder / f"given{path.suffix}", folder, self._free(result_name(path.name)))

    def _predict(self, given: Given) -> None:
        """The chroma of all pages, by every model."""
        notes: dict[str, None] = {}
        for photo in self._pages(given):
            notes |= dict.fromkeys(photo.notes)
            for name, colorizer in self._colorizers.items():
                given.chroma.setdefault(name, []).extend(colorizer.predict([photo]))
        given.notes = tuple(notes)

    def _free(self, name: str) -> str:
        """`name`, with a number before its ending where another photo is called so."""
        taken, (stem, ending) = {given.name for given in self.photos.values()}, os.path.splitext(name)
        numbered = (f"{stem}-{number}{ending}" for number in itertools.count(2))
        return next(one for one in itertools.chain([name], numbered) if one not in taken)

    def _pages(self, given: Given) -> Iterator[Photo]:
        return read_pages(given.source, _kind(given), self._limits)

    def _paint(self, given: Given, name: str, saturation: float) -> None:
        """Write what a model makes of a photo: the result, and views of it."""
        colorizer, chroma, before = self._colorizers[name], given.chroma[name], given.views.get(name)

        def colored() -> Iterator[Colored]:
            for page, photo in enumerate(self._pages(given)):
                rgb_HW3 = colorizer.paint(photo, _times(chroma[page], saturation))
                if page == 0:
                    gray = before.gray if before else None
                    if gray is None:
                        gray = self._write_view(given, photo, colorizer.paint(photo, _times(chroma[0], 0)))[0]
                    given.views[name] = View(gray, *self._write_view(given, photo, rgb_HW3))
                yield photo, [rgb_HW3]

        place = given.folder / str(list(self._colorizers).index(name))
        place.mkdir(exist_ok=True)
        given.results[name] = place / given.name
        with atomic_write(given.results[name]) as file:
            save_pages(colored(), file, _kind(given))
        if before:
            before.color.unlink(missing_ok=True)

    def _write_view(self, given: Given, photo: Photo, rgb_HW3: np.ndarray) -> tuple[Path, tuple[int, int]]:
        """A small copy under a name that no browser has seen, and its size."""
        image = to_image(photo, rgb_HW3).convert("RGB")
        image.thumbnail((VIEW_PIXELS, VIEW_PIXELS))
        path = given.folder / f"view-{next(self._numbers)}.jpg"
        image.save(path, quality=90, icc_profile=photo.profile)
        return path, image.size

    def download(self) -> Path | None:
        """The one result, or a zip of all, in a folder for each model if there are several."""
        several = len(self._colorizers) > 1
        results = {
            f"{name}/{given.name}" if several else given.name: path
            for given in self.photos.values()
            for name, path in given.results.items()
        }
        if len(results) < 2:
            return next(iter(results.values()), None)
        archive = self.folder / "colored.zip"
        with atomic_write(archive) as file, zipfile.ZipFile(file, "w") as packed:
            for name, path in results.items():
                packed.write(path, name)
        return archive


def _kind(given: Given) -> str:
    """The format of the results."""
    return ENDINGS[Path(given.name).suffix.lower()]


def _times(chroma: Chroma, saturation: float) -> Chroma:
    return chroma._replace(chroma_12hw=chroma.chroma_12hw * saturation)
