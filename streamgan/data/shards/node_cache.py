"""A folder of downloaded files that all processes of a machine share and that never grows over its cap.

```
FOLDER/lock                     flock: taken for every change of what is kept, for milliseconds
FOLDER/blobs/SHA256             a whole file, named by its content
FOLDER/blobs/SHA256.SIZE.part   a download; counts with its full SIZE; flock: somebody works on it
FOLDER/sets/                    manifests: see `known_set`
FOLDER/users/NAME.lease         hashes that a process needs, one per line; flock: it is alive
```

The kernel drops a killed process's locks, so nothing has to be cleaned up: its lease is void, its download is
continued by whoever needs it. What a live lease names is never evicted. Names appear by rename, after the
sha256 was checked. Children of a fork close these descriptors at once: a copy would keep locks, and the
space of evicted files, alive. The folder must be on a disk of this machine.
"""

import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from streamgan.core.errors import DataError
from streamgan.core.logs import say
from streamgan.core.storage.locks import close_descriptor, is_at, is_open, open_descriptor, try_lock

LOCK_TIMEOUT_S = 60.0
_POLL_S = 0.002


class Deleted(DataError):
    """Somebody deletes the folder at this moment: to be tried again."""


class Blob(NamedTuple):
    """A file at an address, known by its content."""

    sha256: str
    bytes: int
    address: str


class Claim(NamedTuple):
    """What became of a wish for a blob.

    "there": it is in the cache; "mine": download it to `descriptor`, then commit or release; "busy":
    another one does; "full": nothing may be evicted for it. The lease holds it if it is there or mine.
    """

    state: Literal["there", "mine", "busy", "full"]
    descriptor: int = -1


