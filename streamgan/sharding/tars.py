"""A tar that another program made, read once: its samples, the CRC-32 of their images, its damage.

A sample is a run of members whose names agree up to the first dot of the file name, as in WebDataset.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isal import isal_zlib

from streamgan.core.errors import DataError
from streamgan.core.files import sha256_file
from streamgan.data.format import Member, Sample

from .check import PIXEL_LIMIT, BadRow, check_image
from .rows import Cell

BLOCK = 512  # tar's unit of everything
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")  # webdataset's rule: the key ends at the first dot
_LARGEST = 2**32 - 1  # bytes of a member that the packed index can say


@dataclass
class Scan:
    """What one tar holds."""

    samples: list[Sample] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)
    sha256: str = ""
    bytes: int = 0


def scan_tar(path: Path, names: dict[str, tuple[str, ...]]) -> Scan:
    """The usable samples of a tar; `names` are endings by role. DataError if it is damaged."""
    scan = Scan(bytes=path.stat().st_size)
    todo = "restore it, or move it elsewhere"
    try:
        with open(path, "rb") as file:
            try:
                with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                    for number, (key, members) in enumerate(_samples(tar)):
                        _add(scan, file, path.name, number, key, members, names)
                    end = tar.offset  # type: ignore[attr-defined]
            except tarfile.TarError as error:
                raise DataError(path, f"not a tar, compressed, or damaged ({error})", todo) from error
            file.seek(end)
            if what := _bad_end(file, end):
                raise DataError(path, what, todo)
        scan.sha256 = sha256_file(path)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", "check the disk") from error
    return scan


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


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, list[tuple[str, tarfile.TarInfo]]]]:
    """(key, [(suffix, member)]) of each run of members of one key."""
    run: list[tuple[str, tarfile.TarInfo]] = []
    last: str | None = None
    for member in tar:
        tar.members.clear()  # type: ignore[attr-defined] - tarfile keeps all it has seen
        match = _NAME.fullmatch(member.name)
        if not match or not member.isreg() or member.issparse() or match[1].startswith("__"):
            continue
        if match[1] != last and last is not None:
            yield last, run
            run = []
        last = match[1]
        run.append((match[2].lower(), member))
    if last is not None:
        yield last, run


def _add(
    scan: Scan,
    file: Any,
    tar: str,
    number: int,
    key: str,
    members: list[tuple[str, tarfile.TarInfo]],
    names: dict[str, tuple[str, ...]],
) -> None:
    by_suffix = dict(members)
    scan.suffixes.update(by_suffix.keys())
    listed, sizes = [], {}
    try:
        if len(by_suffix) < len(members):
            raise BadRow("duplicate_member")
        for role in ("color", "gray"):
            suffix = next((name for name in names[role] if name in by_suffix), None)
            if suffix is None and role == "color":
                raise BadRow("missing")
            if suffix is None:
                continue
            member = by_suffix[suffix]
            if member.size > _LARGEST:
                raise BadRow("too_many_bytes", str(member.size))
            file.seek(member.offset_data)
            data = file.read(member.size)
            good = check_image(Cell(data), role, check="header", max_pixels=PIXEL_LIMIT)
            if good.changes:
                raise BadRow("gray_not_plain" if role == "gray" else "not_plain", ", ".join(good.changes))
            sizes[role] = good.size
            name = f"{role}.{good.extension}"
            listed.append(Member(name, member.offset_data, len(data), isal_zlib.crc32(data)))
        if len(set(sizes.values())) > 1:
            raise BadRow(
                "gray_size_differs", "{}x{} colour, {}x{} gray".format(*sizes["color"], *sizes["gray"])
            )
    except BadRow as bad:
        where = {"file": tar, "row": number, "name": key}
        scan.rejected.append({**where, "reason": bad.reason, "detail": bad.detail})
        return
    last = members[-1][1]
    end = last.offset_data + -(-last.size // BLOCK) * BLOCK
    begin = members[0][1].offset
    scan.samples.append(Sample(key, begin, end - begin, tuple(listed)))
