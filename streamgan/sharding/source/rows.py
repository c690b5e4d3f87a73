"""What a source gives, whatever it is made of: files that can be listed, and rows of encoded images."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, Self

Data = bytes | memoryview  # a view of unsigned bytes saves a copy of each image


class Cell(NamedTuple):
    """An image as the row holds it: its bytes, or None with perhaps a path to a file we do not have."""

    data: Data | None
    path: str | None = None


class Row(NamedTuple):
    """A row by its number in the file. `text` is raw UTF-8, not yet checked; `name` an image file's."""

    number: int
    color: Cell
    gray: Cell | None
    text: bytes | None
    name: str | None = None


class SourceFile(Protocol):
    """A numbered list of rows in groups; `name` does not depend on where the source lies."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def group_rows(self) -> tuple[int, ...]: ...
    @property
    def text(self) -> str | None: ...

    def fingerprint(self) -> dict[str, Any]:
        """What tells this file from another one, as it stands in the manifest."""
        ...

    def read(self, *, row_group: int, start: int, stop: int) -> Iterator[Row]:
        """Rows [start, stop) of a group in their order, a few in memory at a time."""
        ...

    def confirm(self, row_groups: Iterable[int]) -> None:
        """DataError if what these groups are read from is not what was listed any more."""
        ...

    def for_any_machine(self) -> Self:
        """Without what this machine alone knows of the file: other nodes may have copies of their own."""
        ...
