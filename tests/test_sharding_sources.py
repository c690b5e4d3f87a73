"""Sources other than local parquet: folders of images, S3, the web; names, order, faults and refusals."""

import json
import os
import tarfile

import pyarrow.parquet as pq
import pytest
from parquet_fixtures import encode, pair, picture, tree, write_rows, write_source
from remote_fixtures import website

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage import retry
from streamgan.core.storage.place import ObjectPath
from streamgan.data.format import read_manifest
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.source.read import read_source

SMALL = ShardOptions(samples_per_shard=10)
KINDS = {"jpg": "JPEG", "JPEG": "JPEG", "png": "PNG", "webp": "WEBP"}


def write_images(folder, names) -> dict[str, bytes]:
    images = {name: encode(picture(i), KINDS[name.rsplit(".")[-1]]) for i, name in enumerate(names)}
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return images


NAMES = [
    f"{place}{i:02d}.{kind}"
    for i in range(12)
    for place, kind in (("", "jpg"), ("a/b c/", "JPEG"), ("z/", "png"))
]


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "RETRY_DELAYS_S", (0.0,) * 4)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def wanted(table, tmp_path_factory):
    """The set of `table` as it comes from the local disk."""
    out = tmp_path_factory.mktemp("wanted") / "set"
    shard([str(table)], out, options=SMALL, num_workers=0)
    return tree(out)


@pytest.fixture
def site(table):
    with website(table) as server:
        yield server


def samples(out) -> dict[str, tuple[str, dict[str, bytes]]]:
    """(split, members by suffix) by key."""
    found: dict[str, tuple[str, dict[str, bytes]]] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.split(".", 1)
                content = tar.extractfile(member).read()
                found.setdefault(key, (path.name.split("-")[0], {}))[1][suffix] = content
    return found


def test_a_folder_of_images_arrives_with_its_bytes_and_names(tmp_path):
    images = write_images(tmp_path / "in", NAMES)
    for name in ("notes.txt", ".hidden.jpg", "a/.cache/x.png", "._00.jpg"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"no image")
    result = shard([str(tmp_path / "in")], tmp_path / "set", options=SMALL, num_workers=0)
    found = samples(tmp_path / "set")
    named = {json.loads(one["json"])["name"]: one for _, one in found.values()}
    assert {name: one[f"color.{_extension(name)}"] for name, one in named.items()} == images
    assert [json.loads(found[key][1]["json"])["name"] for key in sorted(found)] == sorted(images)
    assert result.manifest.source["files"][0]["rows"] == len(NAMES)
    assert not any(suffix.startswith("gray") for _, one in found.values() for suffix in one)


def _extension(name: str) -> str:
    return name.rsplit(".")[-1].lower().replace("jpeg", "jpg")


def test_images_are_cut_into_units_after_a_permutation_that_the_seed_gives(tmp_path):
    write_images(tmp_path / "in", NAMES)
    orders = []
    for seed in (0, 1):
        options = ShardOptions(samples_per_shard=10, seed=seed, splits="train=1")
        out = tmp_path / f"set{seed}"
        shard([str(tmp_path / "in")], out, options=options, num_workers=0)
        sizes = [entry.samples for entry in read_manifest(out).splits["train"].shards]
        assert sizes == [10, 10, 10, 6]
        orders.append([int(key[6:]) for key in samples(out)])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(36))
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_a_set_of_images_does_not_depend_on_its_place_or_on_workers(tmp_path):
    for place in ("one", "two/deep"):
        write_images(tmp_path / place, NAMES)
    shard([str(tmp_path / "one")], tmp_path / "a", options=SMALL, num_workers=0)
    shard([str(tmp_path / "two/deep")], tmp_path / "b", options=SMALL, num_workers=1)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_max_samples_is_exact_for_images_and_for_parquet(tmp_path, table):
    write_images(tmp_path / "in", NAMES)
    for number, source in enumerate((tmp_path / "in", table)):
        for count in (1, 13, 36):
            options = ShardOptions(samples_per_shard=10, max_samples=count)
            out = tmp_path / f"set{number}-{count}"
            manifest = shard([str(source)], out, options=options, num_workers=0).manifest
            assert sum(split.samples for split in manifest.splits.values()) == count


def test_folders_give_the_splits_of_images(tmp_path):
    names = ["train/a/1.jpg", "train/2.png", "validation/1.jpg", "test/3.webp"]
    write_images(tmp_path / "in", names)
    options = ShardOptions(splits="source")
    shard([str(tmp_path / "in")], tmp_path / "set", options=options, num_workers=0)
    found = {json.loads(one["json"])["name"]: split for split, one in samples(tmp_path / "set").values()}
    assert found == {names[0]: "train", names[1]: "train", names[2]: "val", names[3]: "test"}


