"""What a film has beside its pictures: sound, subtitles and fonts, copied packet by packet.

Sound that Matroska cannot hold (Windows Media, ADPCM) is kept there as FLAC, without loss.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from av import AudioResampler
from av.error import FFmpegError
from av.stream import Discard

from .film import is_cover

_OWN_TAGS = ("DURATION", "ENCODER", "BPS", "NUMBER_OF_", "_STATISTICS")  # of the packets as they were


def described(stream: Any) -> dict[str, str]:
    """Language, title and what else is said about a stream, under names that a container takes."""
    tags = {name: text for name, text in stream.metadata.items() if not name.upper().startswith(_OWN_TAGS)}
    return {"title": tags["name"], **tags} if "name" in tags else tags  # MP4 gives another name than it takes


# What MPEG-TS has a mark for.
_BROADCAST = ("aac", "aac_latm", "ac3", "eac3", "dts", "truehd", "mp1", "mp2", "mp3", "opus", "pcm_bluray")
_BROADCAST += ("dvb_subtitle", "dvb_teletext", "hdmv_pgs_subtitle")


class Copies:
    """The other streams of a film in its result: packet by packet, with language, title and flags."""

    def __init__(self, made: Any, given: Sequence[Any]):
        self._made, self._muxer = made, made.format.name
        self._places: dict[int, Any] = {}
        self._recoders: dict[int, _Recoder] = {}
        self._refused: Counter[str] = Counter()
        self.streams = [one for one in given if self._add(one)]
        self._lost = [_name(one) for one in given if one not in self.streams and not _is_of_chapters(one)]

    def _add(self, stream: Any) -> bool:
        fonts = stream.type == "attachment" and self._muxer == "matroska"
        if stream.type not in ("audio", "subtitle") and not fonts:
            return False
        if not (stream.codec_context or fonts):  # ffmpeg cannot decode it, so PyAV does not copy it
            return False
        try:
            if self._muxer == "mpegts" and stream.codec_context.codec.canonical_name not in _BROADCAST:
                return False  # ffmpeg would write it as data that nobody knows
            place = self._made.add_stream_from_template(stream)
        except ValueError:  # the format of the result has no place for it
            if self._muxer != "matroska" or stream.type != "audio":
                return False
            self._recoders[stream.index] = recoder = _Recoder(self._made, stream)
            place = recoder.place
        place.metadata.update(described(stream))
        place.disposition = stream.disposition
        self._places[stream.index] = place
        return True

    def write(self, packet: Any) -> None:
        kind, recoder = packet.stream.type, self._recoders.get(packet.stream.index)
        if recoder is not None:
            self._refused[kind] += not recoder.write(packet)
            return
        packet.stream = self._places[packet.stream.index]
        try:
            self._made.mux(packet)
        except ValueError:  # after a hole times may run backwards
            self._refused[kind] += 1

    def finish(self) -> None:
        for recoder in self._recoders.values():
            self._refused["audio"] += not recoder.write(None)

    def notes(self) -> Iterator[str]:
        if self._lost:
            yield f"without its {', '.join(sorted(set(self._lost)))}"
        for recoder in self._recoders.values():
            yield f"its {recoder.name} becomes FLAC"
        for kind, number in self._refused.items():
            if number:
                yield f"{number} damaged packets of {kind} are left out"


class _Recoder:
    """A stream of sound as FLAC in the result."""

    def __init__(self, made: Any, stream: Any):
        given = stream.codec_context
        self.name, self._made, self._decode = _name(stream), made, given.decode
        format = "s32" if given.format.name in ("s32", "s32p") else "s16"
        self.place = made.add_stream("flac", rate=given.sample_rate, layout=given.layout.name, format=format)
        self._resampler = AudioResampler(format, given.layout, given.sample_rate)
        self._end = 0

    def write(self, packet: Any | None) -> bool:
        """Whether it could be decoded and written, whose times may run backwards; None: the end."""
        try:
            for frame in self._decode(packet):
                self._put(self._resampler.resample(frame))
            if packet is None:
                self._put([*self._resampler.resample(None), None])
        except FFmpegError:
            return False
        return True

    def _put(self, frames: Sequence[Any]) -> None:
        for frame in frames:
            for packet in self.place.encode(frame):
                if packet.size:
                    packet.pts = packet.dts = self._end if packet.pts is None else packet.pts
                    self._end = packet.pts + (packet.duration or 0)
                    self._made.mux(packet)


def _name(stream: Any) -> str:
    if stream.type == "video":
        return "cover" if is_cover(stream) else "other pictures"
    codec = stream.codec_context.name if stream.codec_context else ""
    return f"{stream.type} ({codec})" if codec else f"{stream.type} stream"


def _is_of_chapters(stream: Any) -> bool:
    """MP4 has chapters in a stream of their own, which nobody is meant to read."""
    return stream.type == "data" and stream.discard == Discard.all
