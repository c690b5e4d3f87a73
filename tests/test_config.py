"""Configuration: YAML, then KEY=VALUE; every mistake at once, and the nearest name for an unknown one."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamgan.cli.train import describe_settings
from streamgan.core.config import dump_yaml, load_config, may_change, refuse_twice, setting_names
from streamgan.core.errors import ConfigError
from streamgan.core.inert import without_effect
from streamgan.core.setting_types import ShardSet
from streamgan.core.settings import DataConfig, RunConfig, TrainConfig


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
        ("~nobody of this name/a.yaml", "no such file"),
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


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.depth=400", "model.depth: out of range, at least 1, at most 100 (got 400)"),
        ("model.width=1000000", "model.width: out of range, at least 1, at most 8192 (got 1000000)"),
        (f"data.size={10**400}", "data.size: out of range, at least 16, at most 4096 (got '1"),
        (f"run.seed={10**400}", "run.seed: out of range, at least 0, below 9223372036854775808 (got '1"),
        (f"run.seed={'9' * 5000}", "run.seed: must be a whole number, at least 0"),
        ("data.cache_gb=nan", "data.cache_gb: must be a finite number, above 0, at most 1e+09 (got nan)"),
        ("data.cache_gb=inf", "data.cache_gb: must be a finite number"),
        ("data.stall_s=1e30", "data.stall_s: out of range, above 0, at most 1000000 (got 1e30)"),
        ("optim.lr_g=inf", "optim.lr_g: must be a finite number, above 0"),
        ("loss.gan_weight=nan", "loss.gan_weight: must be a finite number, at least 0"),
        ("data.batch=true", "data.batch: must be a whole number, at least 1, at most 1000000 (got 'true')"),
        ("optim.lr_g=yes", "optim.lr_g: must be a number, above 0 (got 'yes')"),
        ("run.log_every=1.5", "run.log_every: must be a whole number, at least 1"),
        ("optim.betas=0.5", "optim.betas: must be a list (got 0.5)"),
        ("optim.betas=[0, 0, 0]", "optim.betas: must be a list of at most 2 values (got ['0', '0', '0'])"),
        ("optim.betas=[0.5]", "optim.betas.1 is missing (got ['0.5'])"),
        ("data.shards=[{path: a, weigth: 1}]", "unknown setting data.shards.0.weigth"),
        ("data.shards=[{weight: -1}]", "data.shards.0.path is missing, data.shards.0.weight: out of range"),
        ("data.shards=[]", "data.shards: must name at least one shard set"),
        ("run.dir=s3://bucket/run", "run.dir: must be a folder of this machine, not an address"),
        ("data.cache=s3://bucket/run", "data.cache: must be a folder of this machine, not an address"),
        ('run.dir="a\\0b"', "run.dir: must not hold a NUL character"),
        ("run.dir=\udcff", "run.dir: must be a valid string"),
        ("run.compile=maybe", "run.compile: must be true or false"),
        ("lr_g=1", "lr_g=1: is not SECTION.KEY=VALUE (did you mean optim.lr_g?)"),
        ("optim.lrg", "optim.lrg: is not SECTION.KEY=VALUE (did you mean optim.lr_g?)"),
    ],
)
def test_nonsense_is_one_line_with_the_setting_and_its_range(override, told):
    text = message("run.steps=1", override)
    assert told in text
    assert len(text) < 250
    for internal in ("tuple[", "Input", "constrained", "function-", "pydantic", "ShardSet"):
        assert internal not in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("run: {steps: 1}\nrun: {seed: 2}", "line 2: run is there twice"),
        ("run:\n  steps: 1\n  seed: 2\n  steps: 3", "line 4: steps is there twice"),
        ("run: {<<: {seed: 1, seed: 2}, steps: 1}", "line 1: seed is there twice"),
        ("run:\n\tsteps: 1", "line 2: while scanning for the next token found character '\\t'"),
        ("run: {steps: 1}\n\0", "line 2: special characters are not allowed"),
        (b"run:\n  steps: 1\n  dir: caf\xe9", "line 3: "),
        ("run: {steps: 1}\n---\nrun: {steps: 2}", "line 2: expected a single document"),
        ("run: {steps: !!python/object:os.system 1}", "line 1: could not determine a constructor"),
        ("[" * 1200, "nested too deep"),
        ("run: {steps: !!bool x}", "a value is not what its tag says"),
        ("run: {steps: !!timestamp x}", "a value is not what its tag says"),
        ("run: {steps: !!int ''}", "a value is not what its tag says"),
        ("run: {steps: 1:30}", "run.steps: must be a whole number, at least 1"),
        ("run: {steps: 1, seed: 2024-01-01}", "run.seed: must be a whole number"),
        ("run: &r {steps: *r}", "run.steps: must be a whole number"),
        ("", "give exactly one of run.steps and run.epochs"),
    ],
)
def test_yaml_that_cannot_mean_a_configuration_is_refused_by_line_or_name(tmp_path, text, told):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert told in message(path=path)


@pytest.mark.parametrize(
    ("text", "setting", "value"),
    [
        ("run: {steps: 0100}", "run.steps", 100),
        ("run: {steps: 1, dir: 0100}", "run.dir", "0100"),
        ("run: {steps: 1, dir: 2024}", "run.dir", "2024"),
        ("run: {steps: 1, dir: 2024.10}", "run.dir", "2024.10"),
        ("run: {steps: 1, dir: 2024-01-01}", "run.dir", "2024-01-01"),
        ("run: {steps: 1, dir: 1:30}", "run.dir", "1:30"),
        ("run: {steps: 1, dir: no}", "run.dir", "no"),
        ("run: {steps: 1, dir: 'null'}", "run.dir", "null"),
        ("run: {steps: 1, compile: yes}", "run.compile", True),
        ("run: {steps: 1, channels_last: off}", "run.channels_last", False),
        ("run: {steps: 1}\nmodel: {pretrained: yes}", "model.pretrained", True),
        ("run: {steps: 1}\noptim: {lr_g: 1e-4}", "optim.lr_g", 1e-4),
        ("run: {steps: 1}\noptim:\n", "optim.lr_g", 2e-4),
        ("run: {<<: {steps: 7, seed: 3}, seed: 4}", "run.seed", 4),
        ("run: {steps: 1}\noptim: {lr_g: &rate 3e-4, lr_d: *rate}", "optim.lr_d", 3e-4),
        ("\ufeffrun: {steps: 3}", "run.steps", 3),
        ("run: {steps: 1, dir: ~/runs/a}", "run.dir", "/home/me/runs/a"),
        ("run: {steps: 1}\ndata: {shards: [{path: ~/a}]}", "data.shards", (ShardSet(path="/home/me/a"),)),
    ],
)
def test_yaml_means_what_is_written(tmp_path, monkeypatch, text, setting, value):
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    section, name = setting.split(".")
    assert getattr(getattr(load_config(path), section), name) == value


def test_a_file_of_windows_in_utf_16_is_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("run: {steps: 3}\n", encoding="utf-16")
    assert load_config(path).run.steps == 3


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.dir=2024", "2024"),
        ("run.dir=my runs #3", "my runs #3"),
        ("run.dir=a: b", "a: b"),
        ("run.dir='null'", "null"),
        ("run.dir=~/a", "/home/me/a"),
        ("run.init_from=~/a", "/home/me/a"),
        ("run.init_from=null", None),
        ("model.pretrained=~/w.pth", "/home/me/w.pth"),
        ("model.pretrained=false", False),
        ("loss.perceptual_file=~/w.pth", "/home/me/w.pth"),
        ("data.shards=~/a", "/home/me/a"),
        ("data.shards=hf://datasets/~a", "hf://datasets/~a"),
    ],
)
def test_a_value_on_the_command_line_is_what_was_typed(monkeypatch, override, value):
    monkeypatch.setenv("HOME", "/home/me")
    section, name = override.partition("=")[0].split(".")
    assert getattr(getattr(load_config(None, ["run.steps=1", override]), section), name) == value


def test_no_cache_is_written_as_people_write_it():
    assert load_config(None, ["run.steps=1", "data.cache=None"]).data.cache == "none"


@pytest.mark.parametrize("again", ["optim.lr_g=2", "run.epochs=3", "run.steps=1"])
def test_a_setting_that_is_said_twice_is_refused(again):
    with pytest.raises(ConfigError, match="says again what"):
        refuse_twice(["run.steps=1", "optim.lr_g=1", again])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["loss.gp_weight=5"], ["loss.gp_weight (only with loss.gan=wgan)"]),
        (["loss.gp_weight=5", "loss.gan=wgan"], []),
        (["loss.r1_every=4"], ["loss.r1_every (only with loss.r1_weight)"]),
        (["loss.r1_every=4", "loss.r1_weight=1"], []),
        (["optim.decay=0.1"], ["optim.decay (only with optim.schedule=step)"]),
        (["optim.decay=0.1", "optim.schedule=step"], []),
        (["optim.decay_after=5"], ["optim.decay_after (only with an optim.schedule other than constant)"]),
        (["optim.decay_after=5", "optim.schedule=linear"], []),
        (
            ["loss.real_saturation=1.2"],
            ["loss.real_saturation (only with loss.perceptual_weight or loss.judge=photo)"],
        ),
        (["loss.real_saturation=1.2", "loss.judge=photo"], []),
        (["loss.gan_weight=0", "loss.judge=photo"], ["loss.judge (only with loss.gan_weight)"]),
        (["data.workers=0", "data.stall_s=3"], ["data.stall_s (only with data.workers)"]),
        (["data.cache=/d"], ["data.cache (only with shards at an address)"]),
        (["data.cache_gb=1"], ["data.cache_gb (only with shards at an address and a data.cache)"]),
        (["data.shards=s3://a/b", "data.cache=/d", "data.cache_gb=1"], []),
        (["data.shards=[{path: a}, {path: hf://datasets/a/b/c}]", "data.cache=/d"], []),
        (["data.max_bad=5"], ["data.max_bad (only with data.on_bad=substitute)"]),
        (["loss.gan_weight=0", "optim.lr_d=1"], ["optim.lr_d (only with loss.gan_weight)"]),
        (["optim.lr_d=1"], []),
        (
            ["model.pretrained=true", "run.init_from=ready"],
            ["model.pretrained (only with new networks, without run.init_from)"],
        ),
        (["model.pretrained=true"], []),
        ([], []),
    ],
)
def test_a_setting_that_another_switches_off_is_named(words, told):
    assert without_effect(load_config(None, ["run.steps=1", *words])) == told


def test_a_run_without_any_loss_of_the_generator_is_refused():
    words = ["run.steps=1", "loss.rec_weight=0", "loss.gan_weight=0", "loss.r1_weight=1"]
    with pytest.raises(ConfigError, match="no loss of the generator has a weight above 0"):
        load_config(None, words)
    assert load_config(None, [*words, "loss.colourfulness_weight=1"]).loss.rec_weight == 0


def test_a_configuration_cannot_be_changed():
    config = load_config(None, ["run.steps=1"])
    with pytest.raises(ValidationError, match="frozen"):
        config.data.batch = 3


TEXT = st.text(st.characters(exclude_characters="\0~:", exclude_categories=["Cs"]), min_size=1, max_size=20)
CONFIGS = st.builds(
    TrainConfig,
    data=st.builds(
        DataConfig,
        shards=TEXT,
        batch=st.integers(1, 4096),
        lanes=st.none() | st.integers(1, 24),
        max_samples=st.none() | st.integers(1, 10**9),
    ),
    run=st.builds(
        RunConfig,
        steps=st.integers(1, 10**9),
        epochs=st.none(),
        dir=TEXT.filter(lambda text: "://" not in text),
        seed=st.integers(0, 2**63 - 1),
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


def test_a_setting_says_beside_itself_whether_a_run_may_continue_with_another_value():
    assert "data.batch" in setting_names()
    assert {name for name in setting_names() if may_change(name)} == {
        "data.shards", "data.workers", "data.on_bad", "data.max_bad", "data.stall_s", "data.cache",
        "data.cache_gb", "run.dir", "run.steps", "run.epochs", "run.log_every", "run.validate_every",
        "run.validate_images", "run.sample_every", "run.sample_images", "run.checkpoint_every", "run.keep",
        "run.keep_every", "run.patience", "run.init_from", "run.max_bad_steps", "run.threads",
        "run.timeout_s", "run.profile_steps", "run.compile", "run.cuda_graphs",
    }  # fmt: skip
