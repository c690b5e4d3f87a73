"""`streamgan compare`: plans, tables and grids, what it refuses, and that it goes on where it was."""

import json
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from marks import slow
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import TINY, last_words, losses

from streamgan.compare import run as compare_run
from streamgan.compare.grid import GAP, draw_grid
from streamgan.compare.plan import gan_share, measure_step_s, step_times, stretch, training_minutes
from streamgan.compare.run import compare
from streamgan.compare.settings import SHARED, load_comparison
from streamgan.compare.table import markdown, score_columns
from streamgan.core.config import load_config
from streamgan.core.errors import ConfigError, DataError
from streamgan.core.settings import DataConfig
from streamgan.data.reading import Reading, Source
from streamgan.metrics import LegacyPsnr
from streamgan.train.checkpoint import list_checkpoints

RECIPE = {"run": {"steps": 10, "dir": "runs/recipe"}}
SHORT = last_words([*TINY, "run.validate_images=4", "run.log_every=2"])


@pytest.fixture
def write_comparison(shard_set, tmp_path):
    """`write_comparison(rows=..., ...)` writes recipes and the comparison of two rows, gives its path."""

    def write(**changes: object) -> Path:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        tree = {
            "shards": str(shard_set), "out": str(tmp_path / "out"), "budget": {"steps": 4},
            "settings": SHORT, "grid_images": 3, "workers": 0, "batch": 8,
            "rows": [
                {"name": "plain", "recipe": "recipe.yaml", "settings": ["loss.gan_weight=0"]},
                {"name": "as_published", "recipe": "recipe.yaml",
                 "settings": ["model.generator=paper_cnn", "model.discriminator=paper_cnn",
                              "model.head=rgb_as_published", "model.depth=1", "loss.gan=bce"]},
            ],
        }  # fmt: skip
        path = tmp_path / "compare.yaml"
        path.write_text(yaml.safe_dump(tree | changes))
        return path

    return write


