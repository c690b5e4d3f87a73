"""What a user sees: one line for an error, the right exit code, one JSON object where it was asked for."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import click
import numpy as np
import pytest
import yaml
from parquet_fixtures import write_rows
from PIL import Image

from streamgan import __version__
from streamgan.cli.main import streamgan
from streamgan.cli.output import emit, run_command, table
from streamgan.core.errors import ConfigError
from streamgan.data.format import read_manifest

AGAIN, CONTINUES = "the same command starts again", "the same command continues"
ENDED = [  # a command line, what it calls first, what is said of a command that a signal has ended there
    ("evaluate @text.safetensors --shards @shards", "streamgan.inference.weights.find_weights", AGAIN),
    ("inspect @shards", "streamgan.data.inspect.inspect", AGAIN),
    ("bench loader @shards", "streamgan.data.bottleneck.decode_ceiling", AGAIN),
    ("bench plan @shards --step-ms 9", "streamgan.data.forecast.forecast", AGAIN),
    ("demo --out @out", "streamgan.cli.demo_photos.write_parquet", CONTINUES),
    ("runs @empty", "streamgan.core.run_folder.find_runs", AGAIN),
    ("compare --config @recipe.yaml --out @out", "streamgan.compare.settings.load_comparison", CONTINUES),
]
EXIT = {"CheckFailed": 1, "UsageError": 2, "ConfigError": 2, "DataError": 3, "CheckpointError": 4}


@pytest.fixture
def run(run_as_program):
    return run_as_program


@pytest.fixture
def places(shard_set, tmp_path):
    """Names that stand for paths in the cases below."""
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "columns" / "a.parquet", [{"text": "x", "picture": b"\xff\xd8\xff"}])
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "a.parquet").write_bytes(b"PAR1 this is none PAR1")
    (tmp_path / "recipe.yaml").write_text("data: {bach: 3}\nrun: {steps: 1}\n")
    cut = shutil.copytree(shard_set, tmp_path / "cut")
    for shard in read_manifest(cut).splits["test"].shards:
        os.truncate(cut / shard.name, 1500)
    Image.new("L", (20, 20), 90).save(tmp_path / "photo.png")
    (tmp_path / "text.safetensors").write_text("not weights")
    names = (
        "empty",
        "columns",
        "fake",
        "recipe.yaml",
        "cut",
        "photo.png",
        "text.safetensors",
        "nowhere",
        "out",
    )
    return {name: tmp_path / name for name in names} | {"shards": shard_set}


CASES = [  # command line, error, what the message holds
    ("shard @nowhere --out @out", "DataError", "nowhere: no such file or folder"),
    ("shard @empty --out @out", "DataError", "empty: holds no .parquet file"),
    ("shard @fake --out @out", "DataError", "a.parquet: "),
    ("shard @columns --out @out", "ConfigError", "a.parquet: no column image (got text, picture)"),
    ("shard @columns --columns image=pic --out @out", "ConfigError", "no column 'pic' (got text, picture)"),
    ("shard @columns --out @out --splits train", "ConfigError", ""),
    ("verify @nowhere", "DataError", "nowhere: no such folder"),
    ("verify @empty", "DataError", "manifest.json: no such file"),
    ("train --config @nowhere run.steps=1", "ConfigError", "nowhere: no such file"),
    ("train --config @recipe.yaml", "ConfigError", "unknown setting data.bach (did you mean data.batch?)"),
    ("train --dry-run run.steps=1 optim.lrg=1", "ConfigError", "(did you mean optim.lr_g?)"),
    ("train --dry-run run.steps=1 model.generator=unett", "ConfigError", "did you mean 'unet'?"),
    ("train --dry-run", "ConfigError", "exactly one of run.steps and run.epochs"),
    ("evaluate @nowhere --shards @shards", "CheckpointError", "nowhere: no checkpoint here"),
    ("evaluate @text.safetensors --shards @shards", "CheckpointError", "text.safetensors: cannot be read"),
    ("evaluate @model --shards @nowhere", "DataError", "nowhere: no such folder of shards"),
    ("evaluate @model --shards @shards --split dev", "DataError", "no samples in split 'dev'"),
    ("evaluate @model --shards @cut --workers 0", "DataError", "cut short"),
    ("evaluate @model --shards @cut --workers 1", "DataError", "cut short"),
    ("compare --config @nowhere --out @out", "ConfigError", "nowhere: no such file"),
    ("compare --config @recipe.yaml --out @out", "ConfigError", "unknown setting data"),
    ("colorize @photo.png --model @nowhere --out @out", "CheckpointError", "nowhere: no checkpoint here"),
    ("colorize @nowhere --model @model --out @out", "ConfigError", "nowhere: no such file"),
    ("colorize @recipe.yaml --model @model --out @out", "CheckFailed", "1 of 1 photos failed"),
]
USAGE = [
    ("shard", "Missing option '--out'"),
    ("shard @empty --out @out --columns photo=a", "'photo=a' is not image=NAME, gray=NAME or text=NAME"),
    ("shard @empty --out @out --columns image=a,image=b", "'image=b' is not image=NAME"),
    ("shard @empty", "Missing option '--out'"),
    ("shard @empty --out @out --workers -1", "--workers"),
    ("verify", "Missing argument 'DIR'"),
    ("verify @shards --ful", "Did you mean '--full'?"),
    ("evaluate @model", "Missing option '--shards'"),
    ("compare --out @out", "Missing option '--config'"),
    ("colorize --model @model --out @out", "Missing argument"),
    ("colorise", "No such command 'colorise'"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Weights of a tiny generator."""
    import torch
    from safetensors.torch import save_file

    from streamgan.models import GENERATORS

    options = {"out_channels": 2, "size": 32, "width": 4, "depth": 3}
    spec = {"generator": "unet", "head": "lab", "size": 32, "options": options}
    path = tmp_path_factory.mktemp("model") / "ema.safetensors"
    torch.manual_seed(0)
    weights = GENERATORS["unet"](**options).state_dict()
    save_file(weights, path, metadata={"model": json.dumps(spec), "step": "5"})
    return path


