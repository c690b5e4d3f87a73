"""The folder of a set on a disk: locks say who works in it, temporary names what is unfinished."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from streamgan.core.errors import ConfigError
from streamgan.core.storage.local import TEMPORARY_SUFFIX, LocalPath
from streamgan.core.storage.locks import is_at, lock_or_warn, try_lock, wait_for_lock
from streamgan.sharding.unit.writer import WORK, disk_errors

from .parts import Part, forget_count

ORPHANS_TIMEOUT_S = 10.0
_LOCK, _CLAIM_LOCK = "lock", "claim.lock"


@dataclass(frozen=True)
class LocalFolder:
    """A `Folder` on a disk of this machine, or one that several machines have mounted."""

    root: LocalPath

    @property
    def work(self) -> LocalPath:
        return self.root / WORK

    def make(self) -> None:
        with disk_errors(self.root):
            self.work.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self, part: Part | None = None) -> Iterator[Callable[[], None]]:
        wait = "wait for it, or choose another --out"
        with ExitStack() as stack:
            stack.callback(self._remove_if_empty)
            if part is None:
                self._hold(stack, _LOCK, "another sharder is writing here", wait)
                forget_count(self.work)
            else:
                self._hold(stack, _LOCK, "a sharder without --part is writing here", wait, shared=True)
                what, name = f"part {part} is running already", f"part-{part.label}.lock"
                self._hold(stack, name, what, "wait for it, or run another part")
            yield lambda: None

    def _hold(self, stack: ExitStack, name: str, what: str, todo: str, *, shared: bool = False) -> None:
        """Lock a file of the work folder until `stack` is left, or ConfigError saying `what` and `todo`."""
        path, busy = self.work / name, ConfigError(self.root, what, todo)
        try:
            # NFS takes a shared lock for reading, any other for writing
            lock = stack.enter_context(open(path, "a+b"))  # noqa: SIM115 - the stack closes it
        except FileNotFoundError:  # a run that has just finished has removed the folder
            raise busy from None
        # the file may be gone between our open and our lock
        if not lock_or_warn(lock, self.root, shared=shared) or not is_at(lock, path):
            raise busy

    @contextmanager
    def claiming(self) -> Iterator[None]:
        with open(self.work / _CLAIM_LOCK, "ab") as lock:
            wait_for_lock(lock)
            yield

    def workers_lock(self, label: str = "") -> LocalPath:
        return self.work / (f"workers-{label}.lock" if label else "workers.lock")

    def wait_for_orphans(self, label: str = "") -> None:
        """They end by themselves within moments; until then one might still rename a file of ours."""
        deadline = time.monotonic() + ORPHANS_TIMEOUT_S
        own = self.workers_lock(label)
        for path in {own} if label else {own, *self.work.glob("workers*.lock")}:
            with open(path, "ab") as lock:
                while _is_held(lock):
                    if time.monotonic() > deadline:
                        what = f"workers of an earlier run are still alive after {ORPHANS_TIMEOUT_S:.0f} s"
                        raise ConfigError(self.root, what, "end them, then run the same command again")
                    time.sleep(0.02)

    def remove_unfinished(self, wanted: Callable[[str], bool]) -> None:
        for folder in (self.root, self.work):
            for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
                if wanted(path.name):
                    path.unlink(missing_ok=True)

    def remove_work(self) -> None:
        """The lock last: whoever finds it later knows that nothing is left to keep."""
        for path in sorted(self.work.iterdir(), key=lambda path: path.name == _LOCK):
            path.unlink()
        self._remove_if_empty()  # not so on NFS, which keeps the lock by another name until it is closed
        self.root.keep()

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self.work.rmdir()


def _is_held(lock: IO[Any]) -> bool:
    try:
        return not try_lock(lock)
    except OSError:
        return False  # a file system without locks, of which `locked` has spoken
