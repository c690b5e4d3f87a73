"""`streamgan index`: tars of other programs, read by the loader, proved by verify, never touched."""

import io
import json
import subprocess
import tarfile

import pytest
from click.testing import CliRunner
from parquet_fixtures import encode, picture, tree

from streamgan.cli.index import index as index_command
from streamgan.core.errors import ConfigError, DataError
from streamgan.data import build_loader
from streamgan.data.format import read_idx
from streamgan.data.shards.reader import ShardReader
from streamgan.sharding.foreign.build import index
from streamgan.sharding.run import shard
from streamgan.sharding.verify import verify


def color(seed: int) -> bytes:
    return encode(picture(seed))


def gray(seed: int) -> bytes:
    return encode(picture(seed, mode="L"), "PNG")


def write_tar(path, members: dict[str, bytes], **options):
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_tars(folder, *, twins=True, count=6):
    """Two train tars and a test tar by webdataset's own writer."""
    from webdataset import TarWriter

    folder.mkdir()
    for number, name in enumerate(("set-train-0.tar", "set-train-1.tar", "set-test-0.tar")):
        with TarWriter(str(folder / name)) as tar:
            for i in range(number * count, (number + 1) * count):
                twin = {"edge.png": gray(i)} if twins else {}
                tar.write({"__key__": f"dir/{i:04d}", "jpg": color(i), "txt": f"photo {i}", **twin})
    return folder


def test_the_tars_of_webdataset_are_read_like_a_set(tmp_path):
    folder = write_tars(tmp_path / "tars")
    before = tree(folder)
    result = index(folder, gray=("edge.png",))
    manifest = result.manifest
    assert not result.nothing_to_do
    assert result.passed_over == {".txt": 18}
    assert manifest.source["kind"] == "foreign"
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 12, "test": 6}
    assert {name: data for name, data in tree(folder).items() if name.endswith(".tar")} == before
    reader = ShardReader(folder, "train")
    assert [reader.read(i, gray=True) for i in range(12)] == [(color(i), gray(i)) for i in range(12)]
    assert "set-train-1.tar, key dir/0007" in reader.where(7)
    reader.close()
    for sample in read_idx(folder / "set-train-1.idx"):
        part = (folder / "set-train-1.tar").read_bytes()[sample.offset : sample.offset + sample.span]
        with tarfile.open(fileobj=io.BytesIO(part + bytes(1024))) as tar:
            assert tar.getnames() == [f"{sample.key}.{ending}" for ending in ("edge.png", "jpg", "txt")]
    [batch] = build_loader(folder, batch=12, size=8, workers=0, epochs=1, gray="twin")
    assert sorted(batch.ids_B.tolist()) == list(range(12))
    assert verify(folder, full=True).findings == []


def test_tars_of_gnu_tar_with_long_names_and_folders(tmp_path):
    deep = tmp_path / "in" / ("x" * 90) / ("y" * 40)
    deep.mkdir(parents=True)
    for i in range(3):
        (deep / f"{i}.png").write_bytes(encode(picture(i), "PNG"))
        (deep / f"{i}.notes.txt").write_bytes(b"notes")
    for style in ("gnu", "pax", "ustar"):
        (tmp_path / style).mkdir()
        path = tmp_path / style / "a.tar"
        command = ["tar", f"--format={style}", "--sort=name", "-cf", path, "-C", tmp_path / "in", "."]
        subprocess.run(command, check=True)
        assert index(path.parent).manifest.splits["train"].samples == 3
        reader = ShardReader(path.parent, "train")
        assert [reader.read(i).color for i in range(3)] == [encode(picture(i), "PNG") for i in range(3)]
        reader.close()
        assert verify(path.parent, full=True).findings == []


def test_out_holds_links_and_indexes_and_leaves_the_folder_alone(tmp_path):
    folder = write_tars(tmp_path / "tars")
    before = tree(folder)
    index(folder, out=tmp_path / "set")
    assert tree(folder) == before
    assert (tmp_path / "set" / "set-train-0.tar").is_symlink()
    assert verify(tmp_path / "set", full=True).findings == []
    assert len(ShardReader(tmp_path / "set", "test")) == 6


def test_a_second_run_finds_nothing_new_and_a_new_tar_is_taken_in(tmp_path):
    folder = write_tars(tmp_path / "tars")
    first = index(folder).manifest
    before = tree(folder)
    again = index(folder)
    assert (again.manifest.digest, again.nothing_to_do) == (first.digest, True)
    assert tree(folder) == before
    write_tar(folder / "set-train-2.tar", {"9.jpg": color(9)})
    more = index(folder)
    assert not more.nothing_to_do
    assert more.manifest.splits["train"].samples == 13
    assert verify(folder, full=True).findings == []


def test_other_files_beside_the_tars_are_not_findings_but_a_new_tar_is(tmp_path):
    folder = write_tars(tmp_path / "tars")
    index(folder)
    (folder / "README.txt").write_text("about")
    assert verify(folder).findings == []
    write_tar(folder / "set-train-2.tar", {"9.jpg": color(9)})
    assert [finding.file for finding in verify(folder).findings] == ["set-train-2.tar"]


