"""Errors a user can cause, each one line long: where it is, what is wrong, what to do.

Errors of the operating system become one of these with `file_error`, which knows the advice for each kind.
Anything else that escapes is a defect of streamgan and keeps its traceback.
"""

import errno
import os
import resource
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)


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


def file_error(
    error: OSError,
    where: object = None,
    *,
    what: str = "",
    then: str = "",
    kind: type[StreamganError] = DataError,
) -> StreamganError:
    """`error` as `WHERE: WHAT (REASON); ADVICE, then THEN`, with the advice that helps against its errno.

    `where`: the file or folder; None: what the error itself names.
    """
    where = where if where is not None else error.filename or "a file"
    reason = error.strerror or in_one_line(error)
    # of a call with a descriptor the system names that
    advice = _advice(error.errno, error.filename if isinstance(error.filename, str) else str(where))
    return kind(where, f"{what} ({reason})" if what else reason, f"{advice}, then {then}" if then else advice)


def in_one_line(error: BaseException) -> str:
    """What an error says; its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def is_of_file_system(error: OSError) -> bool:
    """Whether `error` is about a file, a folder or a limit, and not about a network."""
    return error.filename is not None or _advice(error.errno, "") != _OTHER


_OTHER = "check the file system it is on"


def _advice(number: int | None, path: str) -> str:
    match number:
        case errno.ENOSPC:
            return "make room on that disk"
        case errno.EDQUOT:
            return "make room, or have your quota raised"
        case errno.EACCES | errno.EPERM:
            return "change the permissions there (chmod, chown) or choose another place"
        case errno.EROFS:
            return "the file system is read-only: mount it writable or choose another place"
        case errno.ENAMETOOLONG:
            return "choose a shorter name"
        case errno.EMFILE:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            limits = f"`ulimit -n {max(4 * soft, 4096)}` (now {soft}, hard limit {hard})"
            return f"raise the limit on open files: {limits}"
        case errno.ENFILE:
            return "the machine has too many files open: end other programs or raise the limit fs.file-max"
        case errno.ENOTDIR:
            return "a file is in the way of a folder: move it, or choose another place"
        case errno.EISDIR | errno.ENOTEMPTY:
            return "a folder is in the way of a file: move it, or choose another name"
        case errno.EEXIST:
            if os.path.islink(path) and not os.path.exists(path):
                return (
                    f"it is a link to {os.readlink(path)}, which is not there: make that, or remove the link"
                )
            return "a file is in the way: move it, or choose another name"
        case errno.ENOENT:
            return "its folder is gone, or a link on the way points nowhere: make it again"
        case errno.ELOOP:
            return "links point to each other there: remove one"
        case errno.EIO:
            return f"the device mounted at {_mount_point(path)} fails: see `dmesg`, check or replace it"
        case errno.EFBIG:
            return "the file system or `ulimit -f` allows no file so large: raise it or choose another place"
        case errno.ESTALE | errno.ENOTCONN:
            return f"the file system mounted at {_mount_point(path)} has gone: mount it again"
        case _:
            return _OTHER


def _mount_point(path: str) -> Path:
    place = Path(path).absolute()
    return next(folder for folder in (place, *place.parents) if os.path.ismount(folder))