class NodeCache:
    """The cache in `folder`, which is made if need be. Methods may be called from any thread or process."""

    def __init__(self, folder: Path, cap_bytes: int):
        self.folder, self.cap_bytes, self._was_there = folder.absolute(), cap_bytes, False
        self.blobs, self.users = self.folder / "blobs", self.folder / "users"
        with self._locked():  # a lower cap than last time
            self._make_room(0, lambda sha256: math.inf)

    def path(self, sha256: str) -> Path:
        """Where a blob lies once it is complete."""
        return self.blobs / sha256

    def usage(self) -> int:
        """Bytes kept and reserved."""
        with self._locked():
            return sum(size for _, size, _ in self._entries())

    def progress(self, blobs: Iterable[Blob]) -> list[tuple[int, int]]:
        """A value that changes whenever a byte of these downloads arrives."""
        found = []
        for blob in blobs:
            with suppress(OSError):
                about = self._part(blob).stat()
                found.append((about.st_size, about.st_mtime_ns))
        return found

    def lease(self) -> "CacheLease":
        return CacheLease(self)

    def claim(self, blob: Blob, lease: "CacheLease", next_use: Callable[[str], float]) -> Claim:
        """Reserve the space of a blob and the right to download it, unless it is there.

        `next_use` says when this job needs a blob again, in steps; the one furthest ahead is evicted first,
        of those never needed (infinity) the one used longest ago.
        """
        with self._locked():
            lease._renew()
            with suppress(FileNotFoundError):
                os.utime(self.path(blob.sha256))
                lease._add(blob.sha256)
                return Claim("there")
            part = self._part(blob)
            flags = os.O_RDWR
            if not part.exists():
                if not self._make_room(blob.bytes, next_use):
                    return Claim("full")
                flags |= os.O_CREAT | os.O_EXCL
            descriptor = open_descriptor(part, flags)
            if not try_lock(descriptor):
                close_descriptor(descriptor)
                return Claim("busy")
            lease._add(blob.sha256)
            return Claim("mine", descriptor)

    def commit(self, blob: Blob, descriptor: int) -> bool:
        """The download behind `descriptor` is whole and right: give it its name. False if it was deleted."""
        os.fsync(descriptor)
        with self._locked():
            if there := is_at(descriptor, self._part(blob)):
                os.replace(self._part(blob), self.path(blob.sha256))
        close_descriptor(descriptor)
        return there

    def mark_damaged(self, blob: Blob, inode: int) -> None:
        """Make a damaged file a download again, in which what is right need not be fetched anew."""
        with self._locked(), suppress(FileNotFoundError):
            if self.path(blob.sha256).stat().st_ino == inode:
                os.replace(self.path(blob.sha256), self._part(blob))

    def discard(self, blob: Blob, inode: int) -> None:
        """Remove a damaged file; who has mapped it keeps what it had."""
        with self._locked(), suppress(FileNotFoundError):
            if self.path(blob.sha256).stat().st_ino == inode:
                self.path(blob.sha256).unlink()

    def _part(self, blob: Blob) -> Path:
        return self.blobs / f"{blob.sha256}.{blob.bytes}.part"

    def _entries(self) -> list[tuple[str, int, float]]:
        """(name, bytes reserved, time of last use) of all that is kept."""
        found = []
        for entry in os.scandir(self.blobs):
            with suppress(FileNotFoundError):
                about = entry.stat()
                parts = entry.name.split(".")
                reserved = int(parts[1]) if len(parts) == 3 else 0
                found.append((entry.name, max(about.st_size, reserved), about.st_mtime))
        return found

    def _make_room(self, num_bytes: int, next_use: Callable[[str], float]) -> bool:
        """Evict until `num_bytes` fit under the cap; False, and nothing is evicted, if they cannot."""
        entries = self._entries()
        excess = sum(size for _, size, _ in entries) + num_bytes - self.cap_bytes
        if excess <= 0:
            return True
        leased = self._leased()
        free = [entry for entry in entries if entry[0].partition(".")[0] not in leased]
        if sum(size for _, size, _ in free) < excess:
            return False
        free.sort(key=lambda entry: (-next_use(entry[0].partition(".")[0]), entry[2]))
        for name, size, _ in free:
            if excess <= 0:
                break
            (self.blobs / name).unlink(missing_ok=True)
            excess -= size
        return True

    def _leased(self) -> set[str]:
        """What the leases of live processes name; the others are removed."""
        found: set[str] = set()
        for path in list(self.users.iterdir()):
            with suppress(FileNotFoundError):
                descriptor = open_descriptor(path, os.O_RDONLY)
                try:
                    if try_lock(descriptor):
                        path.unlink(missing_ok=True)
                    else:
                        found.update(path.read_text().split())
                finally:
                    close_descriptor(descriptor)
        return found

    def _open_lock(self) -> int:
        """The open lock, with the folders, also if somebody deletes them while they are used."""
        try:
            with suppress(FileExistsError):
                self.folder.mkdir(parents=True)
                if self._was_there:
                    say(f"{self.folder}: deleted while in use; made again, shards are fetched anew")
            self._was_there = True
            for inner in (self.blobs, self.users):
                with suppress(FileExistsError):
                    inner.mkdir()
            return open_descriptor(self.folder / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._failed(error) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = self._open_lock()
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not (locked := try_lock(descriptor)) or not is_at(descriptor, self.folder / "lock"):
                if time.monotonic() > deadline:
                    what = f"locked by another process for {LOCK_TIMEOUT_S:.0f} s"
                    todo = "end that process, or choose another data.cache"
                    raise DataError(self.folder / "lock", what, todo)
                if locked:  # a lock that was deleted excludes nobody
                    close_descriptor(descriptor)
                    descriptor = self._open_lock()
                else:
                    time.sleep(_POLL_S)
            yield
        except OSError as error:
            raise self._failed(error) from error
        finally:
            close_descriptor(descriptor)

    def _failed(self, error: OSError) -> DataError:
        kind = Deleted if isinstance(error, FileNotFoundError) else DataError
        return kind(self.folder, f"cannot be used ({error.strerror})", "choose another data.cache")


class CacheLease:
    """The blobs that this process needs and nobody may evict. Held until closed, or the process ends."""

    def __init__(self, cache: NodeCache):
        self._cache, self._pid, self._held = cache, os.getpid(), set[str]()
        self._path = cache.users / f"{os.getpid()}-{uuid.uuid4().hex}.lease"
        with cache._locked():  # so that nobody takes it for a dead one before it is locked
            self._open()

    @property
    def valid(self) -> bool:
        """Not so when closed, or in a child of the process that took it."""
        return self._pid == os.getpid() and is_open(self._descriptor)

    def drop(self, hashes: Iterable[str]) -> None:
        """No longer needed."""
        with self._cache._locked():
            self._held.difference_update(hashes)
            self._write()

    def close(self) -> None:
        if self.valid:
            with suppress(OSError):  # deleted, or out of reach: void all the same
                self._path.unlink()
            close_descriptor(self._descriptor)
            self._descriptor = -1  # the next file may get its number

    def _open(self) -> None:
        self._descriptor = open_descriptor(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try_lock(self._descriptor)

    def _renew(self) -> None:
        """Be there again if somebody has deleted it."""
        if not self._path.exists():
            deleted = self._descriptor
            self._open()  # which fails if the folder is being deleted
            close_descriptor(deleted)
            self._write()

    def _add(self, sha256: str) -> None:
        if sha256 not in self._held:
            self._held.add(sha256)
            self._write()

    def _write(self) -> None:
        assert self.valid
        data = "".join(f"{sha256}\n" for sha256 in sorted(self._held)).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
