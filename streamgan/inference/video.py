"""A film in colour: every frame at its own time, sound and subtitles copied, the turn of a phone kept.

Frames are coloured upright and at their size, encoded as H.264. Needs PyAV, whose wheels bring ffmpeg.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.core.files import atomic_write

from .colorizer import Colorizer
from .photo import MAX_PIXELS, Photo
from .smooth import Smoother

_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
# No reordered frames: with them a container starts before its first frame.
_ENCODER = {"crf": "16", "preset": "medium", "bf": "0"}
_COPIED = ("audio", "subtitle")


def color_video(colorizer: Colorizer, source: Path, target: Path) -> str:
    """Colour a film; what else there is to say about it.

    ConfigError without PyAV; OSError or ValueError if it cannot be read, and then nothing is written.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(source, "video needs PyAV", "pip install 'streamgan[video]'") from error
    rotation = _rotation(source)
    with av.open(str(source)) as film:
        stream = film.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise ValueError(f"{stream.width} x {stream.height} pixels, over the cap of {MAX_PIXELS}")
        stream.thread_type = "AUTO"
        copied = [one for one in film.streams if one.type in _COPIED]
        lost = sorted({one.type for one in film.streams if one not in (stream, *copied)})
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as file, av.open(file, "w", format=_FORMATS[target.suffix.lower()]) as made:
            made.metadata.update(film.metadata)
            writer = _Writer(av, made, stream, rotation=rotation)
            places = {one.index: made.add_stream_from_template(one) for one in copied}
            smooth, frames = Smoother(), []
            for packet in film.demux(stream, *copied):
                if packet.stream.index in places:
                    if packet.dts is not None:
                        packet.stream = places[packet.stream.index]
                        made.mux(packet)
                    continue
                frames += packet.decode()
                if len(frames) >= colorizer.batch:
                    writer.write(_colored(colorizer, smooth, frames))
                    frames = []
            writer.write(_colored(colorizer, smooth, frames))
            writer.finish()
    return f"without its {', '.join(lost)} streams" if lost else ""


def _colored(colorizer: Colorizer, smooth: Smoother, frames: list[Any]) -> Iterator[tuple[Any, np.ndarray]]:
    """Each frame and its pixels in colour, as it is stored."""
    turns = [round(frame.rotation / 90) for frame in frames]  # counter-clockwise, as those of rot90
    photos = [
        Photo(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turn)))
        for frame, turn in zip(frames, turns, strict=True)
    ]
    for frame, turn, photo, chroma in zip(frames, turns, photos, colorizer.predict(photos), strict=True):
        yield frame, np.ascontiguousarray(np.rot90(colorizer.paint(photo, smooth(chroma)), -turn))


def _rotation(path: Path) -> int:
    """By how many degrees the film is to be turned when it is shown: its header has to say it."""
    import av

    with av.open(str(path)) as film:
        if film.streams.video:
            for frame in film.decode(video=0):
                return frame.rotation
    raise ValueError("has no pictures")


class _Writer:
    """The picture stream of the result."""

    def __init__(self, av: Any, made: Any, source: Any, *, rotation: int):
        self._av, self._made = av, made
        self._durations: dict[int, int] = {}  # by time; the encoder has its own idea of the last one
        self._stream = made.add_stream("libx264", rate=source.average_rate, options=_ENCODER)
        even = source.width % 2 == 0 and source.height % 2 == 0
        context = self._stream.codec_context
        self._stream.width, self._stream.height = source.width, source.height
        self._stream.pix_fmt = "yuv420p" if even else "yuv444p"
        self._stream.time_base = context.time_base = source.time_base
        for name in ("color_primaries", "color_trc", "colorspace"):
            setattr(context, name, getattr(source.codec_context, name))
        if source.sample_aspect_ratio:
            context.sample_aspect_ratio = source.sample_aspect_ratio
        if rotation:
            self._stream.set_display_rotation(rotation)

    def write(self, frames: Iterable[tuple[Any, np.ndarray]]) -> None:
        for frame, pixels in frames:
            picture = self._av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=self._stream.pix_fmt, dst_colorspace=frame.colorspace
            )
            picture.pts, picture.time_base = frame.pts, frame.time_base
            self._durations[frame.pts] = frame.duration
            self._put(self._stream.encode(picture))

    def finish(self) -> None:
        self._put(self._stream.encode(None))

    def _put(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, 0) or packet.duration
            self._made.mux(packet)