def words(line: str, places: dict) -> list[str]:
    return [str(places[word[1:]]) if word.startswith("@") else word for word in line.split()]


@pytest.mark.parametrize(("line", "error", "what"), CASES)
def test_an_error_is_one_line_with_its_exit_code(run, places, model, line, error, what):
    result = run(*words(line, places | {"model": model}))
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert what in last
    assert last.count("; ") >= 1  # what to do
    assert result.code == EXIT[error]
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if error != "CheckFailed":  # which reports every photo on a line of its own
        assert len([text for text in result.stderr.splitlines() if "it/s" not in text]) == 1


@pytest.mark.parametrize(("line", "error", "what"), CASES)
def test_an_error_is_one_json_object_where_json_was_asked_for(run, places, model, line, error, what):
    result = run(*words(line, places | {"model": model}), "--json")
    assert result.code == EXIT[error]
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert told["exit_code"] == result.code
    assert told["error"]["type"] == error
    assert what in told["error"]["message"]
    assert {"where", "what", "todo"} <= set(told["error"])
    assert f"error: {told['error']['message']}" == result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "line",
    [
        "shard @shards --out @photo.png",
        "index @shards --out @photo.png",
        "compare --config nowhere --out @photo.png",
        "colorize @photo.png --model @model --out @photo.png",
        "export @model --to bundle --out @photo.png",
        "demo --out @photo.png",
    ],
)
def test_a_file_in_the_place_of_the_folder_to_make_has_one_code(run, places, model, line):
    file = places["photo.png"]
    before = file.read_bytes()
    result = run(*words(line, places | {"model": model}))
    assert result.code == 2
    assert str(file) in result.stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize("extra", [[], ["--json"]])
@pytest.mark.parametrize(("line", "what"), USAGE)
def test_wrong_usage_points_at_the_help(run, places, model, line, what, extra):
    result = run(*words(line, places | {"model": model}), *extra)
    name = line.split()[0]
    assert result.code == 2
    (message,) = result.stderr.splitlines()
    assert message.startswith("error: ")
    assert what in message
    assert message.endswith(f"(see streamgan {name} --help)" if name in streamgan.commands else "--help)")
    assert result.stdout == "" if not extra else json.loads(result.stdout)["error"]["type"] == "UsageError"


