"""`streamgan verify` names what is wrong, with shard and key, and nothing else."""

import errno
import json
import re
import shutil
import sys
import tarfile

import pytest
from click.testing import CliRunner
from parquet_fixtures import tree, write_source

from streamgan.cli.main import main
from streamgan.cli.verify import verify as verify_command
from streamgan.core.errors import CheckFailed, DataError
from streamgan.core.storage.files import sha256_file
from streamgan.data.format import idx_name, read_idx, read_manifest, write_manifest
from streamgan.sharding import verify as verify_module
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.verify import verify

SHARD = "train-000001.tar"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    source = write_source(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("original") / "set"
    shard([str(source)], out, options=ShardOptions(samples_per_shard=20), num_workers=0)
    return out


@pytest.fixture
def damaged(original, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(original, tmp_path / "set")


def flip(path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def found(root, *, full: bool = False) -> list[tuple[str, str | None, str]]:
    return [(one.file, one.key, one.what) for one in verify(root, full=full).findings]


@pytest.mark.parametrize("full", [False, True])
def test_a_sound_set_has_no_findings_and_is_left_alone(original, full):
    before = tree(original)
    report = verify(original, full=full)
    assert report.findings == []
    assert (report.samples, report.digest) == (60, read_manifest(original).digest)
    assert report.files == len(before) - 1
    assert report.bytes == sum(map(len, before.values())) - len(before["manifest.json"])
    assert tree(original) == before


@pytest.mark.parametrize("number", [0, 3, -1])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_flipped_bit_in_a_member_is_named_with_its_key(damaged, number, part):
    sample = read_idx(damaged / idx_name(SHARD))[number]
    member = sample.members[part]
    flip(damaged / SHARD, member.offset + member.size // 2)
    [(file, key, what)] = found(damaged)
    assert (file, key) == (SHARD, sample.key)
    assert what.startswith(f"{member.suffix} is damaged")


@pytest.mark.parametrize("at", [0, 5, 110, 130, 150, 257, 511])
def test_a_flipped_bit_in_a_tar_header_is_named_with_its_key(damaged, at):
    sample = read_idx(damaged / idx_name(SHARD))[2]
    flip(damaged / SHARD, sample.offset + at)
    [(file, key, what)] = found(damaged)
    assert (file, key) == (SHARD, sample.key)
    assert re.search(r"bytes \d+-\d+: (damaged tar header|the tar header is that of)", what)


def test_a_tar_header_in_the_wrong_place_is_named(damaged):
    first, _, third, *_ = read_idx(damaged / idx_name(SHARD))
    data = bytearray((damaged / SHARD).read_bytes())
    data[third.offset : third.offset + 512] = data[first.offset : first.offset + 512]
    (damaged / SHARD).write_bytes(data)
    [(file, key, what)] = found(damaged)
    assert (file, key) == (SHARD, third.key)
    assert f"the tar header is that of {first.key}.color.jpg" in what


def test_a_flipped_bit_in_padding_is_named_by_its_place(damaged):
    sample = read_idx(damaged / idx_name(SHARD))[2]
    member = sample.members[0]
    assert member.size % 512
    flip(damaged / SHARD, member.offset + member.size)
    [(file, key, what)] = found(damaged)
    assert (file, key) == (SHARD, sample.key)
    assert what == (
        f"bytes {member.offset + member.size}-{sample.members[1].offset - 1}: "
        "damaged padding before the tar header"
    )


def test_a_flipped_bit_behind_the_last_member_is_named_by_its_place(damaged):
    flip(damaged / SHARD, (damaged / SHARD).stat().st_size - 1)
    [(file, key, what)] = found(damaged)
    assert (file, key) == (SHARD, read_idx(damaged / idx_name(SHARD))[-1].key)
    assert what.endswith("not zero after the last member")


def test_a_cut_shard_names_the_first_key_that_is_lost(damaged):
    samples = read_idx(damaged / idx_name(SHARD))
    data = (damaged / SHARD).read_bytes()
    (damaged / SHARD).write_bytes(data[: samples[4].offset])  # a member boundary: other readers see no error
    findings = found(damaged)
    assert findings == [
        (SHARD, None, f"{samples[4].offset} bytes (the manifest says {len(data)})"),
        (
            SHARD,
            samples[4].key,
            f"cut at byte {samples[4].offset}: this and all later samples are lost ({len(samples) - 4})",
        ),
    ]


def test_bytes_behind_the_end_are_found(damaged):
    with open(damaged / SHARD, "ab") as file:
        file.write(bytes(512))
    [(file, key, what)] = found(damaged)
    assert (file, key) == (SHARD, None)
    assert "the manifest says" in what


def test_a_missing_and_an_extra_file_are_named(damaged):
    (damaged / SHARD).rename(damaged / "train-000009.tar")
    (damaged / "val.index").unlink()
    (damaged / "train.index.tmp").touch()
    assert sorted(found(damaged)) == [
        (SHARD, None, "missing"),
        ("train-000009.tar", None, f"not listed in the manifest; a copy of {SHARD}"),
        ("train.index.tmp", None, "left by an interrupted run; run its command again to tidy up"),
        ("val.index", None, "missing"),
    ]


def test_an_unknown_file_and_an_empty_one_are_copies_of_nothing(damaged):
    (damaged / "train-000009.tar").write_bytes(b"new")
    (damaged / "val-000009.tar").touch()
    (damaged / "notes").mkdir()
    strangers = ["notes", "train-000009.tar", "val-000009.tar"]
    assert found(damaged) == [(name, None, "not listed in the manifest") for name in strangers]


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_checked(damaged, monkeypatch):
    def failing_disk(path):
        if path.name in (SHARD, "notes"):
            raise OSError(errno.EIO, "Input/output error")
        return sha256_file(path)

    monkeypatch.setattr(verify_module, "sha256_file", failing_disk)
    flip(damaged / "train.index", 200)
    shutil.copy(damaged / SHARD, damaged / "notes")
    assert sorted(found(damaged)) == [
        ("notes", None, "not listed in the manifest"),
        (SHARD, None, "cannot be read (Input/output error)"),
        ("train.index", None, "sha256 differs from the manifest"),
    ]


def test_swapped_and_copied_shards_are_named(damaged):
    first, second = damaged / "train-000000.tar", damaged / SHARD
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    assert found(damaged) == [(first.name, None, f"holds the content of {SHARD} (swapped or copied)")]
    second.write_bytes(one)
    assert found(damaged) == [
        (first.name, None, f"holds the content of {SHARD} (swapped or copied)"),
        (SHARD, None, f"holds the content of {first.name} (swapped or copied)"),
    ]


@pytest.mark.parametrize("name", [idx_name(SHARD), "train.index", "quarantine.jsonl"])
def test_damage_of_an_index_is_named(damaged, name):
    (damaged / name).write_bytes((damaged / name).read_bytes() + b"\n")
    assert found(damaged) == [(name, None, "sha256 differs from the manifest")]


def test_a_shard_and_its_index_damaged_together_are_both_named(damaged):
    flip(damaged / SHARD, 600)
    flip(damaged / idx_name(SHARD), 0)
    assert sorted(file for file, _, _ in found(damaged, full=True)) == [idx_name(SHARD), SHARD]


def test_a_changed_manifest_is_a_finding_and_no_manifest_an_error(damaged):
    path = damaged / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert found(damaged) == [("manifest.json", None, "its digest does not match its content")]
    path.unlink()
    with pytest.raises(DataError, match=r"manifest\.json"):
        verify(damaged)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.removesuffix("\n"),
        lambda text: text.replace('"version": 1', '"version":  1'),
        lambda text: text.replace("train-0", "\\u0074rain-0", 1),
        lambda text: text.replace('"version": 1', '"version": 1,\n "extra": 1'),
        lambda text: text.replace('"version": 1', '"version": 2,\n "version": 1'),
    ],
)
def test_a_change_of_the_manifest_that_the_digest_cannot_see_is_a_finding(damaged, change):
    path = damaged / "manifest.json"
    path.write_text(change(path.read_text()))
    assert found(damaged) == [
        ("manifest.json", None, "its digest holds, but it is not laid out as the format says")
    ]


def _reseal(root, **changes) -> None:
    """Write the manifest anew, as a program that makes sets in a wrong way would."""
    from dataclasses import replace

    manifest = read_manifest(root)
    train = replace(manifest.splits["train"], **changes)
    write_manifest(root, replace(manifest, splits={**manifest.splits, "train": train}))


def test_full_finds_an_image_that_does_not_decode(tmp_path):
    from parquet_fixtures import encode, hub, picture, write_rows

    good = encode(picture(0), "PNG")
    at = good.index(b"IDAT") + 12
    bad = good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :]
    write_rows(tmp_path / "a.parquet", [{"image": hub(good)}, {"image": hub(bad)}])
    shard([str(tmp_path / "a.parquet")], tmp_path / "set", num_workers=0)
    assert found(tmp_path / "set") == []
    [(file, key, what)] = found(tmp_path / "set", full=True)
    assert key == "00000-000000001"
    assert what == "color.png does not decode (its pixels cannot be read)"
    with tarfile.open(tmp_path / "set" / file) as tar:
        assert f"{key}.color.png" in tar.getnames()


def test_full_finds_an_index_that_disagrees_with_its_shards(damaged):
    import numpy as np

    rows = np.load(damaged / "train.index")
    rows[[0, 1]] = rows[[1, 0]]
    with open(damaged / "train.index", "wb") as file:
        np.save(file, rows)
    _reseal(damaged, index_sha256=sha256_file(damaged / "train.index"))
    assert found(damaged) == []
    assert found(damaged, full=True) == [
        ("train.index", None, "disagrees with the .idx files or the manifest (train-000000.tar)")
    ]


def test_the_command_prints_one_line_and_ends_with_zero(original):
    result = CliRunner().invoke(verify_command, [str(original), "--full"])
    assert result.exit_code == 0
    assert re.fullmatch(r"OK 60 samples, \d+ files, \d+\.\d MB, digest [0-9a-f]{64}\n", result.stdout)


def test_the_command_prints_a_line_for_each_finding_and_fails(damaged):
    flip(damaged / SHARD, 600)
    (damaged / "val.index").unlink()
    result = CliRunner().invoke(verify_command, [str(damaged)])
    key = read_idx(damaged / idx_name(SHARD))[0].key
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{SHARD}: {key}: color.jpg is damaged")
    assert lines[1] == "val.index: missing"
    assert isinstance(result.exception, CheckFailed)
    assert "2 things are wrong" in str(result.exception)


def _run(monkeypatch, capsys, *arguments) -> tuple[int, dict]:
    """Exit code and JSON object of a command as a process would give them."""
    monkeypatch.setattr(sys, "argv", ["streamgan", *map(str, arguments), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), json.loads(capsys.readouterr().out)


def test_json_is_one_object_and_the_exit_code_says_the_same(damaged, original, monkeypatch, capsys):
    code, report = _run(monkeypatch, capsys, "verify", original)
    assert (code, report["ok"], report["findings"], report["folder"]) == (0, True, [], str(original))
    (damaged / "val.index").unlink()
    code, report = _run(monkeypatch, capsys, "verify", damaged)
    assert (code, report["ok"], report["exit_code"], report["samples"]) == (1, False, 1, 60)
    assert report["findings"] == [{"file": "val.index", "key": None, "what": "missing"}]
    assert (report["error"]["type"], report["error"]["what"]) == ("CheckFailed", "1 thing is wrong")


def test_json_of_no_set_at_all_is_an_error_object(tmp_path, monkeypatch, capsys):
    code, report = _run(monkeypatch, capsys, "verify", tmp_path)
    assert (code, report["ok"], report["error"]["type"]) == (3, False, "DataError")