@pytest.mark.parametrize("name", ["loose.jpg", "trainers/1.jpg", "dev/1.jpg"])
def test_an_image_outside_the_folders_of_splits_is_named(tmp_path, name):
    write_images(tmp_path / "in", ["train/1.jpg", name])
    with pytest.raises(ConfigError, match=rf"{name}: lies in no folder train"):
        shard([str(tmp_path / "in")], tmp_path / "set", options=ShardOptions(splits="source"), num_workers=0)


def test_a_bad_image_is_listed_by_its_name(tmp_path):
    write_images(tmp_path / "in", NAMES)
    (tmp_path / "in" / "m.jpg").write_bytes(b"no image")
    shard([str(tmp_path / "in")], tmp_path / "set", num_workers=0, max_bad=0.5)
    line = json.loads((tmp_path / "set" / "quarantine.jsonl").read_text())
    assert (line["file"], line["name"], line["reason"]) == ("images", "m.jpg", "not_an_image")


def test_an_image_that_changes_while_it_is_sharded_stops_the_run(tmp_path):
    write_images(tmp_path / "in", NAMES)
    files = read_source([str(tmp_path / "in")])
    (tmp_path / "in" / "00.jpg").write_bytes(b"longer or shorter")
    with pytest.raises(DataError, match=r"00\.jpg: the source has changed since the plan was made"):
        list(files[0].read(row_group=0, start=0, stop=1))


def test_images_that_were_added_are_another_source(tmp_path):
    write_images(tmp_path / "in", NAMES)
    shard([str(tmp_path / "in")], tmp_path / "set", num_workers=0)
    write_images(tmp_path / "in", ["new.jpg"])
    with pytest.raises(ConfigError, match=r"source file images: \w+ is \d+, was"):
        shard([str(tmp_path / "in")], tmp_path / "set", num_workers=0)


def test_images_and_parquet_do_not_mix(tmp_path, table):
    write_images(tmp_path / "in", NAMES)
    with pytest.raises(ConfigError, match="shard them separately"):
        shard([str(tmp_path / "in"), str(table)], tmp_path / "set", num_workers=0)


def test_a_folder_with_parquet_files_may_hold_other_images(tmp_path, table):
    write_source(tmp_path / "in")
    write_images(tmp_path / "in", ["logo.png"])
    assert [file.name for file in read_source([str(tmp_path / "in")])] == sorted(os.listdir(table))


def test_columns_of_images_are_refused(tmp_path):
    write_images(tmp_path / "in", NAMES)
    with pytest.raises(ConfigError, match="--keep-text: a folder of images has no columns"):
        shard([str(tmp_path / "in")], tmp_path / "set", options=ShardOptions(keep_text=True), num_workers=0)


def test_a_footer_that_changes_after_the_plan_stops_the_run(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [pair(i) for i in range(6)])
    [file] = read_source([str(path)])
    write_rows(path, [pair(i) for i in range(7)])
    with pytest.raises(DataError, match="changed since the plan was made"):
        list(file.read(row_group=0, start=0, stop=2))


def test_the_web_gives_the_set_of_the_disk(tmp_path, table, wanted, site):
    urls = [f"{site.url}/{name}?token=secret" for name in sorted(os.listdir(table))]
    shard(urls, tmp_path / "set", options=SMALL, num_workers=0)
    assert tree(tmp_path / "set") == wanted
    assert b"secret" not in (tmp_path / "set" / "manifest.json").read_bytes()


def test_the_plan_reads_footers_alone(tmp_path):
    rows = [{"image": encode(picture(i)) + bytes(100_000)} for i in range(20)]
    path = write_rows(tmp_path / "a.parquet", rows)
    pq.write_table(pq.read_table(path), path, compression="none", use_dictionary=False, row_group_size=2)
    with website(tmp_path) as site:
        read_source([f"{site.url}/a.parquet"])
        assert site.sent < 20_000
        assert site.requests
        assert all("bytes=" in request for request in site.requests)


def _unavailable(handler, number) -> bool:
    if number > 2:
        return False
    handler.send_error(503 if number == 1 else 429)
    return True


def _cut(handler, number) -> bool:
    if number > 1:
        return False
    handler.send_response(206)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"cut")
    handler.close_connection = True
    return True


def _short(handler, number) -> bool:
    if number > 1:
        return False
    handler.send_response(206)
    handler.send_header("Content-Length", "3")
    handler.end_headers()
    handler.wfile.write(b"cut")
    return True