def test_no_command_shows_the_help_without_calling_it_an_error(run):
    result = run()
    assert result.code == 2
    assert result.stderr.startswith("Usage: streamgan")
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["shard", "--help"], ["train", "-h"]])
def test_help_goes_to_stdout_and_is_no_failure(run, arguments):
    result = run(*arguments)
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: streamgan")


def test_the_version_is_that_of_the_package(run):
    assert run("--version").stdout == f"streamgan, version {__version__}\n"


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "streamgan", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"streamgan, version {__version__}\n"


def test_a_set_is_made_checked_and_found_finished(run, source_folder, tmp_path):
    line = (
        "shard",
        source_folder,
        "--out",
        tmp_path / "set",
        "--workers",
        0,
        "--samples-per-shard",
        20,
        "--json",
    )
    first, second = run(*line), run(*line)
    assert (first.code, second.code) == (0, 0)
    told = [json.loads(result.stdout) for result in (first, second)]
    assert [one["ok"] for one in told] == [True, True]
    assert [one["nothing_to_do"] for one in told] == [False, True]
    assert told[0]["digest"] == told[1]["digest"]
    assert sum(split["samples"] for split in told[0]["splits"].values()) == 92
    checked = run("verify", tmp_path / "set", "--json")
    assert (checked.code, json.loads(checked.stdout)["samples"]) == (0, 92)


def test_a_check_that_finds_something_exits_with_1(run, places):
    result = run("verify", places["cut"])
    assert result.code == 1
    assert "test-" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: ")
    as_json = run("verify", places["cut"], "--json")
    told = json.loads(as_json.stdout)
    assert (as_json.code, told["ok"]) == (1, False)
    assert told["findings"]


def test_scores_are_a_table_or_one_object(run, shard_set, model):
    line = ("evaluate", model, "--shards", shard_set, "--workers", 0, "--max-images", 4)
    text, told = run(*line), json.loads(run(*line, "--json").stdout)
    assert text.code == 0
    assert text.stdout.splitlines()[0].split()[:4] == ["test,", "N", "=", "4"]
    assert (told["ok"], told["num_images"], told["step"], told["split"]) == (True, 4, 5, "test")
    assert told["shards_digest"] == read_manifest(shard_set).digest
    assert told["model"]["psnr"] > 10
    assert set(told["baselines"]) == {"gray", "median_ab"}
    columns = [
        "psnr", "psnr_gain", "psnr_pooled", "ssim", "cf", "dcf", "chroma_ratio", "ab_error", "psnr_at_cf50"
    ]  # fmt: skip
    table, legend, rest = (part.splitlines() for part in text.stdout.split("\n\n"))
    assert table[0].split()[4:] == columns
    assert [line.split()[0] for line in table[1:]] == ["model", "gray", "median_ab"]
    assert [line.split()[0] for line in legend] == columns
    assert max(map(len, legend)) <= 110
    model_row = told["model"]
    assert table[1].split()[2] == f"{model_row['psnr_gain']:.2f}±{model_row['psnr_gain_95']:.2f}"
    assert table[2].split()[2] == "0.00±0.00"
    assert legend[4].endswith(
        f"(Hasler and Suesstrunk); the true photos have {told['model']['cf_truth']:.4g}"
    )
    assert rest == ["photos: centre crops of 32 x 32 pixels", f"weights: {model} (step 5)"]
    assert told["model"]["sweep"]["saturation"] == [step / 4 for step in range(13)]
    assert told["model"]["sweep"]["psnr"][0] == pytest.approx(told["baselines"]["gray"]["psnr"], abs=1e-4)
    assert told["baselines"]["median_ab"]["sweep"]["cf"][4] == pytest.approx(
        told["baselines"]["median_ab"]["cf"], abs=1e-4
    )
    assert told["not_measured"] == {}
    assert "colourfulness (as in DDColor's code); " in run(*line, "--cf", "ddcolor").stdout
    other = json.loads(run(*line, "--cf", "ddcolor", "--json").stdout)
    assert other["baselines"]["median_ab"]["cf_truth"] < told["baselines"]["median_ab"]["cf_truth"]
    assert "DDColor's code" in other["protocol"]


