"""The finished parts of a film in a folder beside its result, so that a run that was killed goes on.

A segment is one file: the encoded packets of a number of frames that can be decoded by themselves, and what
the smoothing remembers after them. It appears whole or not at all, and says what it was made from: of another
source, or with other settings, it counts for nothing.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from streamgan.core.storage.files import atomic_write
from streamgan.core.storage.local import temporary_path
from streamgan.core.storage.locks import try_lock

from .colorizer import Chroma

FRAMES = 120  # at least of a segment: what is lost by a kill, and coded without the frames before

_STATE = ("input", "chroma")  # of the smoothing


class Segments:
    """Those of one film, in their order, made from what `key` stands for."""

    def __init__(self, folder: Path, key: str, device: torch.device):
        self._folder, self._key, self._device = folder, key, device
        self._paths: list[Path] = []
        self.num_frames = 0
        self.last: Chroma | None = None  # the state of the smoothing after them
        while self._take(self._path(len(self._paths))):
            pass

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06}.safetensors"

    def _take(self, path: Path) -> bool:
        try:
            with safe_open(path, "pt") as file:
                about: dict[str, str] = file.metadata() or {}
                if about["key"] != self._key:
                    return False
                state = [file.get_tensor(name) for name in _STATE if name in file.keys()]  # noqa: SIM118
                self.num_frames += int(about["num_frames"])
        except (OSError, SafetensorError, KeyError):
            return False
        self.last = Chroma(*(part.to(self._device) for part in state)) if state else None
        self._paths.append(path)
        return True

    def add(self, packets: Sequence[Any], num_frames: int, last: Chroma | None) -> None:
        """Keep the packets of some more frames, and the state after them."""
        rows = [(len(bytes(one)), one.pts, one.dts, one.duration or 0, one.is_keyframe) for one in packets]
        tensors = {
            "data": torch.frombuffer(bytearray(b"".join(map(bytes, packets))), dtype=torch.uint8),
            "packets": torch.tensor(rows, dtype=torch.int64),
        }
        if last is not None:
            tensors |= {name: part.contiguous().cpu() for name, part in zip(_STATE, last, strict=True)}
        path = self._path(len(self._paths))
        with atomic_write(path) as file:
            file.write(save(tensors, {"key": self._key, "num_frames": str(num_frames)}))
        self._paths.append(path)
        self.num_frames += num_frames

    def packets(self, time_base: Fraction) -> Iterator[Any]:
        """All of them; one segment at a time is in memory."""
        from av import Packet

        for path in self._paths:
            with safe_open(path, "pt") as file:
                data, rows = file.get_tensor("data").numpy().tobytes(), file.get_tensor("packets").tolist()
            start = 0
            for size, pts, dts, duration, is_key in rows:
                packet = Packet(data[start : start + size])
                packet.time_base, packet.pts, packet.dts = time_base, pts, dts
                packet.duration, packet.is_keyframe = duration, bool(is_key)
                start += size
                yield packet


@contextmanager
def segments_for(target: Path, key: str, device: torch.device) -> Iterator[Segments]:
    """The segments for a result; ValueError if another process is at work on it.

    They stay for the next run if the work is interrupted or a disk is full, and go otherwise.
    """
    folder = _folder(target)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        with suppress(OSError):  # a file system without locks
            locked = try_lock(descriptor)
        if not locked:
            raise ValueError("another process is colouring it")
        try:
            yield Segments(folder, key, device)
        except OSError:
            raise
        except Exception:  # about the film: it would come again
            forget_segments(target)
            raise
        forget_segments(target)
    finally:
        os.close(descriptor)
        with suppress(OSError):  # it is gone, or has segments
            folder.rmdir()


def forget_segments(target: Path) -> None:
    """Remove what is left of a result that is there."""
    shutil.rmtree(_folder(target), ignore_errors=True)


def _folder(target: Path) -> Path:
    return temporary_path(target, token="parts")