@pytest.mark.parametrize("fault", [_unavailable, _cut, _short])
def test_passing_faults_of_the_web_do_not_change_the_set(tmp_path, table, wanted, site, no_pauses, fault):
    site.fault = fault
    urls = [f"{site.url}/{name}" for name in os.listdir(table)]
    shard(urls, tmp_path / "set", options=SMALL, num_workers=0)
    assert tree(tmp_path / "set") == wanted


def test_lasting_faults_of_the_web_are_one_error_without_the_token(tmp_path, site, no_pauses):
    for status, words in (
        (404, r"\((HTTP 404|FileNotFoundError)\)"),
        (403, r"\(HTTP 403\)"),
        (500, r"HTTP 500, 5 attempts"),
    ):
        site.fault = lambda handler, number, status=status: handler.send_error(status) or True
        with pytest.raises(DataError, match=words) as failure:
            list(read_source([f"{site.url}/train-00000-of-00003.parquet?token=secret"]))
        assert "secret" not in str(failure.value)


def test_a_server_without_ranges_is_refused(tmp_path, site, no_pauses):
    site.ranges = False
    with pytest.raises(
        DataError, match=r"parquet: the server does not answer requests for a part"
    ) as failure:
        read_source([f"{site.url}/train-00000-of-00003.parquet"])
    assert str(failure.value).endswith("; use one that does, or download it and name it here")


@pytest.mark.parametrize(
    ("source", "words"),
    [("ftp://x/y.parquet", "cannot read ftp"), ("http://example.org/a.parquet", "use https")],
)
def test_addresses_that_cannot_be_read_are_refused(source, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        read_source([source])


def test_sources_in_different_places_are_refused(table, site):
    with pytest.raises(ConfigError, match="different kinds of storage"):
        read_source([str(table), f"{site.url}/train-00000-of-00003.parquet"])


@pytest.fixture(scope="module")
def bucket(table, tmp_path_factory):
    """s3://photos on a server of its own, with `table` under data/ and images under jpg/."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos")
        for path in table.glob("*.parquet"):
            client.upload_file(str(path), "photos", f"data/{path.name}")
        folder = tmp_path_factory.mktemp("images")
        for name in write_images(folder, NAMES):
            client.upload_file(str(folder / name), "photos", f"jpg/{name}")
        yield folder
        client.close()
    server.stop()


def test_s3_gives_the_set_of_the_disk(tmp_path, wanted, bucket):
    shard(["s3://photos/data"], tmp_path / "set", options=SMALL, num_workers=1)
    assert tree(tmp_path / "set") == wanted


def test_a_pattern_and_a_single_file_on_s3_are_found(bucket, table):
    for source in ("s3://photos/data/*.parquet", "s3://photos/*/train*", "s3://photos/data/"):
        assert [file.name for file in read_source([source])] == sorted(os.listdir(table))
    [file] = read_source(["s3://photos/data/train-00001-of-00003.parquet"])
    assert file.name == "train-00001-of-00003.parquet"
    for source, words in (("s3://ph*", "in the name of a bucket"), ("s3://photos/[z-a]", "is no pattern")):
        with pytest.raises(ConfigError, match=words):
            read_source([source])


def test_photos_in_a_bucket_may_have_names_with_any_letter(bucket):
    names = ["50%20.jpg", "[a].jpg", "b#1.jpg", "c?.jpg"]
    data = (bucket / NAMES[0]).read_bytes()
    for name in names:
        (ObjectPath("s3://photos/odd") / name).write_bytes(data)
    for source, wanted in (("s3://photos/odd", names), ("s3://photos/odd/b#1.jpg", ["b#1.jpg"])):
        [photos] = read_source([source])
        assert [image.name for image in photos.images] == wanted
        assert [
            row.name for n in range(len(wanted)) for row in photos.read(row_group=n, start=0, stop=1)
        ] == wanted
        photos.confirm(range(len(wanted)))


@pytest.mark.slow
def test_images_on_s3_give_the_set_of_the_disk(tmp_path, bucket):
    shard(["s3://photos/jpg/"], tmp_path / "a", options=SMALL, num_workers=0)
    shard([str(bucket)], tmp_path / "b", options=SMALL, num_workers=0)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_what_s3_does_not_hold_is_one_error(bucket, no_pauses):
    for source in ("s3://photos/none", "s3://photos/none.parquet", "s3://none/x.parquet", "s3://photos/*.x"):
        with pytest.raises(DataError, match=source.replace("*", r"\*")):
            read_source([source])
