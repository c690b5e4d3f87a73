"""A film in colour: every frame at its own time, the turn of a phone kept; sound and subtitles copied.

Frames are coloured upright and at their size, encoded as H.264 of 8 bits. Needs PyAV, whose wheels bring
ffmpeg.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.storage.files import atomic_write

from .colorizer import Colorizer
from .photo import Photo
from .smooth import Smoother

_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
# No reordered frames: with them a container starts before its first frame.
_ENCODER = {"crf": "16", "preset": "medium", "bf": "0"}
_HDR = {16: "PQ", 18: "HLG"}


class Made(NamedTuple):
    """What of a film is missing in the result ("" if nothing is), and what else there is to say."""

    missing: str
    notes: str


def color_video(colorizer: Colorizer, source: Path, target: Path) -> Made:
    """Colour a film as far as it can be read.

    ConfigError without PyAV; ValueError if nothing of it can be read, and then nothing is written. OSError is
    about the result.
    """
    try:
        import av.error

        from .film import first_frame, open_film
    except ImportError as error:
        raise ConfigError(source, "video needs PyAV", "pip install 'streamgan[video]'") from error
    first = first_frame(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_film(source) as (film, damage), atomic_write(target) as file:
            output = _Output(file)
            made = _color(colorizer, film, damage, first, output, format=_FORMATS[target.suffix.lower()])
            output.check()
            return made
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"cannot be encoded ({error.strerror})") from error


class _Output:
    """The file of the result as ffmpeg writes it. `check` raises what the disk has refused.

    An error in here would reach nobody: PyAV prints a second one as a traceback, and puts its own words in
    the place of the first.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._refused: OSError | None = None

    def write(self, data: bytes) -> int:
        self._try(lambda: self._file.write(data))
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:  # flushes, so it may be refused too
        return self._try(lambda: self._file.seek(offset, whence)) or 0

    def tell(self) -> int:
        return self._file.tell()

    def check(self) -> None:
        if self._refused is not None:
            raise self._refused

    def _try(self, action: Callable[[], int]) -> int | None:
        try:
            return action() if self._refused is None else None
        except OSError as error:
            self._refused = error
            return None


def _color(colorizer: Colorizer, film: Any, damage: str, first: Any, file: _Output, *, format: str) -> Made:
    import av

    from .film import BYTES, Reading, picture_stream
    from .tracks import Copies, described

    stream = picture_stream(film)
    reading = Reading(film, stream, damage)
    with av.open(file, "w", format=format, **BYTES) as made:
        made.metadata.update(film.metadata)
        made.set_chapters(film.chapters())
        writer = _Writer(av, made, stream, first)
        writer.stream.metadata.update(described(stream))
        copies = Copies(made, [one for one in film.streams if one is not stream])
        smooth, frames = Smoother(), []
        for packet in reading.packets([stream, *copies.streams]):
            if packet.stream is not stream:
                copies.write(packet)
                continue
            frames += reading.frames(packet)
            if len(frames) >= colorizer.batch:
                writer.write(_colored(colorizer, smooth, frames))
                file.check()
                frames = []
        writer.write(_colored(colorizer, smooth, frames))
        writer.finish()
    return Made(reading.missing(), "; ".join([*writer.notes(), *copies.notes()]))


def _colored(colorizer: Colorizer, smooth: Smoother, frames: list[Any]) -> Iterator[tuple[Any, np.ndarray]]:
    """Each frame and its pixels in colour, as it is stored."""
    turns = [_turn(frame) for frame in frames]
    photos = [
        Photo(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turn)))
        for frame, turn in zip(frames, turns, strict=True)
    ]
    for frame, turn, photo, chroma in zip(frames, turns, photos, colorizer.predict(photos), strict=True):
        yield frame, np.ascontiguousarray(np.rot90(colorizer.paint(photo, smooth(chroma)), -turn))


def _turn(frame: Any) -> int:
    """By how many quarters, counter-clockwise, a frame has to be turned to be upright; mirrored or not."""
    matrix = _matrix(frame)
    mirrored = matrix is not None and matrix[0] * matrix[4] < matrix[1] * matrix[3]
    return round((frame.rotation + 180 * mirrored) / 90)


def _matrix(frame: Any) -> list[int] | None:
    """How a player is to turn, mirror and scale the frame."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else memoryview(bytes(data)).cast("i").tolist()


class _Writer:
    """The picture stream of the result; `first` is the first frame of the film."""

    def __init__(self, av: Any, made: Any, source: Any, first: Any):
        self._av, self._made, self._source = av, made, source
        self._durations: dict[int, int] = {}  # by time; the encoder has its own idea of the last one
        self._interlaced = self._resized = 0
        self.stream = made.add_stream("libx264", rate=source.average_rate, options=_ENCODER)
        even = first.width % 2 == 0 and first.height % 2 == 0
        context = self.stream.codec_context
        self.stream.width, self.stream.height = first.width, first.height
        self.stream.pix_fmt = "yuv420p" if even else "yuv444p"
        self.stream.time_base = context.time_base = source.time_base
        for name in ("color_primaries", "color_trc", "colorspace"):
            setattr(context, name, getattr(source.codec_context, name))
        if source.sample_aspect_ratio:
            context.sample_aspect_ratio = source.sample_aspect_ratio
        self.stream.disposition = source.disposition
        self.stream.set_display_matrix(_matrix(first))

    def write(self, frames: Iterable[tuple[Any, np.ndarray]]) -> None:
        width, height = self.stream.width, self.stream.height
        for frame, pixels in frames:
            self._interlaced += frame.interlaced_frame
            self._resized += (frame.width, frame.height) != (width, height)
            picture = self._av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                width, height, format=self.stream.pix_fmt, dst_colorspace=frame.colorspace
            )
            picture.pts, picture.time_base = frame.pts, frame.time_base
            self._durations[frame.pts] = frame.duration
            self._put(self.stream.encode(picture))

    def finish(self) -> None:
        self._put(self.stream.encode(None))

    def _put(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, 0) or packet.duration
            self._made.mux(packet)

    def notes(self) -> Iterator[str]:
        """What of the pictures is not as it was."""
        context = self._source.codec_context
        bits = max((part.bits for part in context.format.components), default=8) if context.format else 8
        if bits > 8:
            yield f"{bits} bits become 8"
        if context.color_trc in _HDR:
            yield f"HDR keeps its curve ({_HDR[context.color_trc]}), without its mastering data"
        if self._interlaced:
            yield "interlaced pictures become whole frames: deinterlace it before if they show combs"
        if self._resized:
            yield f"{self._resized} frames of another size are fitted to that of the first"
