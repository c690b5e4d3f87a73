"""What a film has beside its pictures: sound, subtitles and fonts, copied packet by packet."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from av.stream import Discard

from .film import is_cover

_OWN_TAGS = ("DURATION", "ENCODER", "BPS", "NUMBER_OF_", "_STATISTICS")  # of the packets as they were


def described(stream: Any) -> dict[str, str]:
    """Language, title and what else is said about a stream, under names that a container takes."""
    tags = {name: text for name, text in stream.metadata.items() if not name.upper().startswith(_OWN_TAGS)}
    return {"title": tags["name"], **tags} if "name" in tags else tags  # MP4 gives another name than it takes


class Copies:
    """The other streams of a film in its result: packet by packet, with language, title and flags."""

    def __init__(self, made: Any, given: Sequence[Any]):
        self._made = made
        self._places: dict[int, Any] = {}
        self._refused: Counter[str] = Counter()
        self.streams = [one for one in given if self._add(one)]
        self._lost = [_name(one) for one in given if one not in self.streams and not _is_of_chapters(one)]

    def _add(self, stream: Any) -> bool:
        fonts = stream.type == "attachment" and self._made.format.name == "matroska"
        if stream.type not in ("audio", "subtitle") and not fonts:
            return False
        try:
            place = self._made.add_stream_from_template(stream)
        except ValueError:  # the format of the result has no place for it
            return False
        place.metadata.update(described(stream))
        place.disposition = stream.disposition
        self._places[stream.index] = place
        return True

    def write(self, packet: Any) -> None:
        if not packet.size:
            return
        kind = packet.stream.type
        packet.stream = self._places[packet.stream.index]
        try:
            self._made.mux(packet)
        except ValueError:  # after a hole times may run backwards
            self._refused[kind] += 1

    def notes(self) -> Iterator[str]:
        if self._lost:
            yield f"without its {', '.join(sorted(set(self._lost)))}"
        for kind, number in self._refused.items():
            yield f"{number} damaged packets of {kind} are left out"


def _name(stream: Any) -> str:
    if stream.type == "video":
        return "cover" if is_cover(stream) else "other pictures"
    codec = stream.codec_context.name if stream.codec_context else ""
    return f"{stream.type} ({codec})" if codec else f"{stream.type} stream"


def _is_of_chapters(stream: Any) -> bool:
    """MP4 has chapters in a stream of their own, which nobody is meant to read."""
    return stream.type == "data" and stream.discard == Discard.all
