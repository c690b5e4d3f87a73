"""What `streamgan colorize` says of its files: lines for some, counts, a report in JSON lines."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Self

import click

from streamgan.core.errors import CheckFailed, ConfigError, file_error
from streamgan.core.logs import say
from streamgan.core.storage.walk import counted

from .output import emit

_NAMED_FAILURES = 1000  # in the result of --json
_HEAD, _BLOCK = b'{"file": ', 4096
_MADE = ("planned", "colored", "partial", "left_alone")
_WORDS = {"failed": "not coloured", "partial": "coloured in part"}


class ColorReport:
    """Counts of outcomes by their kind, and the file of --report.

    A line of that file is complete once the result is there, so whatever ends the command leaves the lines of
    what is done. A file that is there is continued; a last line without an end, which a kill may leave, is
    taken away.
    """

    def __init__(self, path: Path | None = None):
        self.counts = {"colored": 0, "left_alone": 0, "skipped": 0, "failed": 0}
        self.passed, self.changed = Counter[str](), Counter[str]()
        self.failed: dict[str, str] = {}
        self._path, self._file = path, None if path is None else _continued(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def passed_over(self, path: Path, reason: str) -> None:
        self.passed[reason] += 1
        self._line(path, "passed_over", [reason])

    def unreadable(self, path: Path, reason: str) -> None:
        self._fail(path, reason, "failed")
        self._line(path, "failed", [reason])

    def outcome(self, outcome: Any) -> None:
        """An `inference.pipeline.Outcome`."""
        target, kind, text, seconds = outcome
        if kind in _WORDS:
            self._fail(target.source, text, kind)
        else:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            if text and kind != "skipped":
                say(f"{click.format_filename(target.source)}: {text}")
        before, after = target.source.suffix.lower(), target.path.suffix.lower()
        if kind in _MADE and before != after:
            self.changed[f"{before or 'no ending'} to {after}"] += 1
        made = None if kind == "failed" else target.path
        self._line(target.source, kind, [text] if text else [], made, seconds)

    def _fail(self, path: Path, reason: str, kind: str) -> None:
        self.counts["failed"] += 1
        if len(self.failed) < _NAMED_FAILURES:
            self.failed[click.format_filename(path)] = reason
        say(f"{click.format_filename(path)}: {_WORDS[kind]} ({reason})")

    def _line(
        self, path: Path, kind: str, notes: list[str], made: Path | None = None, seconds: float = 0.0
    ) -> None:
        if self._file is None or self._path is None:
            return
        size = os.path.getsize(made) if made is not None and os.path.exists(made) else None
        line = {"file": str(path), "result": None if made is None else str(made), "outcome": kind}
        line |= {"bytes": size, "notes": notes, "seconds": round(seconds, 3)}
        try:
            self._file.write(json.dumps(line).encode() + b"\n")  # ASCII: names that are not UTF-8 stay whole
            self._file.flush()
        except OSError as error:
            raise file_error(error, self._path, what="cannot be written") from error

    def finish(self, out: Path, *, as_json: bool) -> None:
        """The last lines; CheckFailed if a file failed."""
        result: dict[str, Any] = {"out": str(out)}
        result |= {f"num_{kind}": number for kind, number in self.counts.items()}
        result["passed_over"] = dict(self.passed)
        if self.changed:
            say(f"in another format: {counted(self.changed, most=None)}")
        if self.passed:
            say(f"passed over: {counted(self.passed, most=None)}")
        if self.failed:
            what = f"{self.counts['failed']} of {sum(self.counts.values())} photos failed"
            what += f" (first: {next(iter(self.failed))})"
            raise CheckFailed(out, what, "see the lines above", {**result, "failed": self.failed})
        if number := self.counts["left_alone"]:
            say(f"{number} in colour already, with results as they were; --recolor colours them")
        if self.counts["skipped"]:
            say(f"{self.counts['colored']} coloured, {self.counts['skipped']} were there already")
        if as_json:
            emit("", result, as_json=True)


def _continued(path: Path) -> BinaryIO:
    """The file at the end of its last whole line; ConfigError if it is something else than a report."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115 (closed by `close`)
        file.seek(0)
        head = file.read(len(_HEAD))
        if head != _HEAD[: len(head)]:
            file.close()
            raise ConfigError(path, "is no report of streamgan colorize", "choose another file for --report")
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)
        file.seek(0, os.SEEK_END)
    except OSError as error:
        raise file_error(error, path, what="cannot be written", kind=ConfigError) from error
    return file
