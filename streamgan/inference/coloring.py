"""The pictures of a film, coloured and encoded: one thread reads, one colours, one encodes.

Frames of segments that are there already are decoded and passed over: so a film is read in one way, whether
its container can be searched or not.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from av import VideoFrame, time_base

from streamgan.core.logs import progress, say

from .colorizer import Chroma, Colorizer
from .encoding import Encoding
from .film import Reading, picture_stream, turn_of
from .segments import FRAMES, Segments
from .smooth import Smoother
from .tint import is_in_color
from .yuv import Painter, Picture

_TIMED = ("audio", "subtitle")  # whose packets tell how long the film is


def color_pictures(
    colorizer: Colorizer, film: Any, damage: str, encoding: Encoding, segments: Segments, *, name: str
) -> tuple[str, list[str]]:
    """Add the segments that are not there yet. What of the film is missing, and notes on its pictures."""
    stream = picture_stream(film)
    reading, done = Reading(film, stream, damage), segments.num_frames
    frames = _Frames(reading, encoding, [stream, *(one for one in film.streams if one.type in _TIMED)])
    batches = _batches(islice(frames, done, None), colorizer.batch)
    painting = _Painting(colorizer, encoding, Smoother(segments.last))
    writing = _Writing(encoding, segments, -(-FRAMES // colorizer.batch) * colorizer.batch)
    if done:
        say(f"{name}: continues after {done} frames")
    with (
        progress(total=_num_frames(film, stream), unit="frame", label=name, start=done, leave=False) as bar,
        ThreadPoolExecutor(1, "film-read") as reader,
        ThreadPoolExecutor(1, "film-write") as writer,
    ):
        try:
            ahead, behind = reader.submit(next, batches, []), writer.submit(list)
            while batch := ahead.result():
                ahead = reader.submit(next, batches, [])
                pictures = painting(batch)
                behind.result()
                behind = writer.submit(writing.add, pictures, painting.last)
                bar.update(len(batch))
            behind.result()
        finally:
            frames.stopped = True  # a reader that passes over many frames
    writing.finish()
    return reading.missing(), frames.notes()


_LOOKED_AT = 240  # one frame of so many: is it in colour?


class _Frames:
    """The frames of a film in their order, each counted by what is said about it at the end."""

    def __init__(self, reading: Reading, encoding: Encoding, streams: list[Any]):
        self._reading, self._encoding, self._streams = reading, encoding, streams
        self._interlaced = self._resized = self._num_frames = 0
        self._in_color = False
        self.stopped = False

    def __iter__(self) -> Iterator[VideoFrame]:
        size = self._encoding.width, self._encoding.height
        for packet in self._reading.packets(self._streams):
            if self.stopped:
                return
            if packet.stream is not self._streams[0]:
                continue
            for frame in self._reading.frames(packet):
                self._interlaced += frame.interlaced_frame
                self._resized += (frame.width, frame.height) != size
                if self._num_frames % _LOOKED_AT == 0 and not self._in_color:
                    self._in_color = is_in_color(frame.to_ndarray(format="rgb24"))
                self._num_frames += 1
                yield frame

    def notes(self) -> list[str]:
        notes = []
        if self._in_color:
            notes.append("it is in colour already, or parts of it: its own colours are replaced")
        if self._interlaced and not self._encoding.interlaced:
            notes.append("interlaced pictures become whole frames: deinterlace it before if they show combs")
        if self._resized:
            notes.append(f"{self._resized} frames of another size are fitted to that of the first")
        return notes


def _batches(frames: Iterator[VideoFrame], number: int) -> Iterator[list[VideoFrame]]:
    while batch := list(islice(frames, number)):
        yield batch


def _num_frames(film: Any, stream: Any) -> int | None:
    """About how many there are, if the container says anything about it."""
    if stream.frames or not stream.average_rate:
        return stream.frames or None
    if stream.duration:
        return round(stream.duration * stream.time_base * stream.average_rate)
    return round((film.duration or 0) * stream.average_rate / time_base) or None


class _Painting:
    """Frames to pictures in colour; `last` is what the smoothing remembers."""

    def __init__(self, colorizer: Colorizer, encoding: Encoding, smooth: Smoother):
        self._colorizer, self._encoding, self._smooth = colorizer, encoding, smooth
        self._painter = Painter(colorizer, encoding.space)

    @property
    def last(self) -> Chroma | None:
        return self._smooth.last

    def __call__(self, frames: list[VideoFrame]) -> list[tuple[VideoFrame, int]]:
        """Each as it is to be encoded, and how long it stays."""
        turns = [turn_of(frame) for frame in frames]
        pictures = [self._picture(frame) for frame in frames]
        photos = [
            self._painter.photo(picture.luma_HW, turn) for picture, turn in zip(pictures, turns, strict=True)
        ]
        chromas = self._colorizer.predict(photos)
        for picture, turn, chroma in zip(pictures, turns, chromas, strict=True):
            fields = 1 + self._encoding.interlaced
            picture.paint(self._painter, self._smooth(chroma), turn, num_fields=fields)
        return [(picture.frame, frame.duration) for picture, frame in zip(pictures, frames, strict=True)]

    def _picture(self, frame: VideoFrame) -> Picture:
        to = self._encoding
        return Picture(frame, (to.width, to.height), to.pix_fmt, to.space)


class _Writing:
    """Pictures to segments of `length` frames, each from an encoder of its own."""

    def __init__(self, encoding: Encoding, segments: Segments, length: int):
        self._encoding, self._segments, self._length = encoding, segments, length
        self._start()

    def _start(self) -> None:
        self._context: Any = None
        self._packets: list[Any] = []
        self._durations: dict[int, int] = {}  # by time; the encoder has its own idea of the last one
        self._last: Chroma | None = None

    def add(self, pictures: list[tuple[VideoFrame, int]], last: Chroma | None) -> None:
        self._context = self._context or self._encoding.context()
        for frame, duration in pictures:
            assert frame.pts is not None
            self._durations[frame.pts] = duration
            self._packets += self._context.encode(frame)
        self._last = last
        if len(self._durations) >= self._length:
            self.finish()

    def finish(self) -> None:
        """Keep what has come since the last segment, if anything has."""
        if not self._durations:
            return
        self._packets += self._context.encode(None)
        for packet in self._packets:
            packet.duration = self._durations.get(packet.pts, 0) or packet.duration
        self._segments.add(self._packets, len(self._durations), self._last)
        self._start()
