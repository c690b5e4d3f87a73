"""One verdict on an image: sharding, `verify --full`, training and evaluation take and refuse the same."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from parquet_fixtures import encode, hub, write_rows
from PIL import Image
from shared import make_photo

from streamgan.core.errors import DataError
from streamgan.data import image as image_module
from streamgan.data.image import BadImage, to_pixels
from streamgan.data.loader import build_eval_loader, build_loader
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.sample.check import BadRow, check_image
from streamgan.sharding.source.rows import Cell
from streamgan.sharding.verify import verify

SIZE = (96, 80)
END = b"\xff\xd9"
PLAIN, PROGRESSIVE, RESTARTS = (
    encode(make_photo(1, SIZE), quality=90, **options)
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1})
)
WAYS = {"plain": PLAIN, "progressive": PROGRESSIVE, "restarts": RESTARTS}


def scan_of(data: bytes) -> int:
    """Where the first entropy-coded byte lies."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def restarts(data: bytes) -> list[int]:
    return [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", data)]


def inserted(data: bytes, at: int, more: bytes) -> bytes:
    return data[:at] + more + data[at:]


def before_restarts(data: bytes, more: bytes) -> bytes:
    for at in reversed(restarts(data)):
        data = inserted(data, at, more)
    return data


def icc(part: int, parts: int) -> bytes:
    body = b"ICC_PROFILE\0" + bytes([part, parts]) + bytes(200)
    return b"\xff\xe2" + (len(body) + 2).to_bytes(2, "big") + body


ADOBE = b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\x07"
HEAD = 20  # bytes of SOI and JFIF
# What viewers pass over. Each keeps every pixel.
HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "zeros before the end mark": lambda data: data[:-2] + bytes(300) + END,
    "text before the end mark": lambda data: data[:-2] + b"some maker's text" * 9 + END,
    "bytes after the end mark": lambda data: data + b"x" * 999,
    "another picture after it": lambda data: data + PLAIN,
    "JFIF revision 2": lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\2"),
    "part 2 of 3 of a profile": lambda data: inserted(data, HEAD, icc(2, 3)),
    "part 0 of 0 of a profile": lambda data: inserted(data, HEAD, icc(0, 0)),
    "an unknown Adobe transform": lambda data: inserted(data, HEAD, ADOBE),
    "zeros between segments": lambda data: inserted(data, HEAD, bytes(5)),
    "fill bytes": lambda data: inserted(data[:-2] + b"\xff\xff" + END, HEAD, b"\xff\xff\xff"),
}
OF_SCANS: dict[str, bytes] = {
    "SOS parameters 0,0": inserted(PLAIN[: scan_of(PLAIN) - 3], scan_of(PLAIN), bytes(3))
    + PLAIN[scan_of(PLAIN) :],
    "bytes before restart markers": before_restarts(RESTARTS, b"some bytes"),
    "fill bytes before restart markers": before_restarts(RESTARTS, b"\xff\xff"),
    "both, and a profile": inserted(before_restarts(RESTARTS, bytes(12) + b"\xff"), HEAD, icc(3, 2)),
}
ODD = {f"{name}, {way}": odd(data) for name, odd in HARMLESS.items() for way, data in WAYS.items()} | OF_SCANS


def cuts(data: bytes) -> list[bytes]:
    """The JPEG without some of its end, and that with an end mark."""
    scan = scan_of(data)
    ends = [*np.linspace(scan + 2, len(data) - 40, 9).astype(int).tolist(), len(data) - 6, len(data) - 3]
    return [cut for end in ends for cut in (data[:end], data[:end] + END)]


def accepted(data: bytes) -> bool:
    """The verdict of a decoded image at any size and in either mode, which is that of `--check decode`."""
    verdicts = set()
    for mode in ("RGB", "L"):
        for short in (1, 40, 999):
            try:
                to_pixels(data, mode, short=short)
                verdicts.add(True)
            except BadImage:
                verdicts.add(False)
    try:
        check_image(Cell(data), "color", check="decode", max_pixels=10**6)
        verdicts.add(True)
    except BadRow:
        verdicts.add(False)
    assert len(verdicts) == 1
    return verdicts.pop()


@pytest.mark.parametrize("name", ODD)
def test_what_viewers_pass_over_is_tolerated_and_keeps_every_pixel(name):
    data = ODD[name]
    assert accepted(data)
    whole = (
        PROGRESSIVE if "progressive" in name else RESTARTS if "restart" in name or "both" in name else PLAIN
    )
    assert np.array_equal(to_pixels(data, "RGB", short=999), simplejpeg.decode_jpeg(whole))


@pytest.mark.parametrize("way", WAYS)
def test_a_scan_that_is_cut_is_bad_with_an_end_mark_or_without(way):
    for cut in cuts(WAYS[way]):
        assert not accepted(cut), len(cut)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", HARMLESS)
