"""The images of a batch by range, all asked for at once: a batch takes about as long as its slowest request.

Neighbours in a shard, such as a photo and its gray twin or the photos of an evaluation, come in one request
if that asks for no more than `MAX_GAP` bytes between two of them that nobody wants.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

NUM_REQUESTS = 16  # at once, in one process
MAX_GAP = 8 << 10  # a tar header and its padding have 1.5 KB at most
MAX_BYTES = 1 << 20  # of a request for more than one piece
BEAT_S = 0.1


class ByteRange(NamedTuple):
    """A stretch of a shard."""

    shard: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


def merged(pieces: Iterable[ByteRange]) -> list[list[ByteRange]]:
    """Pieces by request; those of a request lie one after the other in a shard."""
    groups: list[list[ByteRange]] = []
    for piece in sorted(set(pieces)):
        if groups and _belongs(piece, groups[-1]):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _belongs(piece: ByteRange, group: list[ByteRange]) -> bool:
    first, last = group[0], group[-1]
    near = last.shard == piece.shard and 0 <= piece.offset - last.end <= MAX_GAP
    return near and piece.end - first.offset <= MAX_BYTES


class Coming:
    """Requests under way. `read(shard, size, offset)` makes one, in a thread."""

    def __init__(self, pieces: Iterable[ByteRange], read: Callable[[int, int, int], bytes]):
        groups = merged(pieces)
        self._pool = ThreadPoolExecutor(max(1, min(NUM_REQUESTS, len(groups))), "images by range")
        self._pending: dict[ByteRange, tuple[int, Future[bytes]]] = {}
        for first, *others in groups:
            end = others[-1].end if others else first.end
            future = self._pool.submit(read, first.shard, end - first.offset, first.offset)
            self._pending.update({piece: (first.offset, future) for piece in (first, *others)})

    def take(self, piece: ByteRange, heartbeat: Callable[[], None] = lambda: None) -> bytes | None:
        """The bytes of a piece, once; None if they were not asked for. Raises what its request has raised.

        `heartbeat` is called ten times per second meanwhile.
        """
        if piece not in self._pending:
            return None
        begin, future = self._pending.pop(piece)
        while not future.done() and not wait([future], timeout=BEAT_S).done:
            heartbeat()
        return future.result()[piece.offset - begin : piece.end - begin]

    def close(self) -> None:
        """What has not begun does not begin any more; what has is waited for."""
        self._pool.shutdown(cancel_futures=True)
