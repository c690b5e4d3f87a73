"""How the pictures of a film are encoded: by which encoder, in how many bits, and what is said of them."""

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.codec import Codec as AvCodec
from av.codec.context import Flags
from av.format import Flags as FormatFlags

from .containers import ENCODERS, Codec, Container, FilmOptions, encoder_of
from .yuv import Space, space_of

os.environ.setdefault("SVT_LOG", "1")  # errors alone: SVT-AV1 tells stderr all of its settings
_HDR = {16: "PQ", 18: "HLG"}
_DEPTHS = (12, 10, 8)
_LOWER_FIRST = (3, 5)  # of AVFieldOrder: as coded, as shown


class Encoding:
    """The picture stream of a result; `first` is the first frame of the film, `stream` what it comes from."""

    def __init__(self, stream: Any, first: Any, container: Container, options: FilmOptions):
        self.bits_given = max(part.bits for part in first.format.components)
        codec = options.codec or _default(container, self.bits_given)
        self._encoder, self.container = ENCODERS[codec], container
        self.codec, self.crf = codec, self._encoder.crf if options.crf is None else options.crf
        self.width, self.height = first.width, first.height
        self.pix_fmt, self.bits = self._format(encoder_of(codec))
        self.space: Space = space_of(first, self.bits)
        self.time_base: Fraction = stream.time_base
        self._rate = stream.average_rate
        self._about = {name: getattr(first, name) for name in ("color_primaries", "color_trc")}
        self._about |= {
            "colorspace": self.space.tag,
            "color_range": 2 if self.space.full else first.color_range,
        }
        self.interlaced = codec == "h264" and first.interlaced_frame and first.height % 4 == 0
        self._lower_first = stream.codec_context.field_order in _LOWER_FIRST
        self._transparent = any(part.is_alpha for part in first.format.components)
        self._aspect = stream.sample_aspect_ratio

    def _format(self, codec: AvCodec) -> tuple[str, int]:
        """Pixels as deep as those of the film; 4:2:0 needs an even width and height with most encoders."""
        even = self.width % 2 == 0 and self.height % 2 == 0
        known = {one.name for one in codec.video_formats or ()}
        for bits in [one for one in _DEPTHS if one <= max(8, self.bits_given + self.bits_given % 2)]:
            for layout in ("420",) if even else ("444", "420"):
                name = f"yuv{layout}p" + (f"{bits}le" if bits > 8 else "")
                if name in known:
                    return name, bits
        raise AssertionError(f"{codec.name} has none of the formats that it had")

    @property
    def text(self) -> str:
        """What the packets depend on, beside the pictures."""
        about = (
            self._encoder,
            self.crf,
            self.pix_fmt,
            self.interlaced,
            self._lower_first,
            self.container.muxer,
            av.__version__,
        )
        return repr((about, self.width, self.height, self.time_base, self._rate, self._aspect, self._about))

    def context(self) -> Any:
        """A new encoder."""
        context = av.CodecContext.create(self._encoder.name, "w")
        self._set(context)
        if av.ContainerFormat(self.container.muxer, "w").flags & FormatFlags.global_header.value:
            context.flags |= Flags.global_header
        return context

    def add_to(self, made: Any) -> Any:
        """A stream of a result, for packets of any of those encoders."""
        stream = made.add_stream(self._encoder.name, rate=self._rate)
        self._set(stream.codec_context)
        stream.time_base = self.time_base
        if self.codec == "hevc" and self.container.muxer in ("mp4", "mov"):
            stream.codec_context.codec_tag = "hvc1"  # what Apple's players ask for
        return stream

    def _set(self, context: Any) -> None:
        context.options = {"crf": str(self.crf), **self._encoder.options}
        if self.interlaced:
            context.options |= {"x264-params": "bff=1" if self._lower_first else "tff=1"}
        context.width, context.height, context.pix_fmt = self.width, self.height, self.pix_fmt
        context.time_base = self.time_base
        if self._rate:
            context.framerate = self._rate
        for name, value in self._about.items():
            setattr(context, name, value)
        if self._aspect:
            context.sample_aspect_ratio = self._aspect

    def notes(self) -> Iterator[str]:
        """What of the pictures is not as it was."""
        if self.bits < self.bits_given:
            yield f"{self.bits_given} bits become {self.bits}"
        if self._transparent:
            yield "without its transparency"
        if curve := _HDR.get(self._about["color_trc"]):
            yield f"HDR keeps its curve ({curve}), without its mastering data"


def _default(container: Container, bits: int) -> Codec:
    """The first codec of a container for 8 bits, the next for more: no player of films has H.264 of 10."""
    return container.codecs[bits > 8]
