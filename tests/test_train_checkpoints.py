"""What runs leave for their continuation: checkpoints that are whole, the best and the newest of them."""

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from training import losses, read_metrics, tiny_config

from streamgan.core.config import load_config
from streamgan.core.errors import CheckpointError
from streamgan.core.run_folder import sealed
from streamgan.inference.weights import find_weights
from streamgan.train import checkpoint as checkpoints
from streamgan.train.build import build_networks
from streamgan.train.checkpoint_writer import take_snapshot
from streamgan.train.loop import train
from streamgan.train.validation import Validation


def damage(run: Path, step: int, name: str) -> None:
    path = run / "checkpoints" / f"step-{step:08d}" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[:-9] if name == "meta.json" else data)


@pytest.fixture(scope="module")
def four_steps(shard_set, tmp_path_factory) -> dict:
    """What a run of four steps says when it is done."""
    run = tmp_path_factory.mktemp("four")
    return train(tiny_config(shard_set, run, "run.steps=4", "run.checkpoint_every=1"))


@pytest.fixture(scope="module")
def three_steps(shard_set, tmp_path_factory) -> Path:
    """A run of three steps with a checkpoint of each; to be copied."""
    run = tmp_path_factory.mktemp("three") / "run"
    train(tiny_config(shard_set, run, "run.steps=3", "run.checkpoint_every=1"))
    return run


@pytest.mark.parametrize("name", ["ema.safetensors", "trainer.pt", "meta.json"])
def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_is_used(
    shard_set, four_steps, three_steps, tmp_path, capsys, name
):
    run = shutil.copytree(three_steps, tmp_path / "run")
    damage(run, 3, name)
    damage(run, 2, name)
    capsys.readouterr()
    more = ["run.steps=4", "run.checkpoint_every=1"]
    assert train(tiny_config(shard_set, run, *more)) == four_steps | {"run": str(run)}
    said = [line for line in capsys.readouterr().err.splitlines() if "moved to" in line]
    for line, step in zip(said, (3, 2), strict=True):
        assert f"step-{step:08d}/{name}: " in line
        assert f"moved to step-{step:08d}.damaged, continuing from the checkpoint before" in line
    assert [c.step for c in checkpoints.list_checkpoints(run)] == [2, 3, 4]


@pytest.mark.parametrize("name", ["ema.safetensors", "meta.json"])
def test_a_run_whose_only_checkpoint_is_damaged_does_not_start_over(shard_set, three_steps, tmp_path, name):
    run = shutil.copytree(three_steps, tmp_path / "run")
    for step in (1, 2):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    damage(run, 3, name)
    with pytest.raises(CheckpointError, match=rf"{name}: .*damaged.*; restore it, or delete .*step-00000003"):
        train(tiny_config(shard_set, run, "run.steps=4"))
    assert (run / "checkpoints" / "step-00000003").is_dir()


def test_the_average_of_a_young_run_forgets_by_the_images_seen(whole_run):
    folders = {c.step: c.path for c in checkpoints.list_checkpoints(whole_run)}
    old, model, new = (
        load_file(folders[step] / f"{name}.safetensors")
        for step, name in ((9, "ema"), (10, "generator"), (10, "ema"))
    )
    decay = 0.5 ** (8 / (0.05 * 10 * 8))  # a batch of 8; the half-life is a twentieth of the 80 images by now
    for key, value in new.items():
        torch.testing.assert_close(value, decay * old[key] + (1 - decay) * model[key])


def test_an_unfinished_checkpoint_does_not_count(shard_set, three_steps, tmp_path):
    run = shutil.copytree(three_steps, tmp_path / "run")
    newest = run / "checkpoints" / "step-00000003"
    shutil.copytree(newest, run / "checkpoints" / "step-00000004.tmp")
    (newest / "meta.json").unlink()
    assert [c.step for c in checkpoints.list_checkpoints(run)] == [1, 2]
    assert train(tiny_config(shard_set, run, "run.steps=4"))["steps"] == 4
    assert not list((run / "checkpoints").glob("*.tmp"))


def test_the_newest_and_the_best_checkpoints_are_kept(shard_set, tmp_path):
    run = tmp_path / "run"
    train(tiny_config(shard_set, run, "run.steps=2", "run.checkpoint_every=1", "run.validate_every=1"))
    meta_path = run / "checkpoints" / "step-00000001" / "meta.json"
    meta = checkpoints.read_checkpoint(meta_path.parent).meta
    meta["validation"]["val/psnr"] = 99.0
    meta_path.write_text(json.dumps(sealed(meta)))
    train(tiny_config(shard_set, run, "run.steps=4", "run.checkpoint_every=1", "run.keep=2"))
    assert [c.step for c in checkpoints.list_checkpoints(run)] == [1, 3, 4]
    assert find_weights(run) == meta_path.parent / "ema.safetensors"


def test_milestones_are_kept_for_ever(shard_set, tmp_path):
    words = ["run.checkpoint_every=1", "run.keep=1", "run.keep_every=2", "run.validate_every=100"]
    train(tiny_config(shard_set, tmp_path, "run.steps=5", *words))
    assert [c.step for c in checkpoints.list_checkpoints(tmp_path)] == [2, 4, 5]


@pytest.mark.parametrize(("metric", "better"), [("psnr", max), ("loss", min)])
def test_the_best_checkpoint_is_that_of_the_named_metric(shard_set, tmp_path, metric, better):
    words = [f"run.best_metric={metric}", "run.validate_every=1", "run.checkpoint_every=1", "run.keep=9"]
    train(tiny_config(shard_set, tmp_path, "run.steps=4", *words))
    found = {c.meta["validation"][f"val/{metric}"]: c.path for c in checkpoints.list_checkpoints(tmp_path)}
    assert len(found) == 4
    assert find_weights(tmp_path).parent == found[better(found)]


def test_a_run_out_of_patience_ends_early_and_stays_ended(shard_set, tmp_path, capsys):
    words = ["run.validate_every=1", "optim.lr_g=1e-12", "optim.ema_half_life_images=0"]
    words += ["run.best_metric=loss", "run.steps=30", "run.patience=3"]
    done = train(tiny_config(shard_set, tmp_path, *words))
    assert done["stopped"]
    assert 4 <= done["steps"] < 30
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"ended early at step {done['steps']} of 30, val/loss has not improved for 3 validations" in said
    again = train(tiny_config(shard_set, tmp_path, *words))
    assert again["steps"] == done["steps"]
    assert "ended early" in capsys.readouterr().err
    assert train(tiny_config(shard_set, tmp_path, *words, "run.patience=5"))["steps"] > done["steps"]


@pytest.mark.slow
def test_patience_is_the_same_for_a_run_that_was_continued(shard_set, tmp_path):
    words = ["run.validate_every=1", "optim.lr_g=1e-12", "optim.ema_half_life_images=0"]
    words += ["run.best_metric=loss", "run.patience=3"]
    whole = train(tiny_config(shard_set, tmp_path / "whole", *words, "run.steps=30"))
    for steps in (1, 2, 3, 30):
        cut = train(tiny_config(shard_set, tmp_path / "cut", *words, f"run.steps={steps}"))
    assert cut["steps"] == whole["steps"]


def test_a_new_run_starts_with_the_networks_of_another(shard_set, whole_run, tmp_path, capsys):
    tiny = tiny_config(
        shard_set, tmp_path / "new", "run.steps=1", f"run.init_from={whole_run}", "optim.lr_g=1e-30"
    )
    train(tiny)
    assert f"starting from the networks of {whole_run}" in capsys.readouterr().err
    old, new = (checkpoints.list_checkpoints(run)[-1].path for run in (whole_run, tmp_path / "new"))
    for network in ("generator", "discriminator"):
        start = load_file(old / f"{network}.safetensors")
        for name, tensor in load_file(new / f"{network}.safetensors").items():
            assert torch.equal(tensor, start[name]), (network, name)
    with pytest.raises(
        CheckpointError,
        match=r"/generator.safetensors: is of the generator unet \(width=6\), and this run has unet \(width"
        r".*\); give model\.width=6$",
    ):
        train(
            tiny_config(
                shard_set, tmp_path / "x", "run.steps=1", f"run.init_from={whole_run}", "model.width=8"
            )
        )
    words = ["run.steps=1", f"run.init_from={whole_run}", "model.generator=paper_cnn", "model.depth=null"]
    with pytest.raises(CheckpointError, match=r"; give model\.generator=unet model\.depth=\d$"):
        train(tiny_config(shard_set, tmp_path / "w", *words))
    words = ["run.steps=1", f"run.init_from={whole_run}", "model.head=ycbcr"]
    with pytest.raises(CheckpointError, match=r"predicts lab, and this run ycbcr; choose model\.head=lab"):
        train(tiny_config(shard_set, tmp_path / "z", *words))
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        train(tiny_config(shard_set, tmp_path / "y", "run.steps=1", f"run.init_from={tmp_path}"))


def test_a_network_whose_depth_follows_from_the_size_of_photos_is_told_so(shard_set, tmp_path):
    words = ["model.depth=null", "loss.gan_weight=0", "run.steps=1"]
    train(tiny_config(shard_set, tmp_path / "old", *words, "data.size=32"))
    larger = [*words, "data.size=64", f"run.init_from={tmp_path / 'old'}"]
    with pytest.raises(CheckpointError, match=r"and its data\.size or what model\.depth it had$"):
        train(tiny_config(shard_set, tmp_path / "new", *larger))


@pytest.mark.parametrize(("words", "warned"), [((), False), (("run.init_from=ready",), True)])
def test_a_run_that_continues_keeps_on_record_what_it_began_with(
    shard_set, three_steps, tmp_path, capsys, words, warned
):
    run, begun = tmp_path / "run", f"run.init_from={three_steps}"
    train(tiny_config(shard_set, run, "run.steps=1", begun))
    train(tiny_config(shard_set, run, "run.steps=2", *words))
    told = f"run.init_from=ready is without effect, this run began with {three_steps} and goes on"
    assert (told in capsys.readouterr().err) == warned
    assert load_config(run / "config.yaml").run.init_from == str(three_steps)
    meta = checkpoints.list_checkpoints(run)[-1].meta
    assert meta["config"]["run"]["init_from"] == str(three_steps)


def test_a_run_that_starts_without_a_discriminator_to_take_over_says_so(shard_set, tmp_path, capsys):
    for name, weight in (("alone", 0), ("both", 1)):
        train(tiny_config(shard_set, tmp_path / name, "run.steps=1", f"loss.gan_weight={weight}"))
        new = tiny_config(
            shard_set, tmp_path / f"from-{name}", "run.steps=1", f"run.init_from={tmp_path / name}"
        )
        train(new)
        assert ("; the discriminator is new" in capsys.readouterr().err) == (name == "alone")


def test_a_damaged_checkpoint_is_no_start_for_another_run(shard_set, three_steps, tmp_path):
    shutil.copytree(three_steps, tmp_path / "old")
    damage(tmp_path / "old", 3, "generator.safetensors")
    more = ["run.steps=1", f"run.init_from={tmp_path / 'old'}"]
    with pytest.raises(CheckpointError, match=r"step-00000003/generator\.safetensors: missing or damaged"):
        train(tiny_config(shard_set, tmp_path / "new", *more))


def test_changes_are_allowed_when_asked_for_and_all_are_named(shard_set, three_steps, tmp_path, capsys):
    run = shutil.copytree(three_steps, tmp_path / "run")
    changed = tiny_config(shard_set, run, "run.steps=4", "optim.lr_g=1e-3", "loss.rec_weight=2.0")
    with pytest.raises(
        CheckpointError, match=r"loss\.rec_weight=1\.0 \(got 2\.0\), .*optim\.lr_g=.*--allow-changed"
    ):
        train(changed)
    assert train(changed, allow_changed=True)["steps"] == 4
    assert "going on as asked" in capsys.readouterr().err


def test_changed_settings_of_the_optimizer_are_those_that_it_goes_on_with(shard_set, three_steps, tmp_path):
    run = shutil.copytree(three_steps, tmp_path / "run")
    words = ["run.steps=4", "optim.betas=[0.3, 0.9]", "optim.eps=1e-3", "optim.weight_decay=0.5"]
    train(tiny_config(shard_set, run, *words), allow_changed=True)
    trainer = torch.load(run / "checkpoints" / "step-00000004" / "trainer.pt", weights_only=True)
    (of_g,), (of_d,) = (trainer[name]["param_groups"] for name in ("optimizer_g", "optimizer_d"))
    assert [of_g[key] for key in ("betas", "eps", "weight_decay")] == [(0.3, 0.9), 1e-3, 0.5]
    assert [of_d[key] for key in ("betas", "eps", "weight_decay")] == [(0.3, 0.9), 1e-3, 0]