@pytest.fixture(scope="module")
def finished(shard_set, tmp_path_factory):
    """A comparison of two rows that is done: its file, its folder, and the result."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    published = ["model.generator=paper_cnn", "model.head=rgb_as_published", "model.depth=1", "loss.gan=bce"]
    rows = [
        {"name": "plain", "recipe": "recipe.yaml", "settings": ["loss.gan_weight=0"]},
        {"name": "as_published", "recipe": "recipe.yaml", "settings": published},
    ]
    tree = {"shards": str(shard_set), "out": str(folder / "out"), "budget": {"steps": 4}, "rows": rows}
    tree |= {"settings": SHORT, "grid_images": 3, "workers": 0, "batch": 8}
    (folder / "compare.yaml").write_text(yaml.safe_dump(tree))
    result = compare(load_comparison(folder / "compare.yaml"))
    return folder / "compare.yaml", folder / "out", result


def test_the_table_has_baselines_and_rows_with_all_scores(finished):
    _, out, result = finished
    assert json.loads((out / "comparison.json").read_text()) == result
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["gray", "median_ab", "plain", "as_published"]
    assert (result["split"], result["num_images"], result["size"]) == ("test", 12, 48)
    for name in ("plain", "as_published"):
        row = rows[name]
        assert (row["steps"], row["images"], row["error"]) == (4, 32, None)
        assert row["parameters"] > 1000
        assert row["minutes"] > 0
        assert len(row["scores"]["sweep"]["saturation"]) == 13
        assert row["scores"]["sweep"]["psnr"][0] == pytest.approx(rows["gray"]["scores"]["psnr"], abs=0.02)
    assert rows["gray"]["scores"]["psnr_at_cf50"] is None  # gray has no colour to scale, and JSON no NaN


def test_the_page_shows_each_row_twice_and_every_score_once(finished):
    _, out, result = finished
    lines = (out / "comparison.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| "))
    for word in ("parameters", "steps", "images", "minutes", "PSNR", "gain", "SSIM", "CF", "dCF",
                 "chroma ratio", "ab error", "PSNR at CF50", "PSNR, range bug"):  # fmt: skip
        assert f" {word} " in head
    for name in ("gray", "median_ab", "plain", "as_published"):
        assert sum(line.startswith(f"| {name} |") for line in lines) == 2  # scores, and the sweep
    assert any(line.startswith("| gray |") and " 0.00±0.00 |" in line for line in lines)
    assert result["protocol"] in lines
    assert "N = 12" in result["protocol"]


def test_the_grid_has_a_row_for_every_photo_and_truth_on_the_right(finished):
    _, out, _ = finished
    with Image.open(out / "grid.png") as grid, Image.open(out / "truth" / "column.png") as truth:
        side, photos = 144, 3  # 48 pixels, three times enlarged
        assert grid.width == 4 * (side + GAP) + GAP
        assert truth.size == (48, 48 * photos)
        top = grid.height - photos * (side + GAP)
        last = grid.crop((grid.width - GAP - side, top, grid.width - GAP, top + side))
        expected = truth.crop((0, 0, 48, 48)).convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        assert last.tobytes() == expected.tobytes()


def test_long_names_are_broken_over_the_columns():
    column = Image.new("RGB", (16, 32), "red")
    short, long = (draw_grid({name: column}, photo_size=16) for name in ("a", "the_name_of_a_very_long_row"))
    assert long.width == short.width == 128 + 2 * GAP
    assert long.height > short.height


def test_tensorboard_has_a_folder_a_row_with_the_test_scores(finished):
    _, out, result = finished
    for row in result["rows"][2:]:
        board = EventAccumulator(str(out / row["name"] / "tensorboard"))
        board.Reload()
        (event,) = board.Scalars("test/psnr")
        assert (event.step, event.value) == (4, pytest.approx(row["scores"]["psnr"], rel=1e-6))
        assert board.Scalars("loss/g_total")


def test_what_is_trained_and_scored_is_not_touched_again(finished, monkeypatch, capsys):
    path, out, result = finished
    before = {file: file.stat().st_mtime_ns for file in out.glob("*/*.json")}
    monkeypatch.setattr(compare_run, "train", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(compare_run, "score_row", lambda *_, **__: pytest.fail("scored"))
    assert compare(load_comparison(path)) == result
    assert before == {file: file.stat().st_mtime_ns for file in out.glob("*/*.json")}
    assert "all 2 rows are trained and scored" in capsys.readouterr().err


@pytest.mark.slow
def test_other_photos_are_scored_without_training_again(finished, monkeypatch):
    path, out, _ = finished
    kept = {row: (out / row / "scores.json").read_bytes() for row in ("plain", "as_published")}
    monkeypatch.setattr(compare_run, "train", lambda config: {"stopped": False})
    rows = compare(load_comparison(path, max_images=5))["rows"]
    assert [row["scores"]["num_images"] for row in rows] == [5.0] * 4
    for row, data in kept.items():  # for the tests that come after this one
        (out / row / "scores.json").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"budget": {"steps": 5}}, "budget={'steps': 4, 'minutes': None}"),
        ({"settings": [*SHORT, "optim.lr_g=1e-3"]}, "optim.lr_g=0.0002 (got 0.001)"),
    ],
)
def test_a_row_that_was_begun_otherwise_is_refused(finished, change, told):
    path, out, _ = finished
    with pytest.raises(ConfigError) as caught:
        compare(load_comparison(path, **change))
    assert told in str(caught.value)
    assert str(out / "plain") in str(caught.value)


def test_several_processes_are_refused(finished, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="rows train on one device"):
        compare(load_comparison(finished[0]))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"shards": "nowhere"}, DataError, "nowhere: no such folder of shards"),
        ({"split": "dev"}, DataError, "no samples in split 'dev'"),
        ({"budget": {"steps": 4, "minutes": 1}}, ConfigError, "exactly one of steps and minutes"),
        ({"budgte": 1}, ConfigError, "unknown setting budgte"),
        ({"rows": []}, ConfigError, "rows: "),
        ({"rows": [{"name": "truth", "recipe": "recipe.yaml"}]}, ConfigError, "truth is not a model's name"),
        *(
            ({"rows": [{"name": name, "recipe": "recipe.yaml"}]}, ConfigError, f"or digit (got {name!r})")
            for name in ("../x", "..", "", "a/b", "A", "a\n", ".lock", "größe")
        ),
        *(
            ({"rows": [{"name": name, "recipe": "recipe.yaml"}]}, ConfigError, f"{name} is a file of")
            for name in ("comparison.md", "comparison.json", "grid.png", "comparison.json.tmp")
        ),
        ({"rows": [{"name": "a", "recipe": "recipe.yaml"}] * 2}, ConfigError, "two have the name a"),
        ({"rows": [{"name": "a", "recipe": "no.yaml"}]}, ConfigError, "/no.yaml: no such file"),
        ({"budget": {"minutes": 0}}, ConfigError, "budget.minutes: out of range, above 0, at most 10000000"),
        ({"budget": {"steps": 10**400}}, ConfigError, "budget.steps: out of range, at least 1"),
        ({"budget": {"minutes": "nan"}}, ConfigError, "budget.minutes: must be a finite number"),
        ({"out": "s3://bucket/x"}, ConfigError, "out: must be a folder of this machine"),
        ({"settings": ["data.batch=4", "data.batch=8"]}, ConfigError, "says again what data.batch=4 said"),
        ({"settings": ["run.keep=4"]}, ConfigError, "settings: run.keep=4: is decided by the comparison"),
        ({"settings": "data.batch=4"}, ConfigError, "settings: must be a list"),
    ],
)  # fmt: skip
def test_a_wrong_comparison_is_refused_before_anything_is_written(write_comparison, change, error, told):
    path = write_comparison(**change)
    with pytest.raises(error) as caught:
        load_comparison(path)
    assert told in str(caught.value)
    assert not (path.parent / "out").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        slow(["model.generator=unett"], "row last: model.generator: "),
        (["optim.lrg=1"], "did you mean optim.lr_g?"),
        slow(["data.size=64"], "differ in data.size (first 48, last 64)"),
        (["data.on_bad=substitute"], "differ in data.on_bad (first raise, last substitute)"),
        slow(["data.max_bad=7"], "differ in data.max_bad (first 100, last 7)"),
    ],
)
def test_a_mistake_in_the_last_recipe_is_found_before_the_first_one_trains(write_comparison, settings, told):
    rows = [{"name": "first", "recipe": "recipe.yaml"}]
    path = write_comparison(rows=[*rows, {"name": "last", "recipe": "recipe.yaml", "settings": settings}])
    with pytest.raises(ConfigError) as caught:
        load_comparison(path)
    assert told in str(caught.value)
    assert not (path.parent / "out").exists()


def test_rows_agree_in_all_that_the_scoring_takes_from_them():
    taken = {field.name for of in (Reading, Source) for field in fields(of)} & set(DataConfig.model_fields)
    comparison_s_own = {"shards", "workers", "gray"}  # scored from the luminance of the colour photo
    assert taken - comparison_s_own == set(SHARED)


def test_a_row_that_fails_is_named_and_the_others_go_on(write_comparison, monkeypatch, capsys):
    rows = [
        {"name": "diverges", "recipe": "recipe.yaml",
         "settings": ["loss.rec_weight=1e39", "run.max_bad_steps=2", "loss.gan_weight=0"]},
        {"name": "good", "recipe": "recipe.yaml", "settings": ["loss.gan_weight=0"]},
    ]  # fmt: skip
    path = write_comparison(rows=rows)
    monkeypatch.setattr(sys, "argv", ["streamgan", "compare", "--config", str(path)])
    from streamgan.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert told.err.splitlines()[-1].endswith(
        "1 of 2 rows failed (diverges); comparison.md says why; the same command tries them again"
    )
    result = json.loads((path.parent / "out" / "comparison.json").read_text())
    bad, good = result["rows"][2:]
    assert "not finite for 2 steps" in bad["error"]
    assert (good["error"], good["steps"]) == (None, 4)
    page = (path.parent / "out" / "comparison.md").read_text()
    assert "- diverges: " in page
    assert "| diverges (failed) |" in page


@pytest.mark.slow
def test_ctrl_c_in_a_row_ends_with_130_and_the_next_call_goes_on(write_comparison, monkeypatch):
    path = write_comparison()
    real, calls = compare_run.train, []

    def train(config):
        calls.append(config.run.dir)
        return {"stopped": True} if len(calls) == 2 else real(config)

    monkeypatch.setattr(compare_run, "train", train)
    with pytest.raises(KeyboardInterrupt):
        compare(load_comparison(path))
    scored = path.parent / "out" / "plain" / "scores.json"
    before = scored.stat().st_mtime_ns
    assert [row["steps"] for row in compare(load_comparison(path))["rows"][2:]] == [4, 4]
    assert scored.stat().st_mtime_ns == before
    assert [Path(name).name for name in calls] == ["plain", "as_published", "as_published"]


def test_a_schedule_keeps_its_shares_when_it_is_stretched():
    config = load_config(None, ["run.epochs=2", "loss.warmup_steps=900", "optim.warmup_steps=50",
                                "optim.decay_every=400", "optim.decay_after=200",
                                "optim.ema_half_life_images=5000", "run.validate_every=300"])  # fmt: skip
    short = stretch(config, 1200, 120)
    assert (short.run.steps, short.run.epochs, short.run.validate_every) == (120, None, 30)
    assert (short.loss.warmup_steps, short.loss.ramp_steps) == (90, None)  # None: a share already
    assert (short.optim.warmup_steps, short.optim.decay_every, short.optim.decay_after) == (5, 40, 20)
    assert short.optim.ema_half_life_images == 500
    assert gan_share(short, 120) == gan_share(config, 1200) == 0.25
    assert stretch(config, 1200, 1).optim.decay_every == 1


@pytest.mark.slow
def test_minutes_become_steps_by_the_measured_pace(write_comparison):
    path = write_comparison(budget={"minutes": 0.05}, rows=[{"name": "gan", "recipe": "recipe.yaml"}])
    (row,) = compare(load_comparison(path))["rows"][2:]
    plan = json.loads((path.parent / "out" / "gan" / "plan.json").read_text())
    assert plan["steps"] == row["steps"] == int(0.05 * 60 / plan["step_s"])
    assert not (path.parent / "out" / "gan" / "timing").exists()
    assert row["minutes"] == pytest.approx(0.05, rel=0.9)  # on a machine that does other things too


def test_both_phases_count_for_the_pace(shard_set, tmp_path, monkeypatch):
    config = load_config(None, [*SHORT, f"data.shards={shard_set}", f"run.dir={tmp_path}", "run.steps=10"])
    times = [(4, 90.0), (8, 1.0), (12, 1.0), (16, 5.0), (20, 90.0), (24, 3.0), (28, 3.0), (32, 8.0)]
    monkeypatch.setattr("streamgan.compare.plan.train", lambda _: {"stopped": False})
    monkeypatch.setattr("streamgan.compare.plan.step_times", lambda _: times)
    assert measure_step_s(config, gan_share=0.25) == pytest.approx(0.75 * 1 + 0.25 * 3)
    assert measure_step_s(config, gan_share=0.0) == 1.0


def test_minutes_of_a_run_are_those_of_its_steps(tmp_path):
    lines = [
        {"step": 2, "perf/step_ms": 60_000},
        {"step": 2, "val/psnr": 1},
        {"step": 5, "perf/step_ms": 20_000},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert step_times(tmp_path) == [(2, 60.0), (5, 20.0)]
    assert training_minutes(tmp_path) == pytest.approx(3.0)


def test_a_new_score_gets_a_column_without_a_line_of_code():
    row = {
        "name": "a",
        "kind": "model",
        "parameters": 1,
        "steps": 1,
        "images": 1,
        "minutes": 1.0,
        "error": None,
    }
    rows = [{**row, "scores": {"loss": 1.0, "fid": 12.5, "psnr": 23.0, "lpips": None}}]
    assert score_columns(rows) == ["psnr", "fid", "lpips"]
    page = markdown({"rows": rows, "budget": "b", "protocol": "p", "shards": "s", "shards_digest": "d"})
    assert "| PSNR | fid | lpips |" in page
    assert "| 23.00 | 12.50 | - |" in page


def test_the_legacy_metric_is_that_of_the_range_bug():
    truth = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    perfect, black = truth / 255, torch.zeros(6, 3, 16, 16)
    for pred, square in ((perfect, (1 - truth / 255) ** 2), (black, (2 * (truth / 255) - 1) ** 2)):
        metric = LegacyPsnr()
        metric.update(pred[:4], truth[:4])
        metric.update(pred[2:], truth[2:], torch.arange(4) >= 2)
        expected = -10 * torch.log10(square.mean())
        assert metric.compute() == pytest.approx(expected.item(), abs=1e-4)
    with pytest.raises(DataError, match="no image"):
        LegacyPsnr().compute()


@pytest.mark.slow
def test_a_comparison_killed_in_a_row_goes_on_in_it_to_the_same_bits(write_comparison):
    whole, killed = (write_comparison(budget={"steps": 30}).parent / name for name in ("whole", "killed"))
    path = whole.parent / "compare.yaml"
    expected = compare(load_comparison(path, out=str(whole)))
    command = [sys.executable, "-m", "streamgan.cli", "compare", "-c", str(path), "--out", str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr
    rows = 0
    for line in process.stderr:
        rows += line.startswith("row ")
        if rows == 2 and line.startswith("step 16/"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    scored = (killed / "plain" / "scores.json").stat().st_mtime_ns
    newest = list_checkpoints(killed / "as_published")[-1].step
    assert 9 <= newest < 30
    result = compare(load_comparison(path, out=str(killed)))
    assert (killed / "plain" / "scores.json").stat().st_mtime_ns == scored
    assert [row["scores"] for row in result["rows"]] == [row["scores"] for row in expected["rows"]]
    assert losses(killed / "as_published") == losses(whole / "as_published")
