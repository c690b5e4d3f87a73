"""Who writes below a prefix of a bucket, where nothing can be locked.

A sharder leaves a lease there and renews it; one that has not been renewed for EXPIRES_S is that of a dead
sharder, and at once that of a dead process of this machine. Ages are told by the clock of the store alone.
Leases are advice: two sharders of one set would write the same bytes, and only tidy up behind each other.

To take over a dead lease its next generation is created, which the store lets one program do only. A sharder
that was merely asleep finds that generation, or its own lease gone, and stops.
"""

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.files import json_bytes
from streamgan.core.storage.place import ObjectPath

RENEW_S, EXPIRES_S = 15.0, 60.0
WHOLE = "all"  # the label of a sharder that is alone
_FOLDER = "leases"
_NAME = re.compile(r"(.+)\.(\d{6})\.json")
_BOOT, _PROCESSES = "/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"


class BucketLease:
    """A lease on the folder `work`, renewed by a thread from `start` to `release`."""

    def __init__(self, work: ObjectPath, label: str, generation: int):
        self.path, self.label, self.generation = _path(work, label, generation), label, generation
        self._work, self._lost = work, False
        owner = {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid()}
        self._owner = json_bytes({**owner, "token": secrets.token_hex(8)})
        self._renewed, self._released = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {work}", daemon=True)

    def take(self) -> bool:
        """Create it; False if somebody else has."""
        self._renewed = time.monotonic()
        return self.path.create(self._owner)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """DataError if another sharder may have taken this one for dead."""
        if self._lost or time.monotonic() - self._renewed > EXPIRES_S:
            what = "its lease was taken over, or could not be renewed in time"
            todo = "run the same command again to continue; finished shards are kept"
            raise DataError(self._work.parent, what, todo)

    def renew(self) -> None:
        """Say once more that this sharder lives."""
        asked = time.monotonic()
        if max(_generations(self._work, self.label), default=0) != self.generation:
            self._lost = True
            return
        self.path.write_bytes(self._owner)
        self._renewed = asked

    def release(self) -> None:
        """Let others in. Where the store cannot be reached they have to wait until it has expired."""
        self._released.set()
        if self._thread.ident:
            self._thread.join()
        with suppress(DataError):
            self.path.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._lost and not self._released.wait(RENEW_S):
            with suppress(DataError):  # `check` speaks when it has lasted too long
                self.renew()


@contextmanager
def leased(work: ObjectPath, label: str, *, conflicts: Callable[[str], str | None]) -> Iterator[BucketLease]:
    """A lease on `work`, from here to the end of the block; its release is the last that is written there.

    `conflicts(label)` says what is wrong with another live lease, in words, or None. ConfigError if one is.
    """
    lease = _take(work, label, conflicts(label) or f"{label} is running already")
    try:
        # ours stands before we look for others, and theirs before they look for ours: not both go on
        for other, generation in _found(work):
            if (other, generation) != (label, lease.generation) and (what := conflicts(other)):
                _refuse_living(work, other, generation, what)
                if other == label:
                    _path(work, label, generation).unlink(missing_ok=True)  # the dead one that ours replaces
        lease.start()
        yield lease
    finally:
        lease.release()


def _take(work: ObjectPath, label: str, what: str) -> BucketLease:
    last = max(_generations(work, label), default=0)
    if last:
        _refuse_living(work, label, last, what)
    lease = BucketLease(work, label, last + 1)
    if not lease.take():
        raise _busy(work, what, "since a moment ago")
    return lease


def _refuse_living(work: ObjectPath, label: str, generation: int, what: str) -> None:
    """ConfigError naming the holder of a lease that is not dead."""
    path = _path(work, label, generation)
    try:
        owner = json.loads(path.read_bytes())
    except FileNotFoundError:
        return  # just released
    except ValueError:
        owner = {}
    if owner.get("machine") == _machine() and not _is_alive(owner.get("pid")):
        return
    age = _age(path)
    if age is not None and age < EXPIRES_S:
        who = f"{owner.get('host')}, process {owner.get('pid')}, heard of {age:.0f} s ago"
        raise _busy(work, what, who)


def _busy(work: ObjectPath, what: str, who: str) -> ConfigError:
    todo = f"wait for it, {EXPIRES_S:.0f} s if it was killed, or choose another --out"
    return ConfigError(work.parent, f"{what} ({who})", todo)


def _found(work: ObjectPath) -> list[tuple[str, int]]:
    """(label, generation) of every lease."""
    matches = [_NAME.fullmatch(path.name) for path in (work / _FOLDER).iterdir()]
    return sorted((match[1], int(match[2])) for match in matches if match)


def _generations(work: ObjectPath, label: str) -> list[int]:
    return [generation for other, generation in _found(work) if other == label]


def _path(work: ObjectPath, label: str, generation: int) -> ObjectPath:
    return work / _FOLDER / f"{label}.{generation:06d}.json"


def is_lease(path: ObjectPath, label: str) -> bool:
    """Whether `path` is a lease of `label`."""
    match = _NAME.fullmatch(path.name)
    return path.parent.name == _FOLDER and match is not None and match[1] == label


def _age(path: ObjectPath) -> float | None:
    """Seconds since an object was written, as its store sees it; None if it is gone."""
    probe = path.parent / f"clock-{secrets.token_hex(4)}"
    probe.touch()
    try:
        now, then = probe.modified(), path.modified()
        return (now - then).total_seconds() if now and then else None
    finally:
        probe.unlink(missing_ok=True)


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, TypeError, ValueError):
        return True
    return True


def _machine() -> str:
    """What processes have in common that see each other's ids: one boot of one machine, one container."""
    try:
        return f"{Path(_BOOT).read_text().strip()} {os.stat(_PROCESSES).st_ino}"
    except OSError:
        return secrets.token_hex(8)  # like no other
