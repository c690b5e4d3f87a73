"""What the film of a name becomes: endings, the containers behind them, the codecs that each can hold."""

import os
from typing import Any, Literal, NamedTuple, get_args

from streamgan.core.errors import ConfigError

Codec = Literal["h264", "hevc", "av1", "vp9"]
CODECS: tuple[Codec, ...] = get_args(Codec)


class Container(NamedTuple):
    """ffmpeg's name for it, the codecs that it can hold, the first by default, and ffmpeg's options."""

    muxer: str
    codecs: tuple[Codec, ...] = CODECS
    options: tuple[tuple[str, str], ...] = ()


_TIMES = ("mpegts_copyts", "1")  # else they move by 1.4 s
_DISC = ("mpegts_m2ts_mode", "1")
CONTAINERS = {
    ".mp4": Container("mp4"),
    ".m4v": Container("mp4"),
    ".mov": Container("mov", ("h264", "hevc")),
    ".mkv": Container("matroska"),
    ".webm": Container("webm", ("vp9", "av1")),
    ".ts": Container("mpegts", ("h264", "hevc"), (_TIMES,)),
    ".m2ts": Container("mpegts", ("h264", "hevc"), (_TIMES, _DISC)),
    ".mts": Container("mpegts", ("h264", "hevc"), (_TIMES, _DISC)),
}
VIDEOS = (*CONTAINERS, ".mpg", ".mpeg", ".avi", ".wmv", ".flv", ".ogv")
_ANYTHING = ".mkv"


class FilmOptions(NamedTuple):
    """How the pictures of a film are encoded; None: as its container and its bits suggest."""

    codec: Codec | None = None
    crf: int | None = None


SUGGESTED = FilmOptions()


class Encoder(NamedTuple):
    """ffmpeg's name, the constant rate factor by default and at most, and options."""

    name: str
    crf: int
    max_crf: int
    options: dict[str, str]


# No reordered frames: with them a container starts before its first frame. The factors look alike.
ENCODERS: dict[Codec, Encoder] = {
    "h264": Encoder("libx264", 16, 51, {"preset": "medium", "bf": "0"}),
    "hevc": Encoder("libx265", 17, 51, {"preset": "fast", "x265-params": "bframes=0:log-level=error"}),
    "av1": Encoder("libsvtav1", 20, 63, {"preset": "8"}),
    "vp9": Encoder("libvpx-vp9", 20, 63, {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}),
}


def encoder_of(codec: Codec) -> Any:
    """The encoder in this PyAV; ConfigError if it has none."""
    import av
    from av.codec.codec import UnknownCodecError

    name = ENCODERS[codec].name
    try:
        return av.Codec(name, "w")
    except UnknownCodecError as error:
        found = [one for one in CODECS if ENCODERS[one].name in av.codecs_available]
        what, others = f"this PyAV has no {name}, which encodes {codec}", f"choose {' or '.join(found)}"
        todo = f"{others}, or install PyAV from PyPI" if found else "install PyAV from PyPI"
        raise ConfigError("--codec", what, todo) from error


def check_options(options: FilmOptions) -> None:
    """ConfigError if there is no such encoder, or if it has no such constant rate factor."""
    codec = options.codec or "h264"
    most = ENCODERS[codec].max_crf
    if options.crf is not None and options.crf > most:
        higher = [one for one in CODECS if ENCODERS[one].max_crf >= options.crf]
        todo = f"choose one of 0 to {most}, or --codec {' or '.join(higher)}"
        raise ConfigError("--crf", f"more than {codec} has (got {options.crf})", todo)
    if options.codec:
        try:
            encoder_of(options.codec)
        except ImportError as error:
            raise ConfigError("--codec", "films need PyAV", "pip install 'streamgan[video]'") from error


def film_name(name: str, *, codec: Codec | None = None, suffix: str = "") -> str:
    """What the result of a film called `name` is called; `suffix` stands before the ending.

    It is a Matroska film where the container of the source does not hold such pictures.
    """
    stem, ending = os.path.splitext(name)
    container = CONTAINERS.get(ending.lower())
    fits = container is not None and (codec is None or codec in container.codecs)
    return f"{stem}{suffix}{ending if fits else _ANYTHING}"
