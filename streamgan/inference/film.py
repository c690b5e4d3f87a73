"""A film as it is read: which of its streams has the pictures, its packets, and what of it is missing.

A cut or holed film is read as far as it goes. How much is missing follows from what the container says (the
index of MP4 and MOV, the length in Matroska), from packets that give no frame, and from gaps between frames
that come at a constant rate otherwise.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import av
from av import Packet
from av.error import FFmpegError
from av.stream import Disposition

from .photo import MAX_PIXELS

# What a film is in, whatever it is called. Nothing that names other files or addresses (playlists).
_CONTAINERS = "mov,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg"
_NO_MOOV = "its index (moov) is missing: it was cut, or its recording never ended"
_CUT_MOOV = "its index (moov) is cut: what else the film had is not known"
_CONSTANT = 0.9  # share of equal steps from frame to frame in a film of constant rate
# Names and titles that are not UTF-8 stay what they are; PyAV 19 has no option for it, and does it.
BYTES: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
)
_NAMED = 3  # gaps, by their times
_TOLERANCE_S = 0.5  # of the length of a whole container, which is that of its longest stream
_PAUSE = 4  # steps that MP4, MOV and AVI may leave out on purpose: the index says how long a frame stays
_BACK_S = 1.0  # a frame that seems to come so little too early has a wrong time; else the clock was set


@contextmanager
def open_film(path: Path) -> Iterator[tuple[Any, str]]:
    """The container of a film, and what is wrong with its index; ValueError if it is none or unreadable."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        if not status.st_size:
            raise ValueError("is empty")
        file = open(path, "rb")  # noqa: SIM115 (below)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    with file:  # not by its name, which ffmpeg could take for an address
        damage = _damage_of_moov(file)
        file.seek(0)
        try:
            options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": ""}
            film = av.open(file, options=options, **BYTES)
        except (FFmpegError, OSError) as error:
            what = f"no film that can be read ({error.strerror})"
            raise ValueError(damage or what) from error
        with film:
            try:
                yield film, damage
            except ValueError as error:
                if damage:  # a whole index would have told of other streams and frames
                    raise ValueError(damage) from error
                raise


def _damage_of_moov(file: BinaryIO) -> str:
    """What is wrong with the index of an MP4 or MOV, which is written last; "" if nothing is."""
    found, at, size = [], 0, os.fstat(file.fileno()).st_size
    while len(head := file.read(16)) >= 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # and then 64 bits of it, for more than 4 GB
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            break
        found.append(kind)
        at += length
        if kind == b"moov" and at > size:
            return _CUT_MOOV
        file.seek(at)
    return _NO_MOOV if found[:1] == [b"ftyp"] and b"moov" not in found else ""


