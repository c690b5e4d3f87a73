"""A tar that another program made, read once: its samples, the CRC-32 of their images, its damage.

A sample is a run of members whose names agree up to the first dot of the file name, as in WebDataset. What
is no sample's image is counted, by its ending or by a word.
"""

import hashlib
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from isal import isal_zlib

from streamgan.core.errors import DataError, file_error
from streamgan.core.storage.download import CHUNK_BYTES
from streamgan.core.storage.place import Place
from streamgan.data.format import Member, Sample
from streamgan.sharding.sample.check import BYTE_LIMIT, PIXEL_LIMIT, BadRow, check_image
from streamgan.sharding.source.rows import Cell
from streamgan.sharding.unit.tar import BLOCK

_NAME = re.compile(
    r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL
)  # webdataset's rule: the first dot ends the key


@dataclass
class Scan:
    """What one tar holds. `passed_over` counts members that no sample uses, of good samples and of none."""

    samples: list[Sample] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    sha256: str = ""
    bytes: int = 0


class _Part(NamedTuple):
    """A member of a sample: header and data lie in [begin, end), the data of a link elsewhere.

    `problem` is the reason why its data cannot be used, if it cannot.
    """

    suffix: str
    begin: int
    end: int
    data: int = 0
    size: int = 0
    problem: str = ""
    detail: str = ""


class _Tar(tarfile.TarFile):
    def next(self) -> tarfile.TarInfo | None:
        try:
            return super().next()
        except ValueError as error:  # numbers of an extended header
            raise tarfile.ReadError(f"a header makes no sense: {error}") from error


def scan_tar(path: Place, names: dict[str, tuple[str, ...]]) -> Scan:
    """The usable samples of a tar; `names` are endings by role. DataError if it is damaged.

    One in a bucket is fetched once, into a temporary file without a name.
    """
    todo = "restore it, or move it elsewhere"
    scan, runs = Scan(), dict[str, list[tuple[str, ...]]]()
    try:
        if isinstance(path, Path) and not path.is_file():
            raise DataError(path, "is not a file", "move it elsewhere")
        with _opened(path) as file:
            scan.bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            try:
                with _Tar.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                    for number, (key, parts) in enumerate(_samples(tar, scan.passed_over)):
                        runs.setdefault(key, []).append(tuple(part.suffix for part in parts))
                        _add(scan, file, path.name, number, key, parts, names)
                    end = tar.offset  # type: ignore[attr-defined]
            except tarfile.TarError as error:
                raise DataError(path, f"not a tar, compressed, or damaged ({error})", todo) from error
            file.seek(end)
            if what := _bad_end(file, end):
                raise DataError(path, what, todo)
            file.seek(0)
            scan.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise file_error(error, path, what="cannot be read") from error
    _reject_scattered(scan, path.name, {key: found for key, found in runs.items() if len(found) > 1})
    return scan


@contextmanager
def _opened(path: Place) -> Iterator[Any]:
    if isinstance(path, Path):
        with open(path, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile(prefix="streamgan-") as file, path.open_binary() as there:
        shutil.copyfileobj(there, file, CHUNK_BYTES)
        file.seek(0)
        yield file


def _bad_end(file: Any, end: int) -> str | None:
    """tarfile takes a damaged header, and the end of the file, for the end of the archive."""
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        return f"ends at byte {end + len(block)} without an end mark: cut short"
    if any(block):
        return f"damaged tar header at byte {end}"
    while chunk := file.read(1 << 20):
        if any(chunk):
            return f"more data after the end mark at byte {end} (tars one after the other?)"
    return None


def _samples(tar: tarfile.TarFile, passed_over: Counter[str]) -> Iterator[tuple[str, list[_Part]]]:
    """(key, members) of each run of members of one key."""
    run: list[_Part] = []
    last: str | None = None
    for name, part in _parts(tar):
        match = _NAME.fullmatch(name)
        if part is None or not match:
            hidden = posixpath.basename(name).startswith(".")
            passed_over["not a file" if part is None else "hidden" if hidden else "no ending"] += 1
            continue
        if match[1] != last and last is not None:
            yield _printable(last), run
            run = []
        last = match[1]
        run.append(part._replace(suffix=_printable(match[2].lower())))
    if last is not None:
        yield _printable(last), run


def _parts(tar: tarfile.TarFile) -> Iterator[tuple[str, _Part | None]]:
    """(name, place) of every member that is no folder; None of devices and the like.

    A link to a member before it has the data of that.
    """
    places: dict[str, tuple[int, int]] = {}
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] - tarfile keeps all it has seen
        begin, end = member.offset, tar.offset  # type: ignore[attr-defined]
        if end <= begin or member.size < 0:
            raise tarfile.ReadError(f"impossible size at byte {begin}")
        name, path = member.name, posixpath.normpath(member.name)
        if member.issparse():
            yield name, _Part("", begin, end, problem="sparse")
        elif member.isreg():
            places[path] = member.offset_data, member.size
            yield name, _Part("", begin, end, *places[path])
        elif member.islnk() or member.issym():
            folder = posixpath.dirname(path) if member.issym() else ""
            target = posixpath.normpath(posixpath.join(folder, member.linkname))
            if target in places:
                places[path] = places[target]
                yield name, _Part("", begin, end, *places[target])
            else:
                detail = f"to {_printable(member.linkname)}, which is no file before it in this tar"
                yield name, _Part("", begin, end, problem="link", detail=detail)
        elif not member.isdir():
            yield name, None


