"""A film put together: coloured pictures from their segments, all else packet by packet from the source."""

from collections.abc import Iterator, Sequence
from heapq import merge
from typing import Any

import av

from .encoding import Encoding
from .film import BYTES, Reading, matrix_of, picture_stream
from .segments import Segments
from .tracks import Copies, described

_CLOCKS = ("mpeg", "mpegts")  # containers whose times start at whatever the clock of the sender said


def join(film: Any, first: Any, file: Any, encoding: Encoding, segments: Segments) -> list[str]:
    """Write the result into `file`; notes on what of the film, apart from its pictures, is not in it.

    Packets come in the order of their times, as players read them. `first` is the first frame of the film.
    """
    container, stream = encoding.container, picture_stream(film)
    with av.open(
        file, "w", format=container.muxer, container_options=dict(container.options), **BYTES
    ) as made:
        made.metadata.update(film.metadata)
        made.set_chapters(film.chapters())
        place = encoding.add_to(made)
        place.metadata.update(described(stream))
        place.disposition = stream.disposition
        place.set_display_matrix(matrix_of(first))
        copies = Copies(made, [one for one in film.streams if one is not stream])
        start_s = 0.0
        if film.format.name in _CLOCKS and container.muxer not in _CLOCKS:
            start_s = (film.start_time or 0) / av.time_base
        pictures = segments.packets(encoding.time_base)
        for packet in merge(pictures, _others(film, copies.streams), key=_time):
            _move(packet, -start_s)
            if packet.stream is None:
                packet.stream = place
                made.mux(packet)
            else:
                copies.write(packet)
        copies.finish()
    return list(copies.notes())


def _others(film: Any, streams: Sequence[Any]) -> Iterator[Any]:
    packets = Reading(film, None, "").packets(streams) if streams else ()
    yield from (packet for packet in packets if packet.size)


def _time(packet: Any) -> float:
    time = packet.pts if packet.dts is None else packet.dts
    return float((time or 0) * packet.time_base)


def _move(packet: Any, seconds: float) -> None:
    ticks = round(seconds / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks
