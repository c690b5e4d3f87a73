"""Whole runs in one process: what they leave, and that an interrupted one ends like an uninterrupted one."""

import errno
import fcntl
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from marks import slow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from training import assert_same_weights, losses, read_metrics, settings, tiny_config

import streamgan
from streamgan.core.config import load_config
from streamgan.core.errors import CheckpointError, ConfigError, StreamganError
from streamgan.core.storage.hub import BUNDLED
from streamgan.losses import RECONSTRUCTION
from streamgan.train import checkpoint as checkpoints
from streamgan.train.loop import train

ROOT = Path(__file__).parents[1]
SCALARS = {
    "loss/g_total", "loss/g_rec", "loss/g_adv", "loss/d_total", "loss/d_real", "loss/d_fake",
    "d/real_mean", "d/fake_mean", "lr/g", "lr/d", "grad/g_norm", "grad/d_norm", "grad/skipped",
    "grad/scale", "perf/images_per_s", "perf/step_ms", "perf/data_wait_ms", "perf/gpu_mem_gb",
    "data/read_MBps", "data/cache_hit", "data/retries", "data/bad",
    "val/loss", "val/psnr", "val/ssim", "val/cf", "val/gray_psnr", "val/median_ab_psnr",
}  # fmt: skip


def test_checkpoints_come_every_n_steps_and_at_the_end_of_every_epoch(whole_run):
    found = checkpoints.list_checkpoints(whole_run)
    assert [c.step for c in found] == [3, 6, 8, 9, 10]
    assert [c.meta["finished"] for c in found] == [False, False, False, False, True]
    names = {path.name for path in found[0].path.iterdir()}
    assert names == {
        "generator.safetensors", "ema.safetensors", "discriminator.safetensors", "trainer.pt", "meta.json"
    }  # fmt: skip


def test_a_checkpoint_says_with_what_it_was_made(whole_run):
    meta = checkpoints.list_checkpoints(whole_run)[-1].meta
    assert meta["made_with"] == {
        "streamgan": streamgan.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "1 x cpu",
    }


def test_a_run_made_again_from_its_folder_has_the_same_weights(whole_run, tmp_path):
    train(load_config(whole_run / "config.yaml", [f"run.dir={tmp_path}"]))
    assert_same_weights(whole_run, tmp_path, step=10)


def test_tensorboard_and_metrics_hold_the_same_scalars(whole_run):
    board = EventAccumulator(str(whole_run / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) >= SCALARS
    assert board.Tags()["images"] == ["samples/val"]
    text = board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert yaml.safe_load(text.strip("`\n"))["optim"]["lr_g"] == 2e-4
    assert {event.value for event in board.Scalars("data/cache_hit")} == {1.0}  # local shards
    in_file = {
        line["step"]: line["loss/g_total"] for line in read_metrics(whole_run) if "loss/g_total" in line
    }
    in_board = {event.step: event.value for event in board.Scalars("loss/g_total")}
    assert in_file == pytest.approx(in_board)
    assert list(in_file) == list(range(1, 11))


def test_tensorboard_has_r1_and_a_row_of_hyperparameters(shard_set, tmp_path):
    words = ["run.steps=3", "loss.r1_weight=1", "loss.r1_every=1", "loss.warmup_steps=1"]
    train(tiny_config(shard_set, tmp_path, *words))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss/r1")] == [2, 3]
    parts = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(parts).session_start_info.hparams
    assert start["loss.r1_weight"].number_value == 1
    assert start["model.generator"].string_value == "unet"
    parts = board.SummaryMetadata("_hparams_/experiment").plugin_data.content
    metrics = {one.name.tag for one in HParamsPluginData.FromString(parts).experiment.metric_infos}
    assert (
        metrics == {"val/psnr", "val/ssim", "val/loss", "perf/images_per_s"} <= set(board.Tags()["scalars"])
    )


@pytest.mark.slow
def test_tensorboard_serves_scalars_and_grids_of_a_run(whole_run):
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(whole_run),
         "--host", "127.0.0.1", "--port", "0", "--load_fast=false", "--reload_interval", "1"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stderr
        line = next(line for line in server.stderr if "http://" in line)
        address = line[line.index("http://") :].split()[0].rstrip("/")

        def get(path: str):
            with urllib.request.urlopen(f"{address}/data/plugin/{path}", timeout=30) as answer:
                return json.load(answer)

        deadline = time.monotonic() + 60
        while not (tags := get("scalars/tags")) and time.monotonic() < deadline:
            pass
        assert "loss/g_total" in tags["tensorboard"]
        assert len(get("scalars/scalars?run=tensorboard&tag=loss%2Fg_total")) == 10
        grids = get("images/images?run=tensorboard&tag=samples%2Fval&sample=0")
        with urllib.request.urlopen(
            f"{address}/data/plugin/images/individualImage?{grids[-1]['query']}", timeout=30
        ) as answer:
            assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
    finally:
        server.terminate()
        server.communicate()


def test_the_grid_has_four_rows_of_the_same_fixed_images(whole_run):
    from PIL import Image

    grids = sorted((whole_run / "samples").glob("step-*.png"))
    assert [path.stem for path in grids] == ["step-00000008", "step-00000010"]
    first, last = (Image.open(path) for path in grids)
    left = first.width - (4 * 50 + 2)  # 4 images of 48 pixels, 2 pixels between
    assert first.size == last.size == (left + 4 * 50 + 2, 4 * 50 + 2)
    truth = (left, 3 * 50, first.width, first.height)
    assert first.crop(truth).tobytes() == last.crop(truth).tobytes()
    generated = (left, 50, first.width, 100)
    assert first.crop(generated).tobytes() != last.crop(generated).tobytes()
    names = [first.crop((0, row * 50, left, row * 50 + 50)) for row in range(4)]
    assert len({name.tobytes() for name in names}) == 4
    assert all(name.getextrema()[0][1] > 128 for name in names)  # white on black


def test_the_name_of_a_row_stands_at_its_photos():
    import torch

    from streamgan.train.grid import labelled_grid

    gray, color = torch.zeros(2, 3, 64, 64), torch.ones(2, 3, 64, 64)
    one = labelled_grid({"gray": gray, "truth of it": color})
    other = labelled_grid({"truth of it": color, "gray": gray})
    assert one.shape == other.shape
    assert one.shape[1] == 2 * 66 + 2
    assert torch.equal(one[:, :66], other[:, 66:132])
    assert not torch.equal(one[:, :66, :-134], one[:, 66:132, :-134])


@pytest.mark.parametrize(("cut", "workers"), [(4, 0), (8, 0), *(slow(cut, 1) for cut in (1, 4, 8, 9))])
def test_a_run_continued_after_any_step_ends_with_the_same_bits(shard_set, whole_run, tmp_path, cut, workers):
    run = tmp_path / "cut"
    for steps in (cut, 10):
        train(
            tiny_config(shard_set, run, f"run.steps={steps}", "run.checkpoint_every=3",
                        f"data.workers={workers}")
        )  # fmt: skip
    assert_same_weights(run, whole_run, step=10)
    assert losses(run) == losses(whole_run)


def test_lines_after_the_checkpoint_are_dropped_when_a_run_goes_on(shard_set, tmp_path):
    run = tmp_path / "run"
    train(tiny_config(shard_set, run, "run.steps=2"))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss/g_total": 1.0}\n{"step": 4, "loss/g_to')
    train(tiny_config(shard_set, run, "run.steps=3"))
    steps = [line["step"] for line in read_metrics(run) if "loss/g_total" in line]
    assert steps == [1, 2, 3]


def test_a_finished_run_says_that_there_is_nothing_to_do(shard_set, whole_run, capsys):
    before = sorted(path.stat().st_mtime_ns for path in whole_run.rglob("*.safetensors"))
    assert train(tiny_config(shard_set, whole_run, "run.steps=10"))["steps"] == 10
    assert "all 10 steps are done" in capsys.readouterr().err
    assert before == sorted(path.stat().st_mtime_ns for path in whole_run.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("run.seed=1", "run.seed=0 (got 1)"),
        ("data.batch=16", "data.batch=8 (got 16)"),
        ("model.width=8", "model.width=6 (got 8)"),
        ("optim.lr_g=1e-3", "optim.lr_g=0.0002 (got 0.001)"),
    ],
)
def test_a_changed_setting_is_refused_with_its_name(shard_set, whole_run, change, named):
    with pytest.raises(CheckpointError) as caught:
        train(tiny_config(shard_set, whole_run, "run.steps=20", change))
    assert named in str(caught.value)


def test_other_shards_are_refused(source_folder, whole_run, tmp_path):
    from streamgan.sharding.run import ShardOptions, shard

    options = ShardOptions(samples_per_shard=30, splits="source")
    shard([str(source_folder)], tmp_path / "other", options=options, num_workers=0)
    with pytest.raises(CheckpointError, match="other shards"):
        train(tiny_config(tmp_path / "other", whole_run, "run.steps=20"))


def test_moved_shards_are_not_refused(shard_set, tmp_path):
    train(tiny_config(shard_set, tmp_path / "run", "run.steps=1"))
    moved = shutil.copytree(shard_set, tmp_path / "moved")
    assert train(tiny_config(moved, tmp_path / "run", "run.steps=2"))["steps"] == 2


def test_a_run_folder_in_use_is_refused(shard_set, tmp_path):
    from streamgan.train.process import run_lock

    with run_lock(tmp_path / "run", active=True), pytest.raises(CheckpointError, match="another process"):
        train(tiny_config(shard_set, tmp_path / "run", "run.steps=1"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_run_on_a_file_system_without_locks_trains_and_says_so(tmp_path, monkeypatch, capsys, number):
    from streamgan.train.process import run_lock

    def flock(*_) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with run_lock(tmp_path / "run", active=True):
        pass
    assert f"{tmp_path / 'run'}: this file system has no locks" in capsys.readouterr().err


def test_a_batch_that_cannot_be_split_is_refused_before_anything_is_written(shard_set, tmp_path):
    with pytest.raises(ConfigError, match=r"micro-batches; .* optim\.accumulate out of 1, 2, 4, 8$"):
        train(tiny_config(shard_set, tmp_path / "run", "run.steps=1", "optim.accumulate=3"))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_gradients_that_stay_not_finite_stop_the_run_and_keep_the_weights(shard_set, tmp_path):
    run, words = tmp_path / "run", ["run.steps=12", "loss.warmup_steps=99"]
    train(tiny_config(shard_set, run, *words, "run.steps=3"))
    bad = tiny_config(shard_set, run, *words, "loss.rec_weight=1e39", "run.max_bad_steps=5")  # inf in float32
    with pytest.raises(StreamganError, match="not finite for 5 steps, all skipped") as caught:
        train(bad, allow_changed=True)
    assert caught.value.todo.startswith("delete step-00000008 to go back to step 3; then lower optim.lr_g")
    saved = checkpoints.list_checkpoints(run)
    assert [c.step for c in saved] == [3, 8]  # 5 bad steps after the third
    before, after = (checkpoints.load_file(c.path / "generator.safetensors") for c in saved)
    assert all(before[key].equal(after[key]) for key in before)
    assert not saved[-1].meta["finished"]
    assert train(tiny_config(shard_set, run, *words), allow_changed=True)["steps"] == 12


def test_a_good_step_ends_a_row_of_steps_that_are_not_finite(shard_set, tmp_path, monkeypatch):
    steps, sound = itertools.count(1), RECONSTRUCTION["l1"]

    def loss(pred, target):
        bad = torch.is_grad_enabled() and next(steps) in (2, 3, 5, 6, 8, 9, 10)  # validation has no gradients
        return sound(pred, target) * (float("nan") if bad else 1.0)

    monkeypatch.setitem(RECONSTRUCTION, "l1", loss)
    words = ["run.steps=20", "run.max_bad_steps=3", "run.validate_every=100"]
    with pytest.raises(StreamganError, match="not finite for 3 steps"):
        train(tiny_config(shard_set, tmp_path, *words))
    assert read_metrics(tmp_path)[-1]["step"] == 10
    skipped = [line["step"] for line in read_metrics(tmp_path) if line["grad/skipped"]]
    assert skipped == [2, 3, 5, 6, 8, 9, 10]


def test_the_learning_rates_that_are_logged_are_those_of_the_optimizers(shard_set, tmp_path):
    words = ["optim.lr_g=1e-3", "optim.lr_d=4e-3", "optim.warmup_steps=4", "loss.warmup_steps=0"]
    train(tiny_config(shard_set, tmp_path, "run.steps=3", *words))
    lines = [line for line in read_metrics(tmp_path) if "lr/g" in line]
    assert [line["lr/g"] for line in lines] == pytest.approx([2.5e-4, 5e-4, 7.5e-4])
    assert [line["lr/d"] for line in lines] == pytest.approx([1e-3, 2e-3, 3e-3])
    path = checkpoints.list_checkpoints(tmp_path)[-1].path / "trainer.pt"
    state = torch.load(path, weights_only=True)
    for name, rate in (("optimizer_g", 7.5e-4), ("optimizer_d", 3e-3)):
        assert [group["lr"] for group in state[name]["param_groups"]] == pytest.approx([rate]), name


def test_the_twin_gray_is_used_when_asked_for(shard_set, tmp_path):
    train(tiny_config(shard_set, tmp_path / "twin", "run.steps=2", "data.gray=twin"))
    train(tiny_config(shard_set, tmp_path / "derived", "run.steps=2"))
    assert losses(tmp_path / "twin") != losses(tmp_path / "derived")


@pytest.mark.parametrize(
    ("generator", "head"),
    [("unet", "lab"), ("unet", "ycbcr"), ("paper_cnn", "rgb"),
     slow("unet", "rgb"), slow("paper_cnn", "lab"), slow("paper_cnn", "ycbcr")],
)  # fmt: skip
def test_every_generator_trains_with_every_head(shard_set, tmp_path, generator, head):
    more = ["run.steps=3", f"model.generator={generator}", f"model.head={head}", "model.depth=3"]
    result = train(tiny_config(shard_set, tmp_path / "run", *more, "loss.gan=bce"))
    assert result["validation"]["val/psnr"] > 5


def test_a_second_ctrl_c_ends_the_run_unless_it_is_an_echo_of_the_first(monkeypatch):
    from streamgan.train import process

    now = iter((10.0, 10.5, 11.5))
    monkeypatch.setattr(process.time, "monotonic", now.__next__)
    with process.StopRequest() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_launcher_alone_stops_the_run_which_saves(shard_set, tmp_path, number):
    words = [str(ROOT / "launch" / "train.py"), *settings(shard_set, tmp_path / "run", "run.steps=100000")]
    options = ["--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no", "--cpu"]
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options]
    process = subprocess.Popen([*launcher, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert any(line.startswith("step 3/") for line in process.stderr)
    (training,) = psutil.Process(process.pid).children()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)  # it ends with the training process
    assert "the same command continues" in stderr
    assert max(losses(tmp_path / "run")) == checkpoints.list_checkpoints(tmp_path / "run")[-1].step
    assert psutil.wait_procs([training], timeout=10)[1] == []


@pytest.mark.parametrize(("name", "what"), [("manifest.json", "a shard set"), (BUNDLED, "an exported model")])
def test_a_run_does_not_write_into_a_folder_of_something_else(shard_set, tmp_path, name, what):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / name).write_text("")
    with pytest.raises(ConfigError, match=f"run.dir: is {what} "):
        train(tiny_config(shard_set, tmp_path / "there", "run.steps=1"))
    assert [path.name for path in (tmp_path / "there").iterdir()] == [name]
