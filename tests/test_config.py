"""Configuration: YAML, then KEY=VALUE; every mistake at once, and the nearest name for an unknown one."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamgan.cli.train import describe_settings
from streamgan.core.config import (
    DataConfig,
    RunConfig,
    TrainConfig,
    dump_yaml,
    load_config,
    setting_names,
)
from streamgan.core.errors import ConfigError


def message(*overrides: str, path=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("optim.lrg", "optim.lr_g"),
        ("data.bach", "data.batch"),
        ("optm.lr_g", "optim"),
        ("loss.gan_wieght", "loss.gan_weight"),
        ("model.with", "model.width"),
    ],
)
def test_an_unknown_setting_names_the_nearest_one(wrong, right):
    text = message("run.steps=1", f"{wrong}=1")
    unknown = wrong.split(".")[0] if right == "optim" else wrong
    assert f"unknown setting {unknown} (did you mean {right}?)" in text


def test_a_setting_like_no_other_gets_no_guess():
    assert message("run.steps=1", "data.qqqqqqqq=1").count("did you mean") == 0


def test_all_mistakes_are_told_at_once():
    text = message(
        "run.steps=1", "data.size=3", "data.bach=2", "optim.lr_d=-1", "model.head=hsv", "foo.bar=1"
    )
    for part in ("data.size", "got 3", "data.bach", "optim.lr_d", "model.head", "'hsv'", "foo"):
        assert part in text


def test_a_file_is_read_and_overrides_win(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {batch: 32, size: 64}\nrun:\n  epochs: 3\n")
    config = load_config(path, ["data.batch=48", "optim.betas=[0.9, 0.99]", "data.lanes=null"])
    assert (config.data.batch, config.data.size, config.run.epochs) == (48, 64, 3)
    assert config.optim.betas == (0.9, 0.99)
    assert config.data.lanes is None


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_numbers_may_be_written_as_people_write_them(tmp_path, text):
    """YAML 1.1 takes `1e-4` for a string."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"optim: {{lr_d: {text}}}\n")
    config = load_config(path, ["run.steps=1", f"optim.lr_g={text}"])
    assert config.optim.lr_g == config.optim.lr_d == 1e-4


def test_a_value_may_hold_an_equals_sign():
    assert load_config(None, ["run.steps=1", "run.dir=runs/a=b"]).run.dir == "runs/a=b"


@pytest.mark.parametrize("override", ["batch=3", "data.batch", "=3", "data.=3", "data"])
def test_an_override_of_another_form_is_refused(override):
    assert message("run.steps=1", override).startswith(f"{override}: is not SECTION.KEY=VALUE")


def test_an_override_that_is_no_yaml_is_refused():
    assert message("run.steps=1", "optim.betas=[0.1") == "optim.betas=[0.1: the value is not YAML; quote it"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("data: [", "not readable as YAML"),
        ("- 1\n- 2\n", "holds a list"),
        ("just words", "holds a str"),
        ("data: 5\n", "data"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path, text, what):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    found = message("run.steps=1", path=path)
    assert found.startswith(str(path))
    assert what in found


def test_a_section_that_is_none_cannot_be_overridden(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: 5\n")
    assert "'data' is not a section" in message("run.steps=1", "data.batch=2", path=path)


def test_a_missing_or_binary_file_is_refused_by_name(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, what in [
        (tmp_path / "no.yaml", "no such file"),
        (binary, "not readable"),
        (tmp_path, "not read"),
    ]:
        assert message("run.steps=1", path=path).startswith(f"{path}: {what}")


def test_a_run_has_exactly_one_length(tmp_path):
    assert "exactly one of run.steps and run.epochs" in message()
    path = tmp_path / "both.yaml"
    path.write_text("run: {steps: 3, epochs: 4}\n")
    assert "exactly one of run.steps and run.epochs" in message(path=path)


def test_the_last_word_on_the_length_replaces_the_earlier_one(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("run: {epochs: 4}\n")
    for overrides, expected in [
        (["run.steps=7"], (7, None)),
        (["run.steps=7", "run.epochs=2"], (None, 2)),
        (["run.epochs=2", "run.steps=7"], (7, None)),
        (["run.epochs=9"], (None, 9)),
    ]:
        run = load_config(path, overrides).run
        assert (run.steps, run.epochs) == expected


@pytest.mark.parametrize(
    "override",
    [
        "data.batch=0",
        "data.size=15",
        "data.size=1e3.5",
        "data.workers=-1",
        "data.gray=maybe",
        "optim.lr_g=0",
        "optim.lr_g=.nan",
        "optim.lr_g=.inf",
        "optim.betas=[0.9]",
        "optim.betas=[0.9, 1.0]",
        "optim.betas=[-0.1, 0.9]",
        "loss.gan_weight=-0.1",
        "loss.rec_weight=.inf",
        "run.seed=-1",
        "run.keep=0",
        "run.dir=null",
    ],
)
def test_a_value_out_of_range_is_refused_with_what_was_given(override):
    text = message("run.steps=1", override)
    assert override.split("=")[0] in text
    assert "got" in text


def test_a_configuration_cannot_be_changed():
    config = load_config(None, ["run.steps=1"])
    with pytest.raises(ValidationError, match="frozen"):
        config.data.batch = 3


CONFIGS = st.builds(
    TrainConfig,
    data=st.builds(
        DataConfig,
        shards=st.text(min_size=1, max_size=20),
        batch=st.integers(1, 4096),
        lanes=st.none() | st.integers(1, 24),
        max_samples=st.none() | st.integers(1, 10**9),
    ),
    run=st.builds(
        RunConfig, steps=st.integers(1, 10**9), epochs=st.none(), dir=st.text(min_size=1), seed=st.integers(0)
    ),
)


@settings(max_examples=40)
@given(CONFIGS)
def test_a_written_configuration_reads_back_equal(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(path) == config
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_a_written_configuration_holds_every_setting():
    tree = yaml.safe_load(dump_yaml(load_config(None, ["run.steps=1"])))
    assert {f"{section}.{key}" for section in tree for key in tree[section]} == set(setting_names())


def test_every_setting_is_described_with_its_default():
    text, rows = describe_settings()
    assert {row["name"] for row in rows} == set(setting_names())
    assert [row["name"] for row in rows if not row["meaning"]] == []
    assert "data.batch = 16\n    GLOBAL batch" in text