def test_a_cut_is_bad_although_a_harmless_warning_comes_first(name, way):
    """libjpeg tells of no other."""
    for cut in cuts(WAYS[way]):
        if cut.endswith(END) and "before the end" not in name:  # which would be decoded as the missing part
            assert not accepted(HARMLESS[name](cut)), len(cut)


@pytest.mark.parametrize("name", OF_SCANS)
def test_a_cut_is_bad_although_a_scan_is_odd_before_it(name):
    for cut in cuts(OF_SCANS[name]):
        assert not accepted(cut), len(cut)


def test_a_scan_that_lacks_intervals_is_bad():
    for data in (RESTARTS, before_restarts(RESTARTS, b"some bytes")):
        at = restarts(data)
        for first, last in ((0, 1), (3, 4), (2, 10), (5, 6), (len(at) - 2, len(at) - 1)):
            assert not accepted(data[: at[first]] + data[at[last] :])
        for place in at[::3]:
            assert not accepted(data[:place] + END)


def test_a_sound_jpeg_is_decoded_once(monkeypatch):
    calls = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        image_module.simplejpeg, "decode_jpeg", lambda *a, **k: (calls.append(k), decode(*a, **k))[1]
    )
    for data in WAYS.values():
        to_pixels(data, "RGB", short=32)
    assert len(calls) == len(WAYS)


def damage(data: bytes) -> list[bytes]:
    """Cut, with a wrong byte in many places, and without its end."""
    found = [data[: len(data) * part // 7] for part in range(1, 7)]
    found += [data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(8, len(data), 97)]
    return [*found, data[:-12], data[:-1]]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_checks_and_training_agree_on_damage_of_every_format(kind):
    data = encode(make_photo(2, SIZE), kind)
    assert accepted(data)
    verdicts = {agreed(one) for one in damage(data)}
    assert False in verdicts


def agreed(data: bytes) -> bool:
    """As `accepted`, of any bytes: a check may refuse more, for what its header says, never less."""
    try:
        check_image(Cell(data), "color", check="decode", max_pixels=10**6)
    except BadRow:
        return False
    to_pixels(data, "RGB", short=40)
    return True


def write_set(folder: Path, images: list[bytes], **options) -> Path:
    write_rows(folder / "a.parquet", [{"image": hub(data)} for data in images], group=4)
    rules = ShardOptions(splits="train=1", **options)
    shard([str(folder / "a.parquet")], folder / "set", options=rules, num_workers=0, max_bad=1.0)
    return folder / "set"


def test_sharding_verify_training_and_evaluation_say_the_same(tmp_path):
    good = [*ODD.values(), *(encode(make_photo(seed, SIZE)) for seed in range(4))]
    bad = [cut for data in (*WAYS.values(), *OF_SCANS.values()) for cut in cuts(data) if cut.endswith(END)]
    checked = write_set(tmp_path / "checked", good + bad, check="decode")
    assert verify(checked, full=True).findings == []
    assert verify(checked).samples == len(set(good))
    batches = list(build_loader(checked, batch=len(good), size=32, workers=0, stop_step=1))
    assert sorted(batches[0].ids_B.tolist()) == list(range(len(good)))
    shutil.rmtree(tmp_path / "checked")

    some = write_set(tmp_path / "header", [*good[:20], bad[5], *good[20:]], check="header")
    (finding,) = verify(some, full=True).findings
    assert re.search(r"color\.jpg does not decode \(.*(premature end|missing)", finding.what)
    for loader in (
        build_loader(some, batch=len(good) + 1, size=32, workers=0, stop_step=1),
        build_eval_loader(some, "train", batch=8, size=32),
    ):
        with pytest.raises(DataError, match=rf"{finding.file}, key {finding.key}: .*verify --full"):
            list(loader)


@pytest.mark.parametrize("size", [None, 40])
def test_no_pixels_are_made_of_a_jpeg_that_is_cut(tmp_path, size):
    """Whatever the check: the new file would be whole, and the gap in it for ever."""
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encode(make_photo(3, SIZE), exif=turned) if size is None else PLAIN
    root = write_set(tmp_path, [data[: len(data) * 3 // 4] + END, data], check="header", size=size)
    assert verify(root).samples == 1
    assert '"truncated"' in (root / "quarantine.jsonl").read_text()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_is_damaged_is_said_without_names_of_classes_and_functions(kind):
    whole, said = encode(make_photo(0, SIZE), kind), set()
    for at in range(4, 400, 3):
        data = bytearray(whole)
        data[at] ^= 0x55
        for look in (
            lambda data: to_pixels(data, "RGB", short=1),
            lambda data: check_image(Cell(data), "color", check="decode", max_pixels=10**6),
        ):
            try:
                look(bytes(data))
            except (BadImage, BadRow) as error:
                said.add(error.what if isinstance(error, BadImage) else error.detail)
    assert said
    assert not [text for text in said if re.search(r"Error|tj|\(\)|object at|Exception|_", text)]
