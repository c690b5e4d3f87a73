"""A film in colour: every frame at its own time, the turn of a phone kept; sound and subtitles copied.

The pictures are coloured and encoded in segments, which a run that was killed finds again; when all are there
they are joined with what else the film has. Needs PyAV, whose wheels bring ffmpeg.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from streamgan.core.errors import ConfigError
from streamgan.core.storage.files import atomic_write, canonical_sha256

from .colorizer import Colorizer
from .containers import CONTAINERS, SUGGESTED, FilmOptions

if TYPE_CHECKING:
    from .encoding import Encoding

_VERSION = 1  # of how frames are coloured


class Made(NamedTuple):
    """What of a film is missing in the result ("" if nothing is), and what else there is to say."""

    missing: str
    notes: str


def color_video(colorizer: Colorizer, source: Path, target: Path, options: FilmOptions = SUGGESTED) -> Made:
    """Colour a film as far as it can be read, from where a run that was killed had come.

    ConfigError without PyAV or the encoder; ValueError if nothing of it can be read, and then nothing is
    written. OSError is about the result.
    """
    try:
        import av.error

        from .coloring import color_pictures
        from .encoding import Encoding
        from .film import first_frame, open_film, picture_stream
        from .joining import join
        from .segments import segments_for
    except ImportError as error:
        raise ConfigError(source, "video needs PyAV", "pip install 'streamgan[video]'") from error
    first, container = first_frame(source), CONTAINERS[target.suffix.lower()]
    try:
        with open_film(source) as (film, damage):
            encoding = Encoding(picture_stream(film), first, container, options)
            key = _key(colorizer, source, encoding)
            with segments_for(target, key, colorizer.device) as segments:
                missing, notes = color_pictures(colorizer, film, damage, encoding, segments, name=source.name)
                with open_film(source) as (again, _), atomic_write(target) as file:
                    output = _Output(file)
                    lost = join(again, first, output, encoding, segments)
                    output.check()
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"cannot be encoded ({error.strerror})") from error
    if source.suffix.lower() != target.suffix.lower():
        lost = [f"{source.suffix} becomes {target.suffix}", *lost]
    return Made(missing, "; ".join([*encoding.notes(), *notes, *lost]))


def _key(colorizer: Colorizer, source: Path, encoding: "Encoding") -> str:
    """What stands for all that the pictures of the result depend on."""
    found, weights = os.stat(source), colorizer.weights
    model = hashlib.sha256(weights.head_name.encode())
    for name, tensor in weights.generator.state_dict().items():  # not the file, which a run may have removed
        model.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    film = [_VERSION, found.st_size, found.st_mtime_ns, encoding.text, model.hexdigest()]
    chroma = [colorizer.size, colorizer.saturation * weights.saturation, colorizer.batch]
    return canonical_sha256([*film, *chroma])


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
