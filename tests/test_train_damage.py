"""What disks and killed processes make of a run folder: what is damaged is named, set aside, and never fatal
while something whole is left."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from marks import slow
from safetensors.torch import load_file
from training import losses, read_metrics, tiny_config

from streamgan.core.errors import CheckpointError
from streamgan.core.run_folder import DamagedCheckpoint, list_checkpoints, read_checkpoint, sealed
from streamgan.inference.weights import find_weights
from streamgan.train.history import cut_history
from streamgan.train.loop import train
from streamgan.train.runs import read_run

EVERY_STEP = ["run.checkpoint_every=1", "run.keep=9"]


def meta_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}" / "meta.json"


@pytest.fixture(scope="module")
def three_steps(shard_set, tmp_path_factory) -> Path:
    """A run with three validated checkpoints; to be copied."""
    run = tmp_path_factory.mktemp("three") / "run"
    train(tiny_config(shard_set, run, *EVERY_STEP, "run.steps=3", "run.validate_every=1"))
    return run


@pytest.fixture
def run(three_steps, tmp_path) -> Path:
    return shutil.copytree(three_steps, tmp_path / "run")


@pytest.mark.slow
def test_folders_that_are_no_checkpoints_leave_a_new_run_its_class_weights(shard_set, tmp_path):
    words = ["model.generator=zhang", "model.width=4", "model.depth=null", "model.norm=null"]
    words += ["loss.rec=cross_entropy", "run.steps=1", "data.size=64"]
    for name in ("step-00000001.tmp", "step-00000002.damaged"):
        folder = tmp_path / "restarted" / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text("{}")
    for run in ("restarted", "new"):
        train(tiny_config(shard_set, tmp_path / run, *words))
    old, new = (
        load_file(meta_of(tmp_path / run, 1).with_name("ema.safetensors")) for run in ("restarted", "new")
    )
    assert all(old[key].equal(new[key]) for key in new)
    (weights,) = (tensor for key, tensor in new.items() if "class_weights" in key)
    assert not weights.equal(weights.new_ones(weights.shape))


@pytest.mark.parametrize(
    ("step", "share"),
    [
        place if place in ((1, 0.2), (2, 0.5), (3, 0.99)) else slow(*place)
        for place in itertools.product((1, 2, 3), (0.01, 0.2, 0.5, 0.8, 0.99))
    ],
)
def test_a_flipped_byte_of_any_meta_json_is_found_and_set_aside(shard_set, run, capsys, step, share):
    path = meta_of(run, step)
    data = bytearray(path.read_bytes())
    at = next(i for i in range(int(len(data) * share), len(data)) if chr(data[i]).isalnum())
    data[at] ^= 1
    path.write_bytes(data)
    assert train(tiny_config(shard_set, run, *EVERY_STEP, "run.steps=4"))["steps"] == 4
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "moved to" in line)
    assert line.startswith(f"{path}: damaged (")
    assert f"moved to step-{step:08d}.damaged" in line
    assert [c.step for c in list_checkpoints(run)] == [s for s in (1, 2, 3, 4) if s != step or step == 3]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", None, *map(slow, (b"\0" * 300, b"[]", b"\xff\xfe{", b"[" * 100_000, b"3"))],
)
def test_whatever_stands_in_a_meta_json_it_is_not_fatal(shard_set, run, capsys, content):
    path = meta_of(run, 1)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert find_weights(run, "last") == meta_of(run, 3).with_name("ema.safetensors")
    assert read_run(run).state == "done"
    assert f"{path}: damaged (" in capsys.readouterr().err
    train(tiny_config(shard_set, run, *EVERY_STEP, "run.steps=4"))
    assert "moved to step-00000001.damaged\n" in capsys.readouterr().err


def test_a_checkpoint_under_the_name_of_another_step_is_none(shard_set, run, capsys):
    shutil.copytree(meta_of(run, 2).parent, run / "checkpoints" / "step-00000007")
    assert train(tiny_config(shard_set, run, *EVERY_STEP, "run.steps=4"))["steps"] == 4
    assert "damaged (says step 2); moved to step-00000007.damaged" in capsys.readouterr().err


def test_a_checkpoint_of_another_release_is_not_taken_for_damaged(shard_set, run):
    path = meta_of(run, 3)
    path.write_text(json.dumps(sealed(read_checkpoint(path.parent).meta | {"version": 2})))
    with pytest.raises(
        CheckpointError, match=r"is streamgan-checkpoint 2 .*; use the streamgan release"
    ) as caught:
        train(tiny_config(shard_set, run, "run.steps=4"))
    assert not isinstance(caught.value, DamagedCheckpoint)
    assert path.exists()


def test_checkpoints_of_before_the_digest_are_loaded(shard_set, run):
    for step in (1, 2, 3):
        path = meta_of(run, step)
        meta = json.loads(path.read_bytes())
        del meta["digest"]
        path.write_text(json.dumps(meta))
    train(tiny_config(shard_set, run, *EVERY_STEP, "run.steps=4"))
    assert [c.step for c in list_checkpoints(run)] == [1, 2, 3, 4]
    assert find_weights(run, "1") == meta_of(run, 1).with_name("ema.safetensors")


def test_a_run_of_which_only_the_commit_mark_is_lost_does_not_start_over(shard_set, run):
    for step in (1, 2):
        shutil.rmtree(meta_of(run, step).parent)
    meta_of(run, 3).unlink()
    with pytest.raises(
        DamagedCheckpoint, match=r"no such file\); restore it, or delete .*step-00000003 to start"
    ):
        train(tiny_config(shard_set, run, "run.steps=4"))


def test_weights_that_are_damaged_are_passed_over_for_the_next_best(run, capsys):
    best = find_weights(run)
    data = bytearray(best.read_bytes())
    data[len(data) // 2] ^= 1
    best.write_bytes(data)
    second = find_weights(run)
    assert second != best
    assert f"{best}: missing or damaged (sha256); passed over" in capsys.readouterr().err
    step = read_checkpoint(best.parent).step
    with pytest.raises(CheckpointError, match="missing or damaged"):
        find_weights(run, str(step))


@pytest.mark.parametrize(
    "bad",
    [b'{"step": 1, "loss', b"[3]", *map(slow, (b"\0\0\0\0", b"\xff\xfe\x80", b'{"step": "x"}'))],
)
def test_a_bad_line_of_the_log_is_set_aside_and_costs_no_other(shard_set, run, capsys, bad):
    path = run / "metrics.jsonl"
    before = [line for line in read_metrics(run) if "lr/g" in line]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], bad + b"\n", *lines[1:]]))
    assert read_run(run).state == "done"
    train(tiny_config(shard_set, run, "run.steps=4"))
    assert f"{path}: line 2 cannot be read; moved to metrics.jsonl.damaged" in capsys.readouterr().err
    assert (run / "metrics.jsonl.damaged").read_bytes() == bad + b"\n"
    after = [line for line in read_metrics(run) if "lr/g" in line]
    assert after[:3] == before
    assert list(losses(run)) == [1, 2, 3, 4]


def test_a_last_line_that_is_whole_but_for_its_end_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    cut_history(tmp_path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    cut_history(tmp_path, 2)
    assert path.read_text() == '{"step": 1}\n'
    assert [one.name for one in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "content", [b"", b"run: {}", slow(b"\0" * 50), slow(b"run:\n  steps: 3\n  best_metric: psnr\n")]
)
def test_a_damaged_config_yaml_is_written_again(shard_set, run, content):
    (run / "config.yaml").write_bytes(content)
    assert read_run(run).state == "damaged"
    train(tiny_config(shard_set, run, "run.steps=4"))
    assert read_run(run).state == "done"


def test_what_a_killed_process_left_unfinished_is_removed(shard_set, run):
    shutil.copytree(meta_of(run, 2).parent, run / "checkpoints" / "step-00000009.tmp")
    train(tiny_config(shard_set, run, "run.steps=4"))
    assert not list((run / "checkpoints").glob("*.tmp"))
