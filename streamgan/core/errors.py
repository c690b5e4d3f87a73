"""Errors a user can cause, each one line long: where it is, what is wrong, what to do.

Anything else that escapes is a defect of streamgan and keeps its traceback.
"""

from typing import Any


class StreamganError(Exception):
    """Shown as `WHERE: WHAT; WHAT TO DO` with `exit_code` as the exit status of the process."""

    exit_code = 1

    def __init__(self, where: object, what: str, todo: str):
        super().__init__(str(where), what, todo)  # args hold all three, so the error pickles across processes
        self.where, self.what, self.todo = str(where), what, todo

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.todo}"


class CheckFailed(StreamganError):
    """A check that the user asked for found something (exit code 1); `report`, as JSON values, says what."""

    def __init__(self, where: object, what: str, todo: str, report: dict[str, Any] | None = None):
        super().__init__(where, what, todo)
        self.report = report or {}


class ConfigError(StreamganError):
    """Options or configuration that cannot be carried out (exit code 2)."""

    exit_code = 2


class DataError(StreamganError):
    """Input data or shards that are missing, damaged or of the wrong kind (exit code 3)."""

    exit_code = 3


class CheckpointError(StreamganError):
    """A run folder or model file that is missing, damaged or does not fit (exit code 4)."""

    exit_code = 4