@pytest.mark.parametrize("where", ["image", "text", "header"])
def test_verify_finds_a_flipped_bit_anywhere_in_a_foreign_tar(tmp_path, where):
    folder = write_tars(tmp_path / "tars", twins=False)
    index(folder)
    path = folder / "set-train-1.tar"
    data = bytearray(path.read_bytes())
    at = {
        "image": data.index(color(8)) + 50,
        "text": data.index(b"photo 8"),
        "header": data.index(b"dir/0008.jpg"),
    }
    data[at[where]] ^= 1
    path.write_bytes(data)
    [finding] = verify(folder).findings
    assert finding.file == "set-train-1.tar"
    assert finding.key == ("dir/0008" if where == "image" else None)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:2048], "without an end mark: cut short"),
        (lambda data: data[:700], "unexpected end of data"),
        (lambda data: data[:1024] + b"\xff" + data[1025:], "damaged tar header at byte 1024"),
        (lambda data: b"\xff" + data[1:], "not a tar, compressed, or damaged"),
        (lambda data: data + data, "more data after the end mark"),
        (lambda data: b"", "not a tar|without an end mark"),
    ],
)
def test_a_damaged_tar_is_one_error_with_its_place(tmp_path, damage, words):
    path = write_tar(tmp_path / "a.tar", {"1.jpg": color(1)[:400], "1.txt": b"x" * 512, "2.txt": b"y"})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"a\.tar: .*({words})"):
        index(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_bad_samples_are_listed_and_left_out(tmp_path):
    exif = picture(1).getexif()
    exif[0x0112] = 6
    members = {
        "a.jpg": color(1),
        "a.gray.png": gray(1),
        "b.txt": b"no image",
        "c.jpg": b"x",
        "d.jpg": color(2),
    }
    members |= {"e.jpg": encode(picture(3), exif=exif), "e.gray.png": gray(3), "f.jpg": color(4)}
    members |= {"f.gray.png": encode(picture(4, size=(9, 9), mode="L"), "PNG")}
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=r"5 of 6 samples are bad.*--max-bad 0\.5"):
        index(tmp_path, max_bad=0.5)
    manifest = index(tmp_path, max_bad=0.9).manifest
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").open()]
    reasons = {row["name"]: row["reason"] for row in rows}
    assert reasons == {
        "b": "missing",
        "c": "not_an_image",
        "d": "gray_missing",
        "e": "not_plain",
        "f": "gray_size_differs",
    }
    assert manifest.splits["train"].samples == 1
    assert verify(tmp_path, full=True).findings == []


def test_no_image_under_the_known_names_names_the_ones_there_are(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.photo.jpg": color(1), "1.cls": b"3"})
    with pytest.raises(ConfigError, match=r"no colour image .*\.photo\.jpg.*--color"):
        index(tmp_path)
    assert index(tmp_path, color=("photo.jpg",)).manifest.splits["train"].samples == 1


def test_splits_come_from_names_or_from_the_option(tmp_path):
    for name in ("x-validation-000.tar", "train_1.tar"):
        write_tar(tmp_path / name, {"1.jpg": color(1)})
    assert list(index(tmp_path).manifest.splits) == ["train", "val"]
    assert list(index(tmp_path, split="test").manifest.splits) == ["test"]
    write_tar(tmp_path / "extra.tar", {"1.jpg": color(1)})
    with pytest.raises(ConfigError, match=r"extra\.tar: its name does not say its split"):
        index(tmp_path)


def test_where_some_samples_have_a_twin_gray_none_keeps_all(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.jpg": color(1), "a.gray.png": gray(1), "b.jpg": color(2)})
    with pytest.raises(DataError, match=r"gray_missing 1; give --gray none"):
        index(tmp_path)
    result = CliRunner().invoke(index_command, [str(tmp_path), "--gray", "none"])
    assert result.exit_code == 0, result.exception
    assert "train         2 samples" in result.stdout
    assert "other         1 .gray.png (not used)" in result.stdout
    [batch] = build_loader(tmp_path, batch=2, size=8, workers=0, epochs=1)
    assert len(batch.ids_B) == 2
    assert verify(tmp_path, full=True).findings == []


def test_a_set_of_our_own_and_a_folder_without_tars_are_refused(tmp_path, source_folder):
    shard([str(source_folder)], tmp_path / "set", num_workers=0)
    before = tree(tmp_path / "set")
    with pytest.raises(ConfigError, match="holds a set that `streamgan shard` made"):
        index(tmp_path / "set")
    assert tree(tmp_path / "set") == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.tar file"):
        index(tmp_path / "empty")


def test_the_command_says_what_it_indexed(tmp_path):
    folder = write_tars(tmp_path / "tars")
    arguments = [str(folder), "--gray", ".edge.png", "--out", str(tmp_path / "set")]
    text = CliRunner().invoke(index_command, arguments)
    assert text.exit_code == 0, text.exception
    assert "train        12 samples     2 shards" in text.stdout
    value = json.loads(CliRunner().invoke(index_command, [*arguments, "--json"]).stdout)
    assert (value["ok"], value["nothing_to_do"], value["splits"]["test"]["samples"]) == (True, True, 6)
