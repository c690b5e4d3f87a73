"""Every number of a manifest is checked: by its digest, and where the set can tell it, against the set."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from marks import slow
from parquet_fixtures import encode, hub, picture, write_rows
from test_foreign_loss import color, member, write

from streamgan.cli.inspect import inspect as inspect_command
from streamgan.core.errors import StreamganError
from streamgan.core.storage.files import canonical_sha256, json_bytes
from streamgan.data.format import idx_name
from streamgan.data.loader import build_eval_loader
from streamgan.data.shards.reader import ShardReader
from streamgan.sharding.foreign.build import index
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.verify import verify

# They describe what is not in the set: for these the digest must do.
OUTSIDE = {
    "source.files.0.bytes",
    "source.files.1.bytes",
    "options.samples_per_shard",
    "options.seed",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A set of two files with rejected and changed rows, and one of tars."""
    folder = tmp_path_factory.mktemp("originals")
    turned = picture(1).getexif()
    turned[0x0112] = 6
    for number in range(2):
        rows = [{"image": hub(encode(picture(i + 100 * number)))} for i in range(12)]
        rows += [{"image": hub(encode(picture(50 + number), exif=turned))}, {"image": hub(None)}]
        write_rows(folder / "source" / f"{number}.parquet", rows)
    options = ShardOptions(samples_per_shard=8, max_pixels=24 * 16)
    shard([str(folder / "source")], folder / "shard", options=options, max_bad=0.5, num_workers=0)
    members = [member(f"{i}.jpg", color(i)) for i in range(4)]
    write(folder / "index" / "train-0.tar", *members[:2], member("9.txt", b"a caption"))
    write(folder / "index" / "val-0.tar", *members[2:])
    index(folder / "index", max_bad=0.5)
    return folder


def numbers(value, *where) -> list[tuple]:
    """Where the numbers of a JSON value are."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, item in items for place in numbers(item, *where, key)]
    return [where] if isinstance(value, int | float) and not isinstance(value, bool) else []


def leaves(value, *where) -> list[tuple]:
    """Where the values of a JSON value are, containers included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where] * bool(where) + [place for key, item in items for place in leaves(item, *where, key)]


def changed(manifest, where, change):
    copy = json.loads(json.dumps(manifest))
    at = copy
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = change(at[where[-1]])
    return copy


def reseal(manifest):
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return {"digest": canonical_sha256(body), **body}


def halved(where, value):
    """Options are limits, so one that is a little larger holds as well."""
    return value // 2 if where[0] == "options" else value + 1


@pytest.mark.parametrize("kind", ["shard", "index"])
@pytest.mark.parametrize("full", [False, True])
def test_a_changed_number_of_a_manifest_is_found_by_its_digest(originals, tmp_path, kind, full):
    root = shutil.copytree(originals / kind, tmp_path / "set")
    whole = json.loads((root / "manifest.json").read_text())
    assert verify(root, full=full).findings == []
    for where in numbers(whole):
        (root / "manifest.json").write_bytes(json_bytes(changed(whole, where, lambda value: value + 1)))
        [finding] = verify(root, full=full).findings
        assert finding.file == "manifest.json", where


@pytest.mark.parametrize("kind", ["shard", "index"])
def test_a_number_that_was_sealed_wrong_is_found_where_the_set_can_tell_it(originals, tmp_path, kind):
    root = shutil.copytree(originals / kind, tmp_path / "set")
    whole = json.loads((root / "manifest.json").read_text())
    missed, found_by_plain = set(), set()
    for where in numbers(whole):
        broken = changed(whole, where, lambda value, where=where: halved(where, value))
        (root / "manifest.json").write_bytes(json_bytes(reseal(broken)))
        name = ".".join(map(str, where))
        if verify(root).findings:
            found_by_plain.add(name)
        elif not verify(root, full=True).findings:
            missed.add(name)
    assert missed == (OUTSIDE if kind == "shard" else set())
    assert {".".join(map(str, where)) for where in numbers(whole["splits"], "splits")} <= found_by_plain
    assert {"version", "quarantine.rows"} <= found_by_plain


def outcome(call) -> str | None:
    """The line that a call fails with, if it fails; any other error is a traceback for the user."""
    try:
        call()
    except StreamganError as error:
        line = str(error)
    else:
        return None
    assert "\n" not in line
    assert len(line) < 600
    return line


def read_all(root) -> None:
    reader = ShardReader(root, "train")
    try:
        for number in range(len(reader)):
            reader.read(number)
    finally:
        reader.close()


def commands(root, out):
    """What the commands that open a set do first: verify, inspect with a sheet, index, training, scores."""
    return {
        "verify": lambda: verify(root),
        "verify --full": lambda: verify(root, full=True),
        "inspect": lambda: CliRunner().invoke(inspect_command, [str(root)], catch_exceptions=False),
        "index": lambda: index(root, max_bad=0.5),
        "sharding": lambda: shard([str(out.parent / "source")], root, num_workers=0),
        "training": lambda: read_all(root),
        "evaluation": lambda: list(build_eval_loader(root, "val", batch=2, size=8)),
    }


WRONG = [None, "x", "", [], {}, -1, 10**30, 1.5, math.nan, True]


@pytest.mark.parametrize(
    ("kind", "sealed"), [("index", False), ("index", True), ("shard", False), ("shard", True)]
)
@pytest.mark.slow
def test_a_manifest_of_wrong_types_is_one_line_everywhere(originals, tmp_path, kind, sealed):
    root = shutil.copytree(originals / kind, tmp_path / "set")
    whole = json.loads((root / "manifest.json").read_text())
    tried = itertools.count()
    for where, wrong in itertools.product(leaves(whole), WRONG):
        broken = changed(whole, where, lambda value, wrong=wrong: wrong)
        if sealed and where != ("digest",):
            broken = reseal(broken)
        elif broken == whole:
            continue
        called = commands(root, originals / "out")
        name = list(called)[next(tried) % len(called)]
        (root / "manifest.json").write_bytes(json_bytes(broken))
        line = outcome(called[name])
        assert line or sealed or name in ("verify", "verify --full", "index"), (where, wrong, name)


@pytest.mark.parametrize("name", ["manifest.json", slow("train.index"), slow("IDX")])
def test_files_of_an_index_that_are_flipped_or_cut_are_one_line_everywhere(originals, tmp_path, name):
    root = shutil.copytree(originals / "shard", tmp_path / "set")
    path = root / (name if name != "IDX" else idx_name(next(root.glob("train-*.tar")).name))
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(whole)
        at = int(draw.integers(len(data)))
        if number % 4 == 0:
            del data[at:]
        else:
            data[at] ^= 1 << int(draw.integers(8))
        path.write_bytes(data)
        assert outcome(lambda: verify(root)) or verify(root).findings
        called = commands(root, originals / "out")
        for command in ("inspect", "training"):
            outcome(called[command])


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"9" * 5000, b"\xff\xfe{}", b"", b"null", b'{"format": "streamgan-shards"}']
)
def test_what_is_no_manifest_at_all_is_one_line(originals, tmp_path, content):
    root = shutil.copytree(originals / "index", tmp_path / "set")
    for name in ("verify", "inspect", "index", "training", "evaluation"):
        (root / "manifest.json").write_bytes(content)
        if name == "verify":
            assert verify(root).findings
        else:
            assert outcome(commands(root, originals / "out")[name]), name
