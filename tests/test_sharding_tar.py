"""Our tar headers against the library whose bytes they repeat."""

import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgan.sharding.unit.tar import BLOCK, end, header, padding

NAMES = st.text(st.sampled_from("abc019-."), min_size=1, max_size=90).filter(lambda name: name[-1] != ".")


def archive(members: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(header(name, len(data)) + data + padding(len(data)) for name, data in members)
    return body + end(len(body))


@pytest.fixture(scope="module")
def tar_writer():
    from webdataset import TarWriter

    return TarWriter


def by_webdataset(tar_writer, members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tar_writer(stream, user="streamgan", group="streamgan", mtime=0, encoder=False) as tar:
        for name, data in members:
            key, suffix = name.split(".", 1)
            tar.write({"__key__": key, suffix: data})
    return stream.getvalue()


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 8000, 8192, 10239, 10240, 200_000])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_bytes_are_those_of_webdataset(tar_writer, size, count):
    members = [(f"00000-{i:09d}.color.jpg", bytes([i]) * size) for i in range(count)]
    assert archive(members) == by_webdataset(tar_writer, members)


@given(NAMES, st.integers(0, 8**11 - 1))
def test_any_name_and_size_has_the_header_of_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = size, 0o444, "streamgan", "streamgan"
    assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_the_bytes_do_not_depend_on_the_release_of_python():
    digest = hashlib.sha256(archive([("00000-000000000.color.jpg", b"data")])).hexdigest()
    assert digest[:16] == "15363b45a1a11373"
