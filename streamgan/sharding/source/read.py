"""What a command line names as its source, resolved: parquet files or folders of images, here or far away."""

from collections import Counter
from collections.abc import Mapping, Sequence

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.address import redacted
from streamgan.core.storage.walk import counted, ending

from . import hub, images, parquet
from .columns import Wanted
from .listing import Found, find, without_copies
from .rows import Cell, Data, Row, SourceFile

__all__ = ["Cell", "Data", "Row", "SourceFile", "Wanted", "read_source"]

ALL = Wanted()


def read_source(
    sources: Sequence[str],
    wanted: Wanted = ALL,
    *,
    split_folders: bool = False,
    commits: Mapping[str, str] | None = None,
    passed: Counter[str] | None = None,
) -> Sequence[SourceFile]:
    """Every file of the source, listed and, for parquet, with its footer read; no row is read.

    A folder that holds parquet files is a parquet source, whatever else it holds; a folder of images gives
    colour alone, and with `split_folders` one file for each of its folders train, val and test. `commits` of
    repositories of the Hub stand in for revisions that are not named. `passed` is told how many files were
    passed over, by their ending or the reason.
    """
    passed = Counter() if passed is None else passed
    tables: list[Found] = []
    photos: list[Found] = []
    for source in sources:
        suffixes = (parquet.SUFFIX, *images.SUFFIXES)
        on_hub = hub.is_hub(source)
        found = (
            hub.find(source, suffixes, commits or {}, passed) if on_hub else find(source, suffixes, passed)
        )
        pictures = [one for one in found if _is_image(one)]
        others = [one for one in found if not _is_image(one)]
        if not found:
            what = "holds no .parquet file and no image" + (f" (got {counted(passed)})" if passed else "")
            raise DataError(redacted(source), what, "name a folder or file of the source")
        if others:
            passed.update(ending(redacted(one.path)) for one in pictures)
        (tables if others else photos).extend(others or pictures)
    if tables and photos:
        named = f"{redacted(photos[0].path)} is an image, {redacted(tables[0].path)} is parquet"
        raise ConfigError("SOURCE", named, "shard them separately")
    if tables:
        return parquet.read_footers(without_copies(tables, passed), wanted)
    named = any((wanted.image, wanted.gray, wanted.text))
    if useless := ["--columns"] * named + ["--keep-text"] * wanted.keep_text:
        raise ConfigError(useless[0], "a folder of images has no columns", f"leave out {useless[0]}")
    return images.read_images(without_copies(photos, passed), by_folder=split_folders)


def _is_image(found: Found) -> bool:
    return redacted(found.path).lower().endswith(images.SUFFIXES)
