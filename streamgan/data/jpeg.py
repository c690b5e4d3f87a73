"""JPEG files that viewers show although something about them is odd: made plain, and searched for gaps.

libjpeg tells its first warning alone, so one that is harmless hides those behind it. What is odd about the
headers is therefore taken out before the pixels are decoded. ITU-T T.81, annex B.
"""

import re
from collections.abc import Iterator

_SOI, _END, _SCAN, _JFIF, _ADOBE = b"\xff\xd8", 0xD9, 0xDA, 0xE0, 0xEE
_SEQUENTIAL, _FRAMES = (0xC0, 0xC1, 0xC9), (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB)
_APPLICATION = range(0xE0, 0xF0)
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # those that end a scan; between segments, all
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
_NOISE = b"\xb5\x6a\xd3\x9c" * 20  # decodes to something, whatever the tables


def plainer(data: bytes) -> bytes | None:
    """The same picture without what is odd about its headers; None if it has no end.

    Left out are bytes between segments and application data that says nothing about colours (of a colour
    profile, parts may be missing); JFIF revisions, Adobe colour transforms and spectral ranges of sequential
    scans that nobody knows become what every decoder takes them for.
    """
    parts, frame = [_SOI], 0
    for marker, payload, scan in _segments(data):
        if marker in _FRAMES:
            frame = marker
        if marker == _JFIF and payload.startswith(b"JFIF\0"):
            payload = payload[:5] + b"\1" + payload[6:]
        elif marker == _ADOBE and payload.startswith(b"Adobe"):
            payload = payload[:11] + payload[11:12].translate(_TRANSFORMS) + payload[12:]
        elif marker in _APPLICATION:
            continue
        elif marker == _SCAN and frame in _SEQUENTIAL:
            payload = payload[:-3] + b"\0\x3f\0"
        parts.append(_segment(marker, payload) + scan)
        if marker == _END:
            return b"".join(parts)
    return None


_TRANSFORMS = bytes([0, *[1] * 255])  # RGB, or YCbCr


def with_noise(data: bytes) -> bytes | None:
    """`data` with noise behind every part of its scans, which changes no pixel unless something is missing.

    None if restart markers are missing. `data` is what `plainer` gives.
    """
    parts = [_SOI]
    for marker, payload, scan in _segments(data):
        first, *others = _RESTART.split(scan.rstrip(b"\xff"))
        numbers = [number[0] & 7 for number in others[::2]]
        if numbers != [place & 7 for place in range(len(numbers))]:
            return None
        parts.append(_segment(marker, payload))
        if marker == _SCAN:
            intervals = [first, *others[1::2], b""]  # one more than there should be
            parts += [
                (b"\xff" + bytes([0xD0 + (place - 1 & 7)]) if place else b"") + interval + _NOISE
                for place, interval in enumerate(intervals)
            ]
    return b"".join(parts)


def _segment(marker: int, payload: bytes) -> bytes:
    head = bytes([0xFF, marker])
    return head if marker == _END else head + (len(payload) + 2).to_bytes(2, "big") + payload


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(marker, payload, entropy-coded data behind it) up to the end mark, or as far as they are whole."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _END:
            yield marker, b"", b""
            return
        end = at + int.from_bytes(data[at : at + 2], "big")
        payload, scan = data[at + 2 : end], b""
        if end > len(data) or end < at + 2:
            return
        at = end
        if marker == _SCAN:
            stop = _MARKER.search(data, at)
            at = stop.start() if stop else len(data)
            scan = data[end:at]
        yield marker, payload, scan
