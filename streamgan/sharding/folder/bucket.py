"""The folder of a set in a bucket, where nothing can be locked: leases say who works below its prefix."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from streamgan.core.storage.place import NUM_REQUESTS, ObjectPath
from streamgan.core.storage.store import abort_uploads
from streamgan.sharding.unit.writer import WORK

from .bucket_lease import WHOLE, is_lease, leased
from .parts import Part, forget_count


@dataclass(frozen=True)
class BucketFolder:
    """A `Folder` in a bucket. What is unfinished there are uploads in parts, which nobody sees."""

    root: ObjectPath

    @property
    def work(self) -> ObjectPath:
        return self.root / WORK

    def make(self) -> None:
        """A bucket has no folders."""

    @contextmanager
    def locked(self, part: Part | None = None) -> Iterator[Callable[[], None]]:
        label = part.label if part else WHOLE
        with leased(self.work, label, conflicts=lambda other: _conflict(part, other)) as lease:
            if part is None:
                forget_count(self.work)
            yield lease.check

    def claiming(self) -> AbstractContextManager[None]:
        return nullcontext()

    def workers_lock(self, label: str = "") -> None:
        return None

    def wait_for_orphans(self, label: str = "") -> None:
        """They do no harm: their uploads take nothing away from ours and have the same bytes."""

    def remove_unfinished(self, wanted: Callable[[str], bool]) -> None:
        abort_uploads(self.root.url, lambda name: wanted(name.removeprefix(f"{WORK}/")))

    def remove_work(self) -> None:
        """All but the lease, which goes when `locked` is left."""
        self.remove_unfinished(lambda name: True)  # of workers of a killed run, begun after we had looked
        ours = [path for path in self.work.iterdir() if not is_lease(path, WHOLE)]
        with ThreadPoolExecutor(NUM_REQUESTS) as pool:
            list(pool.map(lambda path: path.unlink(missing_ok=True), ours))


def _conflict(part: Part | None, other: str) -> str | None:
    """Why `part`, or a run without, may not begin while `other` lives; None if it may."""
    if part is None:
        return "another sharder is writing here"
    if other == WHOLE:
        return "a sharder without --part is writing here"
    return f"part {part} is running already" if other == part.label else None
