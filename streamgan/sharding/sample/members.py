"""One row -> the members of one sample: judged, made plain where that is needed, made smaller on demand."""

import json
from dataclasses import dataclass, field
from typing import Any

from streamgan.data.image import damage
from streamgan.sharding.source.rows import Data, Row

from .check import BadRow, Check, Checked, Role, check_image, check_pair, check_text, look_at_pixels
from .pixels import Encoding, encode, open_image, resize, smaller

_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each row
_SIZE = b'{"width": %d, "height": %d}'  # as `_json` has what most images are described by
LOOK_EVERY = 16  # rows: how often the pixels of a twin stored as RGB are looked at without --check decode


@dataclass(frozen=True)
class Rules:
    """What is asked of an image, and what becomes of it."""

    check: Check = "header"
    max_pixels: int = 50_000_000
    encoding: Encoding = field(default_factory=Encoding)


def make_members(row: Row, rules: Rules, *, with_text: bool) -> tuple[dict[str, Data], tuple[str, ...]]:
    """(members by suffix, what was changed) of a good row; BadRow otherwise."""
    color = check_image(row.color, "color", check=rules.check, max_pixels=rules.max_pixels)
    gray = None
    if row.gray is not None:
        gray = check_image(row.gray, "gray", check=rules.check, max_pixels=rules.max_pixels)
        look = rules.check == "decode" or (rules.check == "header" and row.number % LOOK_EVERY == 0)
        check_pair(color, gray, look=look)
    target = smaller(color.size, rules.encoding.size) if color.size else None
    size = target or color.size
    data, extension = _encoded(color, "color", target, rules)
    members: dict[str, Data] = {f"color.{extension}": data}
    if gray is not None:
        data, extension = _encoded(gray, "gray", target, rules)
        members[f"gray.{extension}"] = data
    changes = (
        *color.changes,
        *(f"gray_{change}" for change in (gray.changes if gray else ())),
        *(("resized",) if target else ()),
    )
    about: dict[str, Any] = {"width": size[0], "height": size[1]} if size else {}
    if changes:
        about["changed"] = changes
    if row.name is not None:
        about["name"] = row.name
    if with_text:
        about["text"] = check_text(row.text)
    no_more = size and len(about) == len(size)
    members["json"] = _SIZE % size if no_more else _json(about).encode()
    return members, changes


def _encoded(image: Checked, role: Role, target: tuple[int, int] | None, rules: Rules) -> tuple[Data, str]:
    """(bytes, extension): those of the source unless its pixels had to change."""
    if target is None and image.pixels is None:
        return image.data, image.extension
    encoding = rules.encoding
    kind = encoding.kind(resized=target is not None)
    try:
        if image.pixels is None and image.extension == "jpg" and rules.check != "decode":
            look_at_pixels(bytes(image.data), role)
        pixels = image.pixels or open_image(image.data, image.extension)
        if target:
            pixels = resize(pixels, target, "L" if role == "gray" else pixels.mode)
    except BadRow as bad:
        raise BadRow(f"gray_{bad.reason}", bad.detail) if role == "gray" else bad from bad
    except MemoryError:
        raise
    except Exception as error:  # only decoding shows that the pixels are damaged
        raise BadRow("gray_damaged" if role == "gray" else "damaged", damage(error)) from error
    return encode(pixels, kind, encoding.quality), {"jpeg": "jpg", "png": "png"}[kind]
