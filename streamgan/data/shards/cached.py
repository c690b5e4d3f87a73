"""Whole shards at an address, through a node cache.

They are read in one of two ways. Alone, whoever needs a shard downloads it. Under a Loader (`managed`) the
training process downloads ahead (`prefetch/downloads.py`) and loader processes only wait for names to appear
in the cache; `by_range`, in shared memory, tells them which shards are read from their address meanwhile:
those that a run begins with, and those that cannot get space there, because other jobs need all of it.
"""

import hashlib
import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any

import numpy as np
from isal import isal_zlib

from streamgan.core.errors import ConfigError
from streamgan.core.logs import size_text
from streamgan.core.shared_memory import SharedMemory
from streamgan.core.storage.address import redacted
from streamgan.core.storage.locks import close_descriptor, open_descriptor
from streamgan.core.storage.retry import Stopped
from streamgan.data.format import ShardEntry, SplitEntry, index_size, load_index

from .node_cache import Blob, CacheLease, Deleted, NodeCache
from .open_files import FileId, OpenShards
from .remote import NotArrived, RemoteFiles, never
from .verified_download import Spans, fill, fill_small, sha256_of

_POLL_S = 0.01
_IDX_BYTES = 1024  # of a sample in an `.idx`: what is reserved for it, more than it has
_AGAIN = "run the same command again"