def test_a_checkpoint_is_a_copy_that_later_steps_do_not_touch(shard_set, tmp_path, monkeypatch):
    """The disk is slower than the training: what is written is still the state of its step."""
    from streamgan.train import checkpoint_writer

    def slowly(*arguments, **options):
        time.sleep(0.1)
        return save_file(*arguments, **options)

    train(tiny_config(shard_set, tmp_path / "fast", "run.steps=2", "run.checkpoint_every=1"))
    monkeypatch.setattr(checkpoint_writer, "save_file", slowly)
    train(tiny_config(shard_set, tmp_path / "slow", "run.steps=2", "run.checkpoint_every=1"))
    for step in (1, 2):
        fast, slow = (tmp_path / run / "checkpoints" / f"step-{step:08d}" for run in ("fast", "slow"))
        for name in ("generator", "ema", "discriminator"):
            one, other = load_file(fast / f"{name}.safetensors"), load_file(slow / f"{name}.safetensors")
            assert all(torch.equal(one[key], other[key]) for key in one), (step, name)
        one, other = (torch.load(path / "trainer.pt", weights_only=True) for path in (fast, slow))
        assert str(one) == str(other)


def test_a_snapshot_waits_for_the_copies_of_whatever_device_there_is(shard_set, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    config = tiny_config(shard_set, tmp_path, "run.steps=1")
    networks = build_networks(config, Accelerator(cpu=True))
    meta = {"step": 1, "shards_digest": "", "num_photos": 1}
    for kind in ("cpu", "mps", "cuda"):
        take_snapshot(meta, config, networks, SimpleNamespace(device=torch.device(kind), scaler=None))
    assert waited == [torch.device("mps"), torch.device("cuda")]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_one_line(shard_set, tmp_path, monkeypatch):
    from streamgan.train import checkpoint_writer

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_file", full)
    with pytest.raises(CheckpointError, match="a checkpoint cannot be written \\(No space left on device\\)"):
        train(tiny_config(shard_set, tmp_path, "run.steps=3", "run.checkpoint_every=1"))


def test_a_trace_of_some_steps_is_written(shard_set, tmp_path, capsys):
    train(tiny_config(shard_set, tmp_path, "run.steps=4", "run.profile_steps=[2, 3]"))
    (path,) = (tmp_path / "profile").iterdir()
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert "aten::convolution" in names
    assert "ui.perfetto.dev" in capsys.readouterr().err


def test_runs_are_listed_with_what_became_of_them(shard_set, whole_run, tmp_path):
    from streamgan.cli.runs import runs
    from streamgan.train.process import run_lock

    train(tiny_config(shard_set, tmp_path / "a", "run.steps=1"))
    shutil.copytree(whole_run, tmp_path / "deep" / "whole")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.yaml").write_text("run: 3")
    shutil.copytree(tmp_path / "a", tmp_path / "new")
    shutil.rmtree(tmp_path / "new" / "checkpoints")
    with open(tmp_path / "a" / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "time": 1000}\n{"step": 8, "ti')
    with run_lock(tmp_path / "a", active=True):
        done = CliRunner().invoke(runs, [str(tmp_path), "--json"])
    found = {Path(one["path"]).name: one for one in json.loads(done.stdout)["runs"]}
    assert {name: one["state"] for name, one in found.items()} == {
        "a": "running", "bad": "damaged", "new": "empty", "whole": "done",
    }  # fmt: skip
    assert found["whole"]["step"] == found["whole"]["total"] == 10
    assert found["whole"]["best"] > 0
    assert (found["a"]["step"], found["a"]["updated"]) == (7, 1000)  # logged since the checkpoint
    text = CliRunner().invoke(runs, [str(tmp_path)]).stdout
    assert re.search(r"deep/whole +done +10/10 +psnr \d+\.\d+ +\d+ (s|min|h) ago", text)
    nowhere = CliRunner().invoke(runs, [str(tmp_path / "nowhere")])
    assert isinstance(nowhere.exception, CheckpointError)


def scripted(monkeypatch, figures: list[float]) -> None:
    """Let the validations of a run find these figures, one after the other."""
    remaining = iter(figures)
    monkeypatch.setattr(Validation, "_scores", lambda *_: {"val/psnr": next(remaining)})


BEST_SECOND = ["run.validate_every=1", "run.sample_every=100", "run.steps=30", "run.patience=3"]


@pytest.mark.parametrize("keep", [1, 3])
def test_the_best_weights_are_kept_whether_or_not_a_checkpoint_was_due(
    shard_set, tmp_path, monkeypatch, keep
):
    scripted(monkeypatch, [10.0, 30.0, 20.0, 29.0, 20.0])
    done = train(tiny_config(shard_set, tmp_path / "run", *BEST_SECOND, f"run.keep={keep}"))
    assert done["steps"] == 5
    assert [c.step for c in checkpoints.list_checkpoints(tmp_path / "run")] == [1, 2, 5][-keep - 1 :]
    assert find_weights(tmp_path / "run").parent.name == "step-00000002"
    scripted(monkeypatch, [1.0, 2.0])
    train(tiny_config(shard_set, tmp_path / "short", *BEST_SECOND, "run.steps=2"))
    kept, alone = (load_file(find_weights(tmp_path / run)) for run in ("run", "short"))
    assert all(kept[key].equal(alone[key]) for key in alone)


def test_the_log_of_a_run_has_every_step_however_rare_its_lines_are(shard_set, tmp_path, monkeypatch):
    """A checkpoint of the best weights ends an interval of means, in a continued run as in a whole one."""
    words = [*BEST_SECOND, "run.log_every=3", "run.validate_every=2", "run.patience=0"]
    for run, lengths in (("whole", [6]), ("cut", [4, 6])):
        scripted(monkeypatch, [10.0, 30.0, 20.0])
        for steps in lengths:
            train(tiny_config(shard_set, tmp_path / run, *words, f"run.steps={steps}"))
    assert list(losses(tmp_path / "whole")) == [2, 3, 4, 6]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_figure_that_is_no_number_is_not_the_best(shard_set, tmp_path, monkeypatch):
    scripted(monkeypatch, [float("nan"), 10.0, float("nan"), 9.0])
    done = train(tiny_config(shard_set, tmp_path, *BEST_SECOND, "run.patience=2"))
    assert done["steps"] == 4
    assert find_weights(tmp_path).parent.name == "step-00000002"


def test_another_metric_is_judged_by_what_the_checkpoints_say(shard_set, tmp_path, monkeypatch):
    words = ["run.validate_every=1", "run.sample_every=100", "run.keep=1"]
    rows = [{"val/psnr": psnr, "val/loss": loss} for psnr, loss in ((30.0, 0.2), (20.0, 0.3), (25.0, 0.1))]
    monkeypatch.setattr(Validation, "_scores", lambda *_: rows.pop(0))
    train(tiny_config(shard_set, tmp_path, *words, "run.steps=2"))
    changed = tiny_config(shard_set, tmp_path, *words, "run.steps=3", "run.best_metric=loss")
    train(changed, allow_changed=True)
    assert [c.step for c in checkpoints.list_checkpoints(tmp_path)] == [3]
    assert find_weights(tmp_path).parent.name == "step-00000003"
    assert checkpoints.list_checkpoints(tmp_path)[0].meta["progress"] == {"best": -0.1, "stale": 0}


@pytest.mark.parametrize("last", [3, 4])
def test_a_validation_that_a_run_did_not_live_to_finish_is_made_up_for(
    shard_set, tmp_path, monkeypatch, last
):
    """In mid-run, and at its end."""
    words = ["run.validate_every=3", "run.checkpoint_every=3", "run.keep=9", f"run.steps={last}"]
    train(tiny_config(shard_set, tmp_path / "whole", *words))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "_scores", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(shard_set, tmp_path / "killed", *words))
    (saved,) = checkpoints.list_checkpoints(tmp_path / "killed")
    assert saved.step == 3
    assert not saved.meta["validation"]
    train(tiny_config(shard_set, tmp_path / "killed", *words))
    ours, theirs = (checkpoints.list_checkpoints(tmp_path / run) for run in ("killed", "whole"))
    for name in ("step", "validation", "progress", "finished"):
        assert [one.meta[name] for one in ours] == [one.meta[name] for one in theirs]
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "whole")
    assert (tmp_path / "killed/samples/step-00000003.png").exists()


def test_a_validation_that_was_logged_and_not_saved_is_in_the_log_once(shard_set, tmp_path, monkeypatch):
    words = ["run.validate_every=3", "run.checkpoint_every=3", "run.steps=4"]
    train(tiny_config(shard_set, tmp_path / "whole", *words))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Progress, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(shard_set, tmp_path / "killed", *words))
    train(tiny_config(shard_set, tmp_path / "killed", *words))
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "whole")


def test_all_files_of_a_checkpoint_have_the_rights_that_the_umask_leaves(whole_run):
    folder = checkpoints.list_checkpoints(whole_run)[-1].path
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        (folder / "meta.json").stat().st_mode & 0o777
    }