@pytest.mark.slow
def test_a_set_without_a_training_split_is_scored_beside_gray_and_says_what_is_missing(
    run, source_folder, model, tmp_path
):
    out = tmp_path / "set"
    assert run("shard", source_folder, "--out", out, "--workers", 0, "--splits", "test=1").code == 0
    line = ("evaluate", model, "--shards", out, "--workers", 0)
    text, told = run(*line), json.loads(run(*line, "--json").stdout)
    assert (text.code, told["ok"], list(told["baselines"])) == (0, True, ["gray"])
    said = f"{out}: no split 'train' to take median_ab from; its row is left out"
    assert told["not_measured"] == {"median_ab": said}
    assert text.stdout.splitlines().count(said) == 1
    assert not any(row.startswith("median_ab") for row in text.stdout.splitlines())


@pytest.mark.slow
def test_fid_stands_beside_that_of_the_baselines_and_what_is_absent_in_its_column(
    run, shard_set, model, monkeypatch, tmp_path
):
    import torch
    from dist.scores import features

    class Tiny(torch.nn.Module):
        num_features = 12

        def forward(self, color_B3HW):
            assert color_B3HW.dtype == torch.uint8
            return features(color_B3HW)

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("streamgan.train.perceptual_scores.build_inception", lambda _: Tiny())
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    line = ("evaluate", model, "--shards", shard_set, "--workers", 0, "--batch", 5, "--perceptual")
    told = json.loads(run(*line, "--json").stdout)
    rows = {"model": told["model"], **told["baselines"]}
    assert all(row["fid"] > 0 and "kid" in row and "lpips" not in row for row in rows.values())
    assert rows["gray"]["fid"] != rows["median_ab"]["fid"]
    assert rows["model"]["fid"] == pytest.approx(rows["gray"]["fid"], rel=1e-3)  # it is not trained
    assert list(told["not_measured"]) == ["lpips"]
    assert "resize to 299 x 299" in told["protocol"]
    head, *lines = run(*line).stdout.splitlines()
    assert head.split()[-3:] == ["fid", "kid", "lpips"]
    assert all(line.endswith("no weights") for line in lines[:3])
    assert sum(line.startswith("lpips: no weights; give --lpips-weights FILE") for line in lines) == 1
    told = json.loads(run(*line, "--max-images", 1, "--json").stdout)
    assert told["not_measured"]["fid"] == "fid: needs at least 2 images"


@pytest.mark.slow
def test_what_a_classifier_sees_stands_beside_gray_and_the_truth_as_a_jpeg(
    run, shard_set, model, monkeypatch
):
    import torch
    from dist.scores import features

    class Tiny(torch.nn.Module):
        """Sees which of the three channels is the brightest."""

        num_features = 12

        def forward(self, color_B3HW):
            assert color_B3HW.dtype == torch.uint8
            return features(color_B3HW), color_B3HW.float().mean((2, 3)).argmax(1)

    line = ("evaluate", model, "--shards", shard_set, "--workers", 0, "--batch", 5, "--semantic")
    monkeypatch.setattr("streamgan.train.perceptual_scores.build_classifier", Tiny)
    told = json.loads(run(*line, "--json").stdout)
    rows = {"model": told["model"], **told["baselines"]}
    assert list(rows) == ["model", "gray", "median_ab", "truth_jpeg"]
    assert all(
        {"semantic", "fid_lite0", "kid_lite0"} <= set(row) and "fid" not in row for row in rows.values()
    )
    assert rows["truth_jpeg"]["semantic"] > rows["gray"]["semantic"]
    assert rows["truth_jpeg"]["fid_lite0"] < rows["gray"]["fid_lite0"]
    assert "psnr" not in rows["truth_jpeg"]
    assert told["not_measured"] == {}
    assert "same ImageNet class as to the true photo" in told["protocol"]
    head, *lines = run(*line).stdout.splitlines()
    assert head.split()[-3:] == ["fid_lite0", "kid_lite0", "semantic"]
    assert lines[3].split()[:2] == ["truth_jpeg", "-"]
    told = json.loads(run(*line, "--max-images", 1, "--json").stdout)
    assert told["baselines"]["truth_jpeg"] == {"semantic": 1.0}
    assert told["not_measured"]["fid_lite0"] == "fid_lite0: needs at least 2 images"


def test_a_gray_photo_is_coloured_and_its_place_told(run, places, model):
    result = run("colorize", places["photo.png"], "--model", model, "--out", places["out"])
    assert (result.code, result.stdout.strip()) == (0, str(places["out"] / "photo.png"))
    with Image.open(places["out"] / "photo.png") as colored:
        assert abs(np.asarray(colored.convert("L"), int) - 90).max() <= 1


