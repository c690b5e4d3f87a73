"""`data.on_bad`: what a damaged image does, wherever images are read; and what a failing validation costs."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from fault_fixtures import impatient
from marks import slow
from parquet_fixtures import encode, hub, picture, write_rows
from remote_fixtures import website
from training import TINY, read_metrics, tiny_config

from streamgan.cli.main import streamgan
from streamgan.compare.run import compare
from streamgan.compare.settings import load_comparison
from streamgan.core.errors import ConfigError, DataError
from streamgan.data.loader import build_eval_loader, build_loader
from streamgan.data.shards.reader import ShardReader
from streamgan.sharding.run import ShardOptions, shard
from streamgan.train.checkpoint import list_checkpoints
from streamgan.train.loop import train

BAD = {"train": 5, "val": 2, "test": 3}  # ids of the damaged samples
SUBSTITUTE = "data.on_bad=substitute"


@pytest.fixture
def damaged(shard_set, tmp_path) -> Path:
    """A copy of the set with a damaged image in every split."""
    root = shutil.copytree(shard_set, tmp_path / "damaged")
    for split, sample_id in BAD.items():
        damage(root, split, sample_id)
    return root


def damage(root: Path, split: str, sample_id: int) -> None:
    reader = ShardReader(root, split)
    path = root / reader.entry.shards[reader._shard(sample_id)].name
    data = bytearray(path.read_bytes())
    data[int(reader.index[sample_id]["color_offset"]) + 20] ^= 1
    path.write_bytes(data)
    reader.close()


def replaced(text: str, split: str) -> list[int]:
    """The damaged samples of a split that lines of `text` name with shard and key, as ids."""
    line = rf"bad sample \d+ of at most 100: \S*{split}-\d+\.tar, key \S+: .* sample \d+ stands in for (\d+)"
    return [int(sample) for sample in re.findall(line, text)]


def test_another_sample_stands_in_the_same_on_any_ranks_in_an_evaluation(damaged, capfd):
    def read(world: int, workers: int = 0):
        options = {"batch": 12 // world, "size": 32, "workers": workers, "on_bad": "substitute"}
        ranks = [
            list(build_eval_loader(damaged, "val", rank=r, world=world, **options)) for r in range(world)
        ]
        batches = [batch for step in zip(*ranks, strict=True) for batch in step]
        return torch.cat([b.ids_B for b in batches]), torch.cat([b.color_B3HW for b in batches])

    ids, pixels = read(1)
    expected = [*range(16), *[-1] * 8]
    expected[BAD["val"]] = int(ids[BAD["val"]])
    assert ids.tolist() == expected
    assert expected[BAD["val"]] in set(range(16)) - set(BAD.values())
    assert torch.equal(pixels[BAD["val"]], pixels[expected[BAD["val"]]])
    assert replaced(capfd.readouterr().err, "val") == [BAD["val"]]
    for world, workers in ((2, 0), (3, 1)):
        others = read(world, workers)
        assert torch.equal(others[0], ids)
        assert torch.equal(others[1], pixels)


def test_padding_is_no_sample_whatever_becomes_of_the_first_one(shard_set, tmp_path):
    root = shutil.copytree(shard_set, tmp_path / "copy")
    damage(root, "test", 0)
    batches = list(build_eval_loader(root, "test", batch=5, size=32, on_bad="substitute"))
    assert batches[-1].ids_B.tolist() == [10, 11, -1, -1, -1]
    assert not batches[-1].color_B3HW[2:].any()


def test_more_damage_than_allowed_ends_an_evaluation(damaged):
    with pytest.raises(DataError, match=r"1 samples are damaged, more than data\.max_bad=0 allows"):
        list(build_eval_loader(damaged, "val", batch=8, size=32, on_bad="substitute", max_bad=0))
    with pytest.raises(DataError, match=r"val-.*tar, key \S+: the color image is damaged"):
        list(build_eval_loader(damaged, "val", batch=8, size=32))


def test_a_run_replaces_damaged_samples_in_all_that_it_reads(damaged, tmp_path, capfd):
    words = ["model.generator=zhang", "model.width=4", "loss.rec=cross_entropy", "loss.gan_weight=0"]
    words += ["model.depth=null", "model.norm=null", "run.steps=1", "run.validate_images=16"]
    done = train(tiny_config(damaged, tmp_path / "run", *words, SUBSTITUTE))
    assert done["steps"] == 1
    assert done["validation"]["val/median_ab_psnr"] > 0
    said = capfd.readouterr().err
    prior, _, rest = said.partition("class weights")
    assert replaced(prior, "train") == [BAD["train"]]
    assert replaced(rest, "train") == [BAD["train"]]  # the median
    assert BAD["val"] in replaced(rest, "val")  # once by the scores, once by the baselines, once by the grid


@pytest.mark.parametrize("due", ["run.checkpoint_every=0", slow("run.checkpoint_every=2")])
def test_a_validation_that_fails_costs_no_step(shard_set, tmp_path, due):
    """Also where no checkpoint was due. The run goes on once the damage has been dealt with."""
    root, run = shutil.copytree(shard_set, tmp_path / "copy"), tmp_path / "run"
    damage(root, "val", BAD["val"])
    words = ["run.steps=4", "run.validate_every=2", due]
    with pytest.raises(DataError, match=r"val-.*tar, key \S+: the color image is damaged"):
        train(tiny_config(root, run, *words))
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == [2]
    assert train(tiny_config(root, run, *words, SUBSTITUTE))["steps"] == 4
    whole = tmp_path / "whole"
    train(tiny_config(shard_set, whole, *words))
    ours, theirs = (
        [line for line in read_metrics(folder) if line["step"] == 4 and "loss/g_total" in line]
        for folder in (run, whole)
    )
    assert ours == theirs


def test_a_checkpoint_says_what_its_validation_found(shard_set, tmp_path):
    words = ["run.steps=4", "run.validate_every=2", "run.checkpoint_every=1", "run.keep=9"]
    train(tiny_config(shard_set, tmp_path, *words))
    found = {line["step"]: line["val/psnr"] for line in read_metrics(tmp_path) if "val/psnr" in line}
    kept = {one.step: one.meta["validation"].get("val/psnr") for one in list_checkpoints(tmp_path)}
    assert kept == {1: None, 2: found[2], 3: None, 4: found[4]}
    assert [one.score("psnr") for one in list_checkpoints(tmp_path)] == list(kept.values())


def test_evaluate_replaces_damaged_samples_when_asked_to(damaged, whole_run, capfd):
    command = ["evaluate", str(whole_run), "--shards", str(damaged), "--workers", "0", "--json"]
    refused = CliRunner().invoke(streamgan, command)
    assert isinstance(refused.exception, DataError)
    done = CliRunner().invoke(streamgan, [*command, "--on-bad", "substitute"], catch_exceptions=False)
    assert json.loads(done.stdout)["num_images"] == 12
    said = done.stderr + capfd.readouterr().err
    assert BAD["test"] in replaced(said, "test")
    assert BAD["train"] in replaced(said, "train")  # the median


@pytest.mark.slow
def test_a_comparison_replaces_damaged_samples_too(damaged, tmp_path, capfd):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"run": {"steps": 1}}))
    tree = {"shards": str(damaged), "out": str(tmp_path / "out"), "budget": {"steps": 1}, "workers": 0}
    tree |= {"rows": [{"name": "one", "recipe": "recipe.yaml"}], "settings": [*TINY, SUBSTITUTE]}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(tree))
    rows = compare(load_comparison(tmp_path / "compare.yaml"))["rows"]
    assert [row.get("error") for row in rows] == [None] * 3
    assert BAD["test"] in replaced(capfd.readouterr().err, "test")
    assert (tmp_path / "out" / "grid.png").exists()


@pytest.mark.parametrize("workers", [0, slow(1)])
def test_nobody_waits_for_the_shard_of_a_substitute(tmp_path, monkeypatch, workers):
    """The plan does not fetch it, and the cache may have no space for it."""
    impatient(monkeypatch)
    photos = [encode(picture(seed)) for seed in range(64)]
    photos[5] = b"\xff\xd8\xffno photo\xff\xd9"
    write_rows(tmp_path / "a.parquet", [{"image": hub(data)} for data in photos], group=4)
    options = ShardOptions(samples_per_shard=4, splits="train=1", check="none")
    shard([str(tmp_path / "a.parquet")], tmp_path / "set", options=options, num_workers=0)
    settings = {"batch": 4, "size": 16, "lanes": 1, "window": 1, "workers": workers, "stop_step": 16}
    settings |= {"on_bad": "substitute"}
    expected = [batch.ids_B.tolist() for batch in build_loader(tmp_path / "set", **settings)]
    with website(tmp_path / "set") as site:
        with pytest.raises(ConfigError) as failure:
            build_loader(site.url, cache=tmp_path / "cache", cache_gb=4e-6, **settings)
        least = float(failure.value.todo.split("cache_gb=")[1].split()[0])
        loader = build_loader(site.url, cache=tmp_path / "cache", cache_gb=least, **settings)
        assert [batch.ids_B.tolist() for batch in loader] == expected
        assert loader.replaced == 1
        test = build_eval_loader(
            site.url, "train", batch=16, size=16, num_images=16, workers=workers, on_bad="substitute",
            cache=tmp_path / "empty", cache_gb=1,
        )  # fmt: skip
        (batch,) = test
        assert int(batch.ids_B.max()) >= 16  # of a shard that was not asked for
