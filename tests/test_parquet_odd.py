"""Tables that are odd or damaged: the right rows or one line, never a traceback, never other rows."""

import itertools
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from marks import slow
from parquet_fixtures import HUB_IMAGE, encode, hub, pair, picture, write_rows

from streamgan.core.errors import ConfigError, DataError, StreamganError
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.source import parquet
from streamgan.sharding.source.read import Wanted, read_source

IMAGES = [encode(picture(i)) for i in range(6)]
GRAYS = [encode(picture(i, mode="L")) for i in range(6)]


def write(path, columns: dict, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def rows(path, **wanted) -> list[tuple]:
    found = []
    for file in read_source([str(path)], Wanted(**wanted)):
        for group, count in enumerate(file.group_rows):
            for row in file.read(row_group=group, start=0, stop=count) if count else ():
                found.append((row.number, row.color.data, row.color.path, row.text))
    return found


KINDS = {
    "binary": pa.array(IMAGES, pa.binary()),
    "large_binary": pa.array(IMAGES, pa.large_binary()),
    "binary_view": pa.array(IMAGES, pa.binary_view()),
    "dictionary": pa.array(IMAGES, pa.binary()).dictionary_encode(),
    "struct": pa.array([hub(data, "a.jpg") for data in IMAGES], HUB_IMAGE),
    "struct with more": pa.array(
        [{"bytes": data, "path": "a.jpg", "size": 3} for data in IMAGES],
        pa.struct([("size", pa.int32()), ("path", pa.large_string()), ("bytes", pa.large_binary())]),
    ),
}


def test_few_large_rows_are_in_memory_at_a_time_and_many_small_ones():
    assert [parquet.batch_rows(1000, 1000 * size) for size in (4_000_000, 131_000, 2_000)] == [16, 64, 128]
    assert parquet.batch_rows(1000, 0) == 128  # a footer that does not know


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["image", "my.image"])
def test_images_are_read_whatever_binary_type_holds_them(tmp_path, kind, name):
    path = write(tmp_path / "a.parquet", {"id": range(6), name: KINDS[kind]}, row_group_size=4)
    column = None if name == "image" else name
    found = rows(path, image=column)
    assert [(number, data) for number, data, *_ in found] == list(enumerate(IMAGES))
    options = ShardOptions(image_column=column)
    manifest = shard([str(path)], tmp_path / "set", options=options, num_workers=0).manifest
    assert sum(split.samples for split in manifest.splits.values()) == 6


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), "dictionary"]
)
def test_captions_are_read_whatever_text_type_holds_them(tmp_path, kind):
    texts = ["one", "two", None, "one", "", "six"]
    array = pa.array(texts).dictionary_encode() if kind == "dictionary" else pa.array(texts, kind)
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "text": array})
    wanted = [None if text is None else text.encode() for text in texts]
    assert [text for *_, text in rows(path, keep_text=True)] == wanted


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, 2, 3]),
        pa.array(["a.jpg", "b.jpg", "c.jpg"]),
        pa.array([[b"a"], [b"b"], [b"c"]]),
        pa.array([{"bytes": [1, 2]}] * 3),
        pa.array([{"path": "a.jpg"}] * 3),
        pa.array([1, 2, 1]).dictionary_encode(),
        pa.array([b"abc"] * 3, pa.binary(3)),
        pa.array([None] * 3),
    ],
    ids=str,
)
def test_a_column_of_another_type_is_one_line(tmp_path, array):
    path = write(tmp_path / "a.parquet", {"image": array})
    with pytest.raises(ConfigError, match=r"a\.parquet: column 'image' holds .*, not encoded images"):
        rows(path)


def test_a_struct_that_pyarrow_does_not_read_in_pieces_is_one_line(tmp_path):
    struct = pa.array([{"bytes": data} for data in IMAGES], pa.struct([("bytes", pa.binary_view())]))
    path = write(tmp_path / "a.parquet", {"image": struct})
    with pytest.raises(ConfigError, match="write it again with binary in place of binary_view"):
        rows(path)