def test_a_dry_run_prints_the_whole_configuration_that_reads_back(run, tmp_path):
    result = run("train", "--dry-run", "run.steps=3", "data.batch=4")
    assert (result.code, result.stderr) == (0, "")
    (tmp_path / "again.yaml").write_text(result.stdout)
    told = json.loads(run("train", "--dry-run", "--json", "--config", tmp_path / "again.yaml").stdout)
    assert told["config"] == yaml.safe_load(result.stdout)
    assert told["config"]["data"]["batch"] == 4
    assert not (tmp_path / "runs").exists()


def test_settings_are_listed_with_their_meaning(run):
    assert "data.batch = 16\n    GLOBAL batch" in run("train", "--settings").stdout
    told = json.loads(run("train", "--settings", "--json").stdout)["settings"]
    assert {"name", "default", "meaning"} == set(told[0])


def command_that(callback) -> click.Command:
    option = click.Option(["--json", "as_json"], is_flag=True)
    return click.Command("x", callback=lambda as_json: callback(), params=[option])


def interrupted():
    raise KeyboardInterrupt


def failing():
    raise ConfigError("here", "is wrong", "mend it")


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_ctrl_c_exits_with_130(run, extra):
    result = run(*extra, command=command_that(interrupted))
    assert result.code == 130
    assert result.stderr.strip() == "error: interrupted; the same command continues"
    assert result.stdout == "" if not extra else json.loads(result.stdout)["exit_code"] == 130


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["streamgan"])
    with pytest.raises(ZeroDivisionError):
        run_command(command_that(lambda: 1 / 0))


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_an_error_of_the_file_system_is_one_line_with_the_advice_that_helps(run, extra, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(*extra, command=command_that(lambda: (tmp_path / "file" / "a").mkdir()))
    assert result.code == 3
    advice = "a file is in the way of a folder: move it, or choose another place"
    line = f"{tmp_path}/file/a: Not a directory; {advice}"
    assert result.stderr == f"error: {line}\n"
    assert result.stdout == "" if not extra else json.loads(result.stdout)["error"]["message"] == line


@pytest.mark.parametrize(("line", "called", "todo"), ENDED, ids=[line for line, *_ in ENDED])
def test_a_signal_ends_every_command_with_one_line_and_its_code(run, places, line, called, todo, monkeypatch):
    def ended(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the command goes on")

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # the test outlives a command that does nothing
    try:
        monkeypatch.setattr(called, ended)
        result = run(*words(line, places))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.code == 128 + signal.SIGTERM
    assert result.stderr.splitlines()[-1] == f"error: ended by SIGTERM; {todo}"


def test_an_error_of_the_network_that_nobody_expected_keeps_its_traceback(monkeypatch):
    def refused():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(sys, "argv", ["streamgan"])
    with pytest.raises(ConnectionRefusedError):
        run_command(command_that(refused))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_full_disk_behind_stdout_is_one_line(extra):
    with open("/dev/full", "w") as full:
        line = [sys.executable, "-m", "streamgan.cli", "train", "--settings", *extra]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    expected = "error: standard output: No space left on device; make room on that disk\n"
    assert (done.returncode, done.stderr) == (3, expected)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", "a", "--config", "b"],
        ["train", "-c", "a", "--config", "b"],
        ["compare", "--config", "a", "--out", "x", "--config", "b"],
        ["evaluate", "run", "--shards", "a", "--shards", "b"],
        ["bench", "loader", "set", "--batch", "4", "--batch", "8"],
    ],
)
def test_an_option_given_twice_is_refused(run, words):
    result = run(*words)
    assert result.code == 2
    assert "is given twice" in result.stderr


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["colorize", "", "--out", "x"], "INPUT..."),
        (["colorize", "a.jpg", "--out", ""], "--out"),
        (["colorize", "a.jpg", "--out=x", "--model="], "--model"),
        (["verify", ""], "DIR"),
        (["shard", "a", "", "--out", "x"], "SOURCE..."),
        (["evaluate", "run", "--shards", ""], "--shards"),
        (["serve", "--model", ""], "--model"),
    ],
)
def test_an_empty_word_is_not_the_folder_we_are_in(run, words, name):
    result = run(*words)
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert f"error: {name} is empty" in result.stderr


