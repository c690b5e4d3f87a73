"""Locks on files (flock), which the kernel releases when a process ends, however it ends.

A lock belongs to the open file: a child that inherits it keeps it alive. What is opened with
`open_descriptor` is closed in every child of a fork at once.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from streamgan.core.logs import say

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_descriptors: set[int] = set()  # open in this process, of no use to its children


def try_lock(file: int | IO[Any], *, shared: bool = False) -> bool:
    """Lock an open file if nobody has; whether it is locked now. OSError where a file system has no locks."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_or_warn(file: int | IO[Any], folder: Path, *, shared: bool = False) -> bool:
    """As `try_lock`; on a file system without locks a line says so of `folder`, and nobody has it."""
    try:
        return try_lock(file, shared=shared)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        say(f"{folder}: this file system has no locks; make sure yourself that no other run writes here")
        return True


def wait_for_lock(file: int | IO[Any], *, shared: bool = False) -> None:
    """Lock an open file as soon as nobody else has; at once on a file system without locks."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def is_at(file: int | IO[Any], path: Path) -> bool:
    """Whether what is open still lies at `path`: a lock on a file that was removed excludes nobody."""
    try:
        descriptor = file if isinstance(file, int) else file.fileno()
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def open_descriptor(path: Path, flags: int) -> int:
    """`os.open`; the descriptor does not survive a fork."""
    descriptor = os.open(path, flags, 0o666)
    _descriptors.add(descriptor)
    return descriptor


def close_descriptor(descriptor: int) -> None:
    """Unlock and close. Nothing if a fork has closed it."""
    if descriptor in _descriptors:
        _descriptors.discard(descriptor)
        with suppress(OSError):  # of a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # for copies in children that have yet to close them
        os.close(descriptor)


def is_open(descriptor: int) -> bool:
    """Whether this very process opened it with `open_descriptor`, and has not closed it."""
    return descriptor in _descriptors


def _close_inherited() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited)