class CachedFiles(RemoteFiles):
    """The shards of a split, each of which is in the cache, or comes there."""

    def __init__(self, root: str, split: str, entry: SplitEntry, cache: NodeCache):
        super().__init__(root, split, entry)
        self.cache, self.managed, self._managers = cache, False, 0
        self._shared = SharedMemory(len(entry.shards) + 1)  # the last byte: nobody downloads any more
        self._open = OpenShards(close_descriptor)
        self._lease: CacheLease | None = None
        self._leased: OrderedDict[int, None] = OrderedDict()  # shards of one who reads alone, oldest first
        self._starts = np.cumsum([0, *(one.samples for one in entry.shards)])
        self._rows: np.ndarray | None = None
        self._index: FileId | None = None  # what the rows are in, its sha256 checked
        self.index_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_lease": None, "_leased": OrderedDict(), "_rows": None}

    @property
    def shards(self) -> tuple[ShardEntry, ...]:
        return self.entry.shards

    def blob(self, shard: int) -> Blob:
        """A shard, as the cache knows it."""
        one = self.shards[shard]
        return Blob(one.sha256, one.bytes, self.address(shard))

    @property
    def by_range(self) -> mmap.mmap:
        """A byte for each shard, not 0: as long as it is not in the cache, it is read by range."""
        return self._shared.map

    def is_by_range(self, shard: int) -> bool:
        return bool(self.managed and self.by_range[shard]) and not self.is_here(shard)

    def is_here(self, shard: int) -> bool:
        """Whether the shard is in the cache."""
        return self._open.get(shard) is not None or self.cache.path(self.shards[shard].sha256).exists()

    def load_index(self) -> np.ndarray:
        """The index, from the cache; it stays there as long as this object lives."""
        sha256 = self.entry.index_sha256
        path = self.cache.path(sha256)
        if self._index and self._index == FileId.of(path):  # checked and leased by whoever sent this here
            return load_index(redacted(self.index_address), path, self.entry)
        while True:
            size = index_size(self.entry.samples)
            blob = Blob(sha256, size, self.index_address)
            none = partial(self.download, blob, damaged=lambda descriptor: [])
            if not self._obtain(blob, none, self._own_lease()):
                cap, need = size_text(self.cache.cap_bytes), size_text(size)
                what = f"{cap} leave no space for {self.split}.index ({need})"
                raise ConfigError("data.cache_gb", what, "raise it")
            with suppress(FileNotFoundError), open(path, "rb") as file:
                about = os.fstat(file.fileno())
                if sha256_of(file.fileno()) == sha256:
                    self.index_bytes, self._index = about.st_size, FileId.of(path)
                    self._rows = load_index(redacted(self.index_address), path, self.entry)
                    return self._rows
                self.cache.discard(blob, about.st_ino)

    def renew_index(self) -> bool:
        """As of `RemoteFiles`: whether the index in the cache is another one than was checked."""
        if self.parts:
            return False
        path = self.cache.path(self.entry.index_sha256)
        with suppress(OSError), open(path, "rb") as file:
            if self._index == FileId.of(path) and sha256_of(file.fileno()) == self.entry.index_sha256:
                return False
        self._index = self._rows = None
        self.load_index()
        return True

    def read(self, shard: int, size: int, offset: int) -> bytes:
        descriptor = self._descriptor(shard)
        if descriptor is None:
            return self.read_by_range(shard, size, offset)
        return os.pread(descriptor, size, offset)

    def retry(self, shard: int, attempt: int) -> bool:
        """After damaged bytes at the n-th attempt: whether to read once more. The shard is fetched anew."""
        if attempt > 1:
            return False
        if (descriptor := self._open.get(shard)) is not None:
            self.cache.mark_damaged(self.blob(shard), os.fstat(descriptor).st_ino)
            self._open.discard(shard)
        return True

    def damaged(self, shard: int, descriptor: int) -> Spans:
        """Images of a shard whose CRC-32 is not that of the index, as stretches of the file."""
        wrong = []
        for row in self._rows_of(shard):
            for kind in ("color", "gray"):
                offset, size = int(row[f"{kind}_offset"]), int(row[f"{kind}_size"])
                if isal_zlib.crc32(os.pread(descriptor, size, offset)) != int(row[f"{kind}_crc32"]):
                    wrong.append((offset, offset + size))
        return wrong

    def _rows_of(self, shard: int) -> np.ndarray:
        begin, end = self._starts[shard], self._starts[shard + 1]
        if self.parts:
            return self.rows(np.full(end - begin, shard), np.arange(end - begin))
        rows = self.load_index() if self._rows is None else self._rows
        return rows[begin:end]

    def manage(self, managed: bool) -> None:
        """One more iterator, or one less, for which this process downloads ahead.

        If there is none any more, workers that wait for a shard give up.
        """
        self._managers += 1 if managed else -1
        self.managed = self._managers > 0
        if self._managers == managed:  # the first, or after the last
            self.by_range[:] = bytes(len(self.shards)) + bytes([not managed])

    def fail_waiters(self) -> None:
        """Whoever waits for a shard gets an error."""
        self.by_range[len(self.shards)] = 1

    def release(self) -> None:
        """Close what is open: the space of evicted shards is free only then."""
        self.forget()
        self._open.close()

    def close(self) -> None:
        self.release()
        if self._lease:
            self._lease.close()

    def _descriptor(self, shard: int) -> int | None:
        """The open shard, or None if it has to be read by range."""
        while (descriptor := self._open.get(shard)) is None:
            if not self.managed and not self._obtain_alone(shard):
                return None
            try:
                path = self.cache.path(self.shards[shard].sha256)
                return self._open.add(shard, open_descriptor(path, os.O_RDONLY))
            except FileNotFoundError as error:
                if self.managed and (self.by_range[shard] or not self.waits):
                    return None
                if self.managed and self.by_range[len(self.shards)]:
                    raise NotArrived("loader", "no shards arrive any more", _AGAIN) from error
                self.num_missed += 1
                self.heartbeat()
                time.sleep(_POLL_S)
        return descriptor

    def _obtain_alone(self, shard: int) -> bool:
        blob = self.blob(shard)
        fetch = partial(self.download, blob, damaged=lambda descriptor: self.damaged(shard, descriptor))
        while not self._obtain(blob, fetch, self._own_lease()):
            if not (self._lease and self._leased):
                return False
            oldest = self._leased.popitem(last=False)[0]
            self._open.discard(oldest)
            self._lease.drop([self.shards[oldest].sha256])
        self._leased[shard] = None
        return True

    def _own_lease(self) -> CacheLease:
        if not self._lease or not self._lease.valid:  # closed, or of the process that this one is a fork of
            self._lease = self.cache.lease()
            self._leased.clear()
        return self._lease

    def _obtain(
        self,
        blob: Blob,
        fetch: Callable[[int], bool],
        lease: CacheLease,
        *,
        next_use: Callable[[str], float] = never,
        stop: threading.Event | None = None,
    ) -> bool:
        """Have a blob in the cache, leased; False if there is no space that could be freed for it."""
        while not (stop and stop.is_set()):
            with suppress(Deleted):
                claim = self.cache.claim(blob, lease, next_use)
                if claim.state in ("there", "full"):
                    return claim.state == "there"
                self.num_missed += 1
                if claim.state == "mine" and fetch(claim.descriptor):
                    return True
            time.sleep(_POLL_S)
        raise Stopped

    def _idx(self, shard: int, next_use: Callable[[str], float], stop: threading.Event | None) -> bytes:
        """From the cache, whose space it may have as long as its shard may."""
        one = self.entry.shards[shard]
        blob = Blob(one.idx_sha256, one.samples * _IDX_BYTES, self.idx_address(shard))
        fetch = partial(self._complete, blob, fill=partial(fill_small, blob=blob, stop=stop))
        data = self._kept(blob)
        while data is None:
            with suppress(Deleted), closing(self.cache.lease()) as lease:
                if not self._obtain(blob, fetch, lease, next_use=next_use, stop=stop):
                    return super()._idx(shard, next_use, stop)
                data = self._kept(blob)
        return data

    def _kept(self, blob: Blob) -> bytes | None:
        """The bytes of a small file, if it is in the cache and undamaged."""
        with suppress(OSError), open(self.cache.path(blob.sha256), "rb") as file:
            data = file.read()
            if hashlib.sha256(data).hexdigest() == blob.sha256:
                os.utime(file.fileno())
                return data
            self.cache.discard(blob, os.fstat(file.fileno()).st_ino)
        return None

    def download(
        self,
        blob: Blob,
        descriptor: int,
        damaged: Callable[[int], Spans],
        stop: threading.Event | None = None,
    ) -> bool:
        """Fill and commit what was claimed, or leave it to be continued; False if it has been deleted."""
        return self._complete(blob, descriptor, partial(fill, blob=blob, damaged=damaged, stop=stop))

    def _complete(self, blob: Blob, descriptor: int, fill: Callable[[int], None]) -> bool:
        try:
            fill(descriptor)
            return self.cache.commit(blob, descriptor)
        except BaseException:
            close_descriptor(descriptor)
            raise
