"""Folders of runs that cannot be used, and folders that nobody named: one line each, and nothing touched."""

import json
import os
import shutil
import sys

import pytest
import yaml
from fault_fixtures import impatient
from marks import slow
from remote_fixtures import website
from training import TINY, settings

from streamgan.cli.main import streamgan
from streamgan.cli.output import run_command
from streamgan.core.errors import CheckpointError, ConfigError
from streamgan.train.process import run_lock


@pytest.fixture
def run(capfd, monkeypatch):
    """`run("train", ...)` in this process: (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["streamgan", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            run_command(streamgan)
        return caught.value.code, *capfd.readouterr()

    return call


@pytest.fixture
def comparison(shard_set, tmp_path):
    (tmp_path / "recipe.yaml").write_text("run: {steps: 4}")
    tree = {"shards": str(shard_set), "out": "never", "budget": {"steps": 2}, "settings": TINY}
    tree |= {"rows": [{"name": "a", "recipe": "recipe.yaml"}], "grid_images": 2, "workers": 0}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "compare.yaml"


def unusable(kind, folder):
    """A path that cannot become a folder, and the advice for it."""
    (folder / "file").write_text("")
    if kind == "a file":
        return folder / "file", "a file is in the way"
    if kind == "below a file":
        return folder / "file" / "run", "a file is in the way of a folder"
    if kind == "a dangling link":
        (folder / "link").symlink_to(folder / "nowhere")
        return folder / "link", f"it is a link to {folder}/nowhere, which is not there"
    return folder / ("x" * 300), "choose a shorter name"


@pytest.mark.parametrize("name", ["checkpoints", slow("samples")])
def test_what_is_in_the_way_in_a_run_folder_is_found_before_the_first_step(run, name, shard_set, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("")
    code, _, stderr = run("train", *settings(shard_set, tmp_path / "run", "run.steps=1"))
    assert code != 0
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"run/{name}" in errors[0]
    assert "a file is in the way" in errors[0]
    assert "step 1/1" not in stderr


@pytest.mark.parametrize("kind", ["a file", "a dangling link", slow("below a file"), slow("a long name")])
@pytest.mark.parametrize("command", ["train", "compare", "demo"])
@pytest.mark.parametrize("extra", [slow([]), ["--json"]])
def test_a_place_that_cannot_be_a_folder_is_one_line(
    run, kind, command, extra, shard_set, comparison, tmp_path
):
    path, advice = unusable(kind, tmp_path)
    words = {
        "train": settings(shard_set, path, "run.steps=1"),
        "compare": ["--config", comparison, "--out", path],
        "demo": ["--out", path, "--steps", 1],
    }[command]
    if kind == "a file" and command != "train":
        advice = "is a file"  # an --out is refused before anything is done
    code, stdout, stderr = run(command, *words, *extra)
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert code in (2, 3)
    assert len(errors) == 1
    assert str(path) in errors[0]
    assert advice in errors[0]
    assert "Traceback" not in stderr
    if extra:
        assert json.loads(stdout)["exit_code"] == code
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def without_privileges():
    """Root may write everywhere: another user for this thread."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_folder_without_permission_is_one_line(tmp_path, request):
    tmp_path.chmod(0o500)
    request.getfixturevalue("without_privileges")
    with pytest.raises(ConfigError) as caught, run_lock(tmp_path / "run", active=True):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/run: cannot be the folder of a run (Permission denied); "
        "change the permissions there (chmod, chown) or choose another place"
    )


@pytest.mark.parametrize("again", [False, True])
def test_a_run_whose_folder_is_removed_does_not_end_as_if_all_was_well(tmp_path, again):
    def removing():
        with run_lock(tmp_path / "run", active=True):
            shutil.rmtree(tmp_path / "run")
            if again:
                (tmp_path / "run").mkdir()
                (tmp_path / "run" / ".lock").touch()

    with pytest.raises(CheckpointError, match="was removed, or another folder put in its place"):
        removing()


@pytest.fixture
def far(shard_set, monkeypatch, tmp_path):
    """The address of the set, with a home folder that is empty and has to stay so."""
    impatient(monkeypatch)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with website(shard_set) as server:
        yield server.url


def words_of(command, far, tmp_path):
    cache = tmp_path / "cache"
    if command == "bench":
        short = ["--seconds", "0.1", "--workers", "0", "--batch", "4", "--size", "32"]
        return ["bench", "loader", far, *short, "--cache", cache]
    if command == "compare":
        (tmp_path / "recipe.yaml").write_text("run: {epochs: 1}")
        tree = {"shards": far, "out": str(tmp_path / "out"), "budget": {"steps": 2}, "workers": 0}
        tree |= {"settings": [*TINY, f"data.cache={cache}"], "grid_images": 2, "max_images": 4}
        tree |= {"rows": [{"name": "a", "recipe": "recipe.yaml"}]}
        (tmp_path / "compare.yaml").write_text(yaml.safe_dump(tree))
        return ["compare", "--config", tmp_path / "compare.yaml"]
    words = settings(far, tmp_path / "run", "run.steps=2", f"data.cache={cache}")
    if command == "zhang":
        words = [word for word in words if not word.startswith(("model.depth", "model.norm"))]
        words += ["model.generator=zhang", "loss.rec=cross_entropy", "loss.gan_weight=0"]
    return ["train", *words]


@pytest.mark.parametrize("command", ["train", slow("zhang"), slow("compare"), "bench", slow("evaluate")])
def test_a_cache_that_is_named_is_the_only_one_that_is_filled(run, command, far, tmp_path):
    if command == "evaluate":
        assert run(*words_of("train", far, tmp_path))[0] == 0
        shutil.rmtree(tmp_path / "cache")
        words = ["evaluate", tmp_path / "run", "--shards", far, "--workers", 0, "--cache", tmp_path / "cache"]
    else:
        words = words_of(command, far, tmp_path)
    code, _, stderr = run(*words)
    assert code == 0, stderr
    assert list((tmp_path / "home").rglob("*")) == []
    assert list((tmp_path / "cache" / "blobs").iterdir())