def test_two_columns_of_one_name_are_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    twice = pa.Table.from_arrays([pa.array(IMAGES), pa.array(IMAGES[::-1])], names=["image", "image"])
    pq.write_table(twice, path)
    with pytest.raises(ConfigError, match=r"a\.parquet: has two columns 'image'; write it again"):
        rows(path)
    struct = pa.array([hub(data) for data in IMAGES], HUB_IMAGE)
    write(path, {"image": struct, "image.bytes": IMAGES[::-1]})
    with pytest.raises(ConfigError, match=r"a\.parquet: has two columns 'image.bytes'"):
        rows(path)
    others = pa.Table.from_arrays(
        [pa.array(IMAGES), pa.array(range(6)), pa.array(range(6))], names=["image", "x", "x"]
    )
    pq.write_table(others, path)
    assert [data for _, data, *_ in rows(path)] == IMAGES


def test_one_column_cannot_be_colour_and_gray(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": IMAGES})
    with pytest.raises(ConfigError, match="'image' is both colour and gray twin"):
        rows(path, gray="image")


def test_tables_without_rows_are_one_line_alone_and_nothing_beside_others(tmp_path):
    table = pa.table({"image": pa.array(IMAGES)})
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    pq.ParquetWriter(tmp_path / "groups.parquet", table.schema).close()
    for name in ("empty", "groups"):
        with pytest.raises(DataError, match=rf"{name}\.parquet: the source has no rows"):
            shard([str(tmp_path / f"{name}.parquet")], tmp_path / "set", num_workers=0)
    pq.write_table(table, tmp_path / "full.parquet")
    assert [data for _, data, *_ in rows(tmp_path)] == IMAGES


def test_a_path_that_is_not_utf8_costs_nothing(tmp_path):
    path = write_rows(
        tmp_path / "a.parquet", [pair(i) | {"image": hub(IMAGES[i], "cafe.jpg")} for i in range(3)]
    )
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"cafe.jpg", b"caf\xe9.jpg"))
    assert [data for _, data, *_ in rows(path)] == IMAGES[:3]


def test_an_encrypted_footer_is_one_line(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": IMAGES})
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")
    with pytest.raises(DataError, match=r"a\.parquet: its footer is encrypted"):
        rows(path)


@pytest.mark.parametrize("length", [0, 1, 7, 100, 2**31 - 1, 2**32 - 1])
def test_a_footer_of_another_length_is_one_line(tmp_path, length):
    path = write(tmp_path / "a.parquet", {"image": IMAGES})
    path.write_bytes(path.read_bytes()[:-8] + length.to_bytes(4, "little") + b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: "):
        rows(path)


def _outcome(path, wanted) -> str:
    try:
        return "right" if rows(path, keep_text=True) == wanted else "wrong rows"
    except StreamganError as error:
        return "one line" if "\n" not in str(error) else "many lines"
    except Exception as error:
        return repr(error)


@pytest.mark.parametrize("every", [9, slow(1)])
def test_a_flipped_byte_of_a_footer_gives_the_right_rows_or_one_line(tmp_path, every):
    path = tmp_path / "a.parquet"
    table = pa.table({"image": IMAGES[:4], "text": ["a", "b", "c", "d"]})
    pq.write_table(table, path, row_group_size=2, write_page_checksum=True, store_schema=False)
    data, wanted = path.read_bytes(), rows(path, keep_text=True)
    length = int.from_bytes(data[-8:-4], "little") + 8
    outcomes, masks = {}, itertools.cycle([0x01, 0x02, 0x80, 0xFF])
    with open(path, "r+b") as file:
        for at, mask in zip(range(len(data) - length, len(data), every), masks, strict=False):
            os.pwrite(file.fileno(), bytes([data[at] ^ mask]), at)
            outcomes.setdefault(_outcome(path, wanted), []).append(at)
            os.pwrite(file.fileno(), data[at : at + 1], at)
    assert outcomes.keys() <= {"right", "one line"}, outcomes
    assert len(outcomes["one line"]) > 100 // every
