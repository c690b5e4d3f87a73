"""`streamgan index` loses nothing in silence: what is no sample of the set is listed, counted or refused."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile

import pytest
from parquet_fixtures import encode, picture, tree

from streamgan.cli.main import main
from streamgan.data.shards.reader import ShardReader
from streamgan.sharding.verify import verify


def color(seed: int) -> bytes:
    return encode(picture(seed))


def member(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, io.BytesIO(data)


def write(path, *members, style=tarfile.PAX_FORMAT):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=style, errors="surrogateescape") as tar:
        for info, data in members:
            data.seek(0)
            tar.addfile(info, data if info.isreg() else None)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """(exit code, JSON object) of `streamgan index ARGUMENTS --json`, or with `text` what stdout says."""

    def call(*arguments, text=False):
        options = [] if text else ["--json"]
        monkeypatch.setattr(sys, "argv", ["streamgan", "index", *map(str, arguments), *options])
        with pytest.raises(SystemExit) as end:
            main()
        out = capsys.readouterr().out
        return int(end.value.code or 0), out if text else json.loads(out)

    return call


def keys(folder) -> list[str]:
    """Keys of all samples of the training split, each image of which must be readable."""
    assert verify(folder, full=True).findings == []
    reader = ShardReader(folder, "train")
    for number in range(len(reader)):
        reader.read(number)
    found = [reader.where(number).partition(", key ")[2] for number in range(len(reader))]
    reader.close()
    return found


def quarantined(folder) -> dict[str, tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    return {row["name"]: (row["reason"], row["detail"]) for row in rows}


LINK, SYMLINK = tarfile.LNKTYPE, tarfile.SYMTYPE


def test_links_to_members_before_them_are_samples_and_others_are_named(run, tmp_path):
    members = [
        member("d/0.jpg", color(0)),
        member("d/1.jpg", type=LINK, linkname="d/0.jpg"),
        member("e/2.jpg", type=SYMLINK, linkname="../d/0.jpg"),
        member("e/3.jpg", type=LINK, linkname="e/2.jpg"),
        member("d/4.jpg", type=LINK, linkname="elsewhere/0.jpg"),
        member("d/5.jpg", type=SYMLINK, linkname="/photos/0.jpg"),
    ]
    write(tmp_path / "a.tar", *members)
    code, result = run(tmp_path, "--max-bad", 0.5)
    assert (code, result["splits"]["train"]["samples"], result["quarantine"]) == (0, 4, {"link": 2})
    assert keys(tmp_path) == ["d/0", "d/1", "e/2", "e/3"]
    assert quarantined(tmp_path)["d/5"] == (
        "link",
        "to /photos/0.jpg, which is no file before it in this tar",
    )
    reader = ShardReader(tmp_path, "train")
    assert [reader.read(i).color for i in range(4)] == [color(0)] * 4
    reader.close()


def test_hard_links_that_gnu_tar_makes_are_samples(run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(color(0))
    os.link(photos / "0.jpg", photos / "1.jpg")
    (tmp_path / "tars").mkdir()
    for style in ("gnu", "pax", "ustar", "v7"):
        path = tmp_path / "tars" / f"{style}.tar"
        subprocess.run(["tar", f"--format={style}", "-cf", path, "-C", photos, "."], check=True)
    assert run(tmp_path / "tars")[1]["splits"]["train"]["samples"] == 8
    assert len(keys(tmp_path / "tars")) == 8


@pytest.mark.parametrize("style", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_members_are_named(run, tmp_path, style):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(color(0))
    (photos / "1.png").write_bytes(encode(picture(1), "PNG"))
    os.truncate(photos / "1.png", 1 << 20)
    with open(photos / "2.jpg", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 20)
        file.write(color(2))
    (photos / "3.jpg").write_bytes(color(3))
    kind = ["--format=gnu"] if style == "gnu" else ["--format=pax", f"--sparse-version={style}"]
    path = tmp_path / "tars" / "a.tar"
    path.parent.mkdir()
    command = ["tar", *kind, "-S", "--hole-detection=raw", "--sort=name", "-cf", path, "-C", photos, "."]
    subprocess.run(command, check=True)
    code, result = run(path.parent, "--max-bad", 0.5)
    assert (code, result["quarantine"]) == (0, {"sparse": 2})
    assert set(quarantined(path.parent)) == {"./1", "./2"}
    assert keys(path.parent) == ["./0", "./3"]


def test_keys_that_begin_with_underscores_and_upper_case_endings_are_samples(run, tmp_path):
    names = ["__0.jpg", "__meta__/1.JPG", "2.Jpeg", "__3__.jpg"]
    write(tmp_path / "a.tar", *(member(name, color(i)) for i, name in enumerate(names)))
    assert run(tmp_path)[1]["splits"]["train"]["samples"] == 4
    assert keys(tmp_path) == ["__0", "__meta__/1", "2", "__3__"]


def test_what_is_no_sample_is_counted_by_ending_or_kind(run, tmp_path):
    members = [
        member("photos", type=tarfile.DIRTYPE),
        member("photos/._0.jpg", b"resource fork"),
        member("photos/0.jpg", color(0)),
        member("photos/0.txt", b"a caption"),
        member("photos/1.jpg", color(1)),
        member("photos/1.TXT", b"a caption"),
        member("photos/1.depth.npy", b"numbers"),
        member("photos/2", color(2)),
        member("photos/3.", color(3)),
        member("photos/tty", type=tarfile.CHRTYPE),
        member("photos/pipe", type=tarfile.FIFOTYPE),
    ]
    write(tmp_path / "a.tar", *members)
    (tmp_path / "._a.tar").write_bytes(b"resource fork")
    code, result = run(tmp_path)
    assert (code, result["splits"]["train"]["samples"], result["quarantine"]) == (0, 2, {})
    counted = {".txt": 2, ".depth.npy": 1, "no ending": 2, "hidden": 1, "not a file": 2, "hidden tar": 1}
    assert result["passed_over"] == counted
    assert "other         2 no ending (not used)" in run(tmp_path, text=True)[1]


def test_a_sample_of_gray_or_text_alone_is_named(run, tmp_path):
    good = [member("0.jpg", color(0)), member("0.gray.png", encode(picture(0, mode="L"), "PNG"))]
    write(tmp_path / "a.tar", *good, member("1.gray.png", color(1)), member("2.txt", b"a caption"))
    assert run(tmp_path, "--max-bad", 0.7)[1]["quarantine"] == {"missing": 2}
    assert set(quarantined(tmp_path)) == {"1", "2"}


def test_members_of_a_key_that_are_not_adjacent_are_called_so(run, tmp_path):
    twins = [member(f"{i}.gray.png", encode(picture(i, mode="L"), "PNG")) for i in range(3)]
    photos = [member(f"{i}.jpg", color(i)) for i in range(3)]
    write(tmp_path / "a.tar", *photos, *twins[:1], member("9.jpg", color(9)))
    code, result = run(tmp_path, "--max-bad", 0.3)
    assert (code, result["quarantine"]) == (0, {"not_adjacent": 1})
    assert quarantined(tmp_path) == {"0": ("not_adjacent", "2 places in this tar: .jpg; .gray.png")}
    assert keys(tmp_path) == ["1", "2", "9"]
    write(tmp_path / "a.tar", *photos, *twins)
    code, result = run(tmp_path)
    assert code == 3
    assert "not_adjacent 3" in result["error"]["message"]


@pytest.mark.parametrize("order", [[0, 0, 1], [0, 1, 0]])
def test_a_name_that_comes_twice_in_a_tar_is_named(run, tmp_path, order):
    write(tmp_path / "a.tar", *(member(f"{i}.jpg", color(10 + at)) for at, i in enumerate(order)))
    code, result = run(tmp_path, "--max-bad", 0.5)
    assert (code, result["quarantine"]) == (0, {"duplicate_member": 1})
    assert keys(tmp_path) == ["1"]


def test_a_key_in_several_tars_is_kept_and_said(run, tmp_path):
    write(tmp_path / "a.tar", member("0.jpg", color(0)), member("1.jpg", color(1)))
    write(tmp_path / "b.tar", member("0.jpg", color(2)))
    assert run(tmp_path)[1]["repeated_keys"] == 1
    assert keys(tmp_path) == ["0", "1", "0"]
    assert "1 keys are in more than one tar; all of their samples are kept" in run(tmp_path, text=True)[1]


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names_keep_their_samples_and_a_line_of_their_own(run, tmp_path, style):
    names = ["x" * 90 + "/" + "y" * 150, "caf\u00e9/\u732b", "bad-\udcff\udcfe", "new\nline"]
    write(tmp_path / "a.tar", *(member(f"{n}.jpg", color(i)) for i, n in enumerate(names)), style=style)
    assert run(tmp_path)[1]["splits"]["train"]["samples"] == 4
    assert keys(tmp_path) == [names[0], names[1], "bad-\\xff\\xfe", "new\\nline"]


def test_an_empty_tar_is_named_and_does_no_harm(run, tmp_path):
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar", member("0.jpg", color(0)))
    code, result = run(tmp_path)
    assert (code, result["empty_tars"], result["splits"]["train"]["samples"]) == (0, ["a.tar"], 1)
    assert keys(tmp_path) == ["0"]
    assert "empty a.tar" in run(tmp_path, text=True)[1]


def test_tars_one_after_the_other_are_refused(run, tmp_path):
    path = write(tmp_path / "a.tar", member("0.jpg", color(0)))
    path.write_bytes(path.read_bytes() + write(tmp_path / "b.tar", member("1.jpg", color(1))).read_bytes())
    code, result = run(tmp_path)
    assert code == 3
    assert "a.tar: more data after the end mark" in result["error"]["message"]


def test_a_header_of_negative_size_ends_the_scan(run, tmp_path):
    path = write(
        tmp_path / "a.tar", member("0.jpg", color(0)), member("1.jpg", b""), style=tarfile.USTAR_FORMAT
    )
    data = bytearray(path.read_bytes())
    at = data.index(b"1.jpg")
    data[at + 124 : at + 136] = b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    code, result = run(tmp_path)
    assert code == 3
    message = result["error"]["message"]  # Python 3.14 takes such a header for the end of the archive
    assert "a.tar: not a tar, compressed, or damaged" in message or "a.tar: damaged tar header" in message


@pytest.mark.parametrize("name", ["b.tar.gz", "b.TGZ", "b.tar.zst", "b.tar.bz2"])
def test_compressed_tars_beside_others_are_refused_by_name(run, tmp_path, name):
    path = write(tmp_path / "a.tar", member("0.jpg", color(0)))
    (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    before = tree(tmp_path)
    code, result = run(tmp_path)
    assert code == 3
    assert f"1 tars are compressed ({name})" in result["error"]["message"]
    assert tree(tmp_path) == before


def test_a_tar_with_an_upper_case_ending_is_indexed(run, tmp_path):
    write(tmp_path / "a.tar", member("0.jpg", color(0)))
    write(tmp_path / "b.TAR", member("1.jpg", color(1)))
    assert run(tmp_path)[1]["splits"]["train"]["shards"] == 2
    assert keys(tmp_path) == ["0", "1"]


def test_a_tar_whose_name_is_not_utf_8_is_named(run, tmp_path):
    os.rename(write(tmp_path / "a.tar", member("0.jpg", color(0))), os.fsencode(tmp_path) + b"/a-\xff.tar")
    code, result = run(tmp_path)
    assert code == 3
    assert "a-\\udcff.tar': is a name that a manifest cannot hold" in result["error"]["message"]


@pytest.mark.parametrize("linked", [False, True])
def test_tars_in_sub_folders_are_refused_by_name_and_links_of_an_index_are_none(run, tmp_path, linked):
    folder = tmp_path / "tars"
    write(folder / "a.tar", member("0.jpg", color(0)))
    assert run(folder, "--out", folder / "set")[0] == 0
    assert run(folder, "--out", folder / "set")[1]["nothing_to_do"]
    write((tmp_path if linked else folder) / "more" / "b.tar", member("1.jpg", color(1)))
    if linked:
        (folder / "more").symlink_to(tmp_path / "more")
    code, result = run(folder, "--out", folder / "set")
    assert code == 3
    assert "1 tars in sub-folders would be left out (more/b.tar)" in result["error"]["message"]


@pytest.mark.parametrize("kind", ["fifo", "dangling", "same", "hard link"])
def test_what_is_named_like_a_tar_and_is_none_of_its_own_is_refused(run, tmp_path, kind):
    write(tmp_path / "a.tar", member("0.jpg", color(0)))
    path = tmp_path / "b.tar"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard link":
        os.link(tmp_path / "a.tar", path)
    else:
        path.symlink_to("a.tar" if kind == "same" else "nowhere.tar")
    code, result = run(tmp_path)
    assert code == 3
    words = {"fifo": "is not a file", "dangling": "a link to nothing"}
    assert f"b.tar: {words.get(kind, 'is the same file as a.tar')}" in result["error"]["message"]


@pytest.mark.parametrize("out", [False, True])
def test_another_run_leaves_nothing_of_tars_and_splits_that_are_gone(run, tmp_path, out):
    folder = tmp_path / "tars"
    for name, seed in (("train-0.tar", 0), ("train-1.tar", 1), ("test-0.tar", 2)):
        write(folder / name, member(f"{seed}.jpg", color(seed)))
    root = tmp_path / "set" if out else folder
    arguments = [folder, *(["--out", root] if out else [])]
    assert run(*arguments)[1]["nothing_to_do"] is False
    before = {path.name: path.stat().st_mtime_ns for path in root.iterdir()}
    assert run(*arguments)[1]["nothing_to_do"] is True
    assert {path.name: path.stat().st_mtime_ns for path in root.iterdir()} == before
    (folder / "train-1.tar").unlink()
    (folder / "test-0.tar").unlink()
    (root / "train-1.idx.tmp").touch()  # of a run that was killed
    if out:
        (root / "manifest.json").unlink()
    assert run(*arguments)[1]["splits"] == {"train": {"samples": 1, "shards": 1}}
    names = {"train-0.tar", "train-0.idx", "train.index", "manifest.json", "quarantine.jsonl"}
    assert {path.name for path in root.iterdir()} == names
    assert verify(root, full=True).findings == []


def test_a_run_completes_what_was_removed(run, tmp_path):
    write(tmp_path / "a.tar", member("0.jpg", color(0)))
    run(tmp_path)
    before = tree(tmp_path)
    (tmp_path / "a.idx").unlink()
    assert run(tmp_path)[1]["nothing_to_do"] is False
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "header",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"},
        {"GNU.sparse.map": "a,b", "GNU.sparse.size": "5"},
        {"size": "9" * 30},
    ],
)
def test_an_extended_header_that_makes_no_sense_is_one_line(run, tmp_path, header):
    odd = member("1.jpg", b"no map\n" * 200, pax_headers=header)
    write(tmp_path / "a.tar", member("0.jpg", color(0)), odd)
    code, result = run(tmp_path)
    assert (code, "a.tar: not a tar, compressed, or damaged (a head" in result["error"]["message"]) == (
        3,
        True,
    )


@pytest.mark.parametrize("name", ["a.idx", "train.index", "quarantine.jsonl"])
def test_a_file_of_another_program_is_not_overwritten(run, tmp_path, name):
    write(tmp_path / "a.tar", member("0.jpg", color(0)))
    (tmp_path / name).write_text("v1.2 1\njpg 512 700 0.jpg\n")
    before = tree(tmp_path)
    code, result = run(tmp_path)
    assert code == 2
    assert f"{name}: is in the way" in result["error"]["message"]
    assert tree(tmp_path) == before
    assert run(tmp_path, "--out", tmp_path / "set")[0] == 0


def test_what_cannot_be_written_is_said_of_an_index_and_not_of_shards(run, tmp_path):
    write(tmp_path / "a.tar", member("0.jpg", color(0)))
    (tmp_path / "train.index").mkdir()
    code, result = run(tmp_path)
    assert (code, result["error"]["todo"]) == (
        3,
        "a folder is in the way of a file: move it, or choose another name, "
        "then run the same command again, perhaps with another --out",
    )


def test_what_is_no_manifest_of_an_index_is_one_line(run, tmp_path):
    write(tmp_path / "a.tar", member("0.jpg", color(0)))
    run(tmp_path)
    whole = json.loads((tmp_path / "manifest.json").read_text())
    for broken in (None, [], "x", {}, {**whole, "source": None}, {**whole, "source": {"kind": []}}):
        (tmp_path / "manifest.json").write_text(json.dumps(broken))
        assert run(tmp_path)[0] == 2
    for broken in ({**whole, "splits": 3}, {**whole, "source": {"kind": "foreign"}}, {**whole, "digest": []}):
        (tmp_path / "manifest.json").write_text(json.dumps(broken))
        code, result = run(tmp_path)
        assert (code, result["nothing_to_do"]) == (0, False)
        assert json.loads((tmp_path / "manifest.json").read_text()) == whole