def test_a_setting_given_twice_is_refused(run):
    for again in (["run.steps=6"], ["run.epochs=6"]):
        result = run("train", "run.steps=5", *again)
        assert (result.code, result.stderr.count("\n")) == (2, 1)
        assert "says again what run.steps=5 said" in result.stderr
    result = run("train", "--init-from", "a", "run.init_from=b", "run.steps=1")
    assert "says again what run.init_from=b said" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "loader", "set", "--seconds", "nan"],
        ["bench", "loader", "set", "--step-ms", "inf"],
        ["bench", "plan", "set", "--step-ms", "0"],
        ["bench", "plan", "set", "--step-ms", "5", "--ranks", "9" * 5000],
        ["bench", "loader", "set", "--batch", "9" * 400],
        ["bench", "loader", "set", "--cache-gb", "nan"],
        ["bench", "loader", "set", "--workers", "1,99999999999"],
        ["bench", "loader", "set", "--workers", "9" * 5000],
        ["demo", "--steps", "9" * 400],
        ["demo", "--steps", "9" * 5000],
        ["demo", "--out", "s3://bucket/demo"],
        ["compare", "--config", "c", "--out", "s3://bucket/out"],
        ["evaluate", "run", "--shards", "s", "--cache-gb", "nan"],
        ["evaluate", "run", "--shards", "s", "--size", "9" * 400],
        ["evaluate", "run", "--shards", "s", "--workers", "-1"],
        ["serve", "--model", "m", "--port", "99999"],
        ["colorize", "a.jpg", "--model", "m", "--out", "o", "--saturation", "nan"],
        ["shard", "a", "--out", "o", "--max-bad", "nan"],
    ],
)
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_absurd_numbers_and_places_are_one_line(run, words, extra):
    result = run(*words, *extra)
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert len(result.stderr) < 6000
    if extra:
        assert json.loads(result.stdout)["exit_code"] == 2


def test_training_names_what_another_setting_switches_off(run):
    result = run("train", "run.steps=1", "loss.gp_weight=5", "--dry-run")
    assert (result.code, result.stderr) == (0, "without effect: loss.gp_weight (only with loss.gan=wgan)\n")


def test_the_home_folder_is_found_behind_an_option_and_a_name(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/no.yaml: no such file" in run("train", "--config=~/no.yaml", "run.steps=1").stderr
    assert f"{tmp_path}/nowhere" in run("evaluate", "~/nowhere", "--shards=~/set").stderr
    (tmp_path / "recipe.yaml").write_text("run: {steps: 3, dir: ~/runs/a}")
    result = run("train", "--config", "~/recipe.yaml", "data.shards=~/set", "--dry-run", "--json")
    config = json.loads(result.stdout)["config"]
    assert (config["run"]["dir"], config["data"]["shards"]) == (f"{tmp_path}/runs/a", f"{tmp_path}/set")


def test_other_ranks_say_who_they_are_and_leave_stdout_to_the_first(run, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    result = run("--json", command=command_that(failing))
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.strip() == "error (rank 3): here: is wrong; mend it"


def test_json_has_no_nan(capsys):
    emit("", {"a": float("nan"), "b": [1.5, (float("inf"), 2)], "c": {"d": -float("inf")}}, as_json=True)
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert json.loads(told) == {"ok": True, "a": None, "b": [1.5, [None, 2]], "c": {"d": None}}


def test_columns_of_a_table_are_aligned():
    assert table(["model", "x"], [["unet", "1.25"], ["a", "10"]]) == "model     x\nunet   1.25\na        10"


def streamgan_process(*arguments: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "streamgan.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_a_process_fails_with_one_line_and_the_code_of_its_error(places):
    done = streamgan_process("shard", places["nowhere"], "--out", places["out"])
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {places['nowhere']}: no such file or folder")


@pytest.mark.slow
def test_a_process_with_workers_ends_at_once_on_a_cut_shard(places, model):
    done = streamgan_process("evaluate", model, "--shards", places["cut"], "--workers", 2, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["error"]["type"]) == (3, "DataError")
    assert ", key " in told["error"]["where"]
    assert "Traceback" not in done.stderr