def _printable(text: str) -> str:
    """`text` as it may stand in a message: bytes that are not UTF-8 and control characters are escaped."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _add(
    scan: Scan,
    file: Any,
    tar: str,
    number: int,
    key: str,
    parts: list[_Part],
    names: dict[str, tuple[str, ...]],
) -> None:
    by_suffix = {part.suffix: part for part in parts}
    scan.suffixes.update(by_suffix.keys())
    listed, sizes, used = [], {}, set[str]()
    try:
        if len(by_suffix) < len(parts):
            raise BadRow("duplicate_member")
        for role in ("color", "gray"):
            suffix = next((name for name in names[role] if name in by_suffix), None)
            if suffix is None and role == "color":
                raise BadRow("missing")
            if suffix is None:
                continue
            part = by_suffix[suffix]
            if part.problem:
                raise BadRow(f"gray_{part.problem}" if role == "gray" else part.problem, part.detail)
            if part.size > BYTE_LIMIT:  # not to be read, either
                raise BadRow("gray_too_many_bytes" if role == "gray" else "too_many_bytes", str(part.size))
            file.seek(part.data)
            data = file.read(part.size)
            good = check_image(Cell(data), role, check="header", max_pixels=PIXEL_LIMIT)
            if good.changes:
                raise BadRow("gray_not_plain" if role == "gray" else "not_plain", ", ".join(good.changes))
            sizes[role] = good.size
            used.add(suffix)
            name = f"{role}.{good.extension}"
            listed.append(Member(name, part.data, len(data), isal_zlib.crc32(data)))
        if len(set(sizes.values())) > 1:
            raise BadRow(
                "gray_size_differs", "{}x{} colour, {}x{} gray".format(*sizes["color"], *sizes["gray"])
            )
    except BadRow as bad:
        scan.rejected.append(rejection(tar, number, key, bad.reason, bad.detail))
        return
    scan.passed_over.update(f".{suffix}" for suffix in by_suffix if suffix not in used)
    begin, end = parts[0].begin, parts[-1].end
    scan.samples.append(Sample(key, begin, end - begin, tuple(listed)))


def rejection(tar: str, number: int, key: str, reason: str, detail: str = "") -> dict[str, Any]:
    """A line of the quarantine; `number` is that of the run of members in the tar, -1 if nobody counted."""
    return {"file": tar, "row": number, "name": key, "reason": reason, "detail": detail}


def _reject_scattered(scan: Scan, tar: str, runs: dict[str, list[tuple[str, ...]]]) -> None:
    """Reject the keys whose members come in several places of the tar, once each."""
    if not runs:
        return
    scan.samples = [sample for sample in scan.samples if sample.key not in runs]
    scan.rejected = [row for row in scan.rejected if row["name"] not in runs]
    for key, found in runs.items():
        endings = [suffix for run in found for suffix in run]
        twice = len(set(endings)) < len(endings)
        detail = f"{len(found)} places in this tar: " + "; ".join(
            " ".join(f".{suffix}" for suffix in run) for run in found[:4]
        )
        scan.rejected.append(rejection(tar, -1, key, "duplicate_member" if twice else "not_adjacent", detail))