def is_cover(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def picture_stream(film: Any) -> Any:
    """The stream that a player would show, never a cover; ValueError if there is none, or it is too large."""
    moving = [one for one in film.streams.video if not is_cover(one)]
    if not moving:
        what = "its only picture is a cover" if film.streams.video else "has no pictures"
        raise ValueError(f"{what}: an audio file")
    best = film.streams.best("video")
    stream = best if best in moving else moving[0]
    if stream.codec_context is None:
        raise ValueError("its video is in a format that cannot be decoded here")
    if stream.width * stream.height > MAX_PIXELS:
        raise ValueError(f"{stream.width} x {stream.height} pixels, over the cap of {MAX_PIXELS}")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "SLICE"  # threads of frames lose those that come out beside an error
    return stream


def first_frame(path: Path) -> Any:
    """The first frame that can be decoded: it says how the film is turned; ValueError if there is none."""
    with open_film(path) as (film, damage):
        stream = picture_stream(film)
        reading = Reading(film, stream, damage)
        for packet in reading.packets([stream]):
            for frame in reading.frames(packet):
                return frame
        raise ValueError("none of its frames can be decoded")


def turn_of(frame: Any) -> int:
    """By how many quarters, counter-clockwise, a frame has to be turned to be upright; mirrored or not."""
    matrix = matrix_of(frame)
    mirrored = matrix is not None and matrix[0] * matrix[4] < matrix[1] * matrix[3]
    return round((frame.rotation + 180 * mirrored) / 90)


def matrix_of(frame: Any) -> list[int] | None:
    """How a player is to turn, mirror and scale the frame."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else memoryview(bytes(data)).cast("i").tolist()


class Reading:
    """One pass over a film, and what was missing in it."""

    def __init__(self, film: Any, stream: Any, damage: str):
        self._film, self._stream, self._damage = film, stream, damage
        self._num_packets = 0
        self._due: set[int] = set()  # times of packets with pictures; of frames
        self._had: set[int] = set()
        self._damaged: set[int] = set()
        self._num_moved = 0
        self._end = self._picture_end = 0.0  # of all streams, of the pictures; in seconds
        self._stopped = ""  # why it could not be read to its end

    def packets(self, streams: Sequence[Any]) -> Iterator[Any]:
        """Packets of the streams in their order, at the end an empty one for each; none raises an error."""
        try:
            for packet in self._film.demux(*streams):
                if packet.size:
                    self._count(packet)
                yield packet
        except (FFmpegError, OSError) as error:
            self._stopped = error.strerror or str(error)
            last = Packet()
            last.stream = self._stream
            yield last

    def _count(self, packet: Any) -> None:
        end = float(((packet.pts or 0) + (packet.duration or 0)) * packet.time_base)
        self._end = max(self._end, end)
        if packet.stream is self._stream:
            self._picture_end = max(self._picture_end, end)
            self._num_packets += 1
            if packet.pts is not None and not packet.is_discard:
                self._due.add(packet.pts)
                if packet.is_corrupt:
                    self._damaged.add(packet.pts)

    def frames(self, packet: Any) -> Iterator[Any]:
        """Frames of a packet, each later than the one before; what cannot be decoded is missing.

        MPEG has times for some frames only, and those between may be guessed twice the same.
        """
        try:
            frames = packet.decode()
        except FFmpegError:
            return
        for frame in frames:
            if frame.pts is None:  # AVI says only when it is to be decoded
                frame.pts = frame.dts
            if frame.pts is None:
                continue
            if self._had and frame.pts <= self._last:
                if (self._last - frame.pts) * self._stream.time_base > _BACK_S:
                    continue
                self._num_moved += 1
                frame.pts = self._last + 1
            self._last = frame.pts
            self._had.add(frame.pts)
            if frame.is_corrupt:
                self._damaged.add(frame.pts)
            yield frame

    def missing(self) -> str:
        """How much of the film is not there, and how much of the rest is damaged; "" if all is well."""
        times = sorted(self._due | self._had)
        steps = [after - before for before, after in pairwise(times)]
        step = median(steps) if steps else 0
        holes, tail = self._holes(times, steps, step), self._tail(step)
        if sum(number for _, number in holes) <= self._num_moved:
            holes = []
        undecoded, in_holes = len(self._due - self._had), sum(number for _, number in holes)
        parts = []
        if tail:
            parts.append(f"{tail} at its end" + (f" ({self._stopped})" if self._stopped else ""))
        if holes:
            places = [_clock(before * self._stream.time_base) for before, _ in holes]
            more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
            parts.append(f"{in_holes} after {', '.join(places[:_NAMED])}{more}")
        if undecoded:
            parts.append(f"{undecoded} that cannot be decoded")
        said = []
        if number := tail + in_holes + undecoded:
            total = number + len(self._had)
            seconds = float(number * step * self._stream.time_base)
            said.append(f"{number} of {total} frames ({seconds:.2f} s) are missing: {', '.join(parts)}")
        elif self._stopped:
            said.append(f"its end cannot be read ({self._stopped})")
        if damaged := len(self._damaged & self._had):
            said.append(f"{damaged} of {len(self._had)} frames are damaged")
        return "; ".join(filter(None, [*said, self._damage]))

    def _holes(self, times: list[int], steps: list[int], step: float) -> list[tuple[int, int]]:
        """(time before, frames missing) of every gap; in a film of variable rate they say nothing."""
        if sum(abs(one - step) <= 1 for one in steps) < _CONSTANT * len(steps):
            return []
        least = _PAUSE if self._is_mov or self._film.format.name == "avi" else 2
        long = (
            (before, one) for before, one in zip(times, steps, strict=False) if one > (least - 0.5) * step
        )
        return [(before, round(one / step) - 1) for before, one in long]

    def _tail(self, step: float) -> int:
        """Frames that are missing at the end."""
        if self._is_mov:
            return max(0, len(self._stream.index_entries) - self._num_packets)
        if (
            self._film.format.name == "avi" and self._stream.frames
        ):  # places for frames, of which some are empty
            return max(0, self._stream.frames - round(self._picture_end / self._stream.time_base))
        step_s = float(step * self._stream.time_base) or 1 / float(self._stream.average_rate or 24)
        if length := _seconds(self._stream.metadata.get("DURATION", "")):  # as Matroska says it of a stream
            missing_s = length - self._picture_end
            return round(missing_s / step_s) if missing_s > 1.5 * step_s else 0
        missing_s = (self._film.duration or 0) / av.time_base - self._end  # of whatever is longest
        return round(missing_s / step_s) if missing_s > _TOLERANCE_S else 0

    @property
    def _is_mov(self) -> bool:
        return "mov" in self._film.format.name.split(",")


def _seconds(clock: str) -> float:
    """ "00:01:02.5" in seconds; 0 if it is none."""
    try:
        hours, minutes, seconds = clock.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _clock(seconds: Fraction) -> str:
    minutes, rest = divmod(float(seconds), 60)
    return f"{int(minutes)}:{rest:05.2f}"
