"""An encoder that knows something: its own learning rate, none at all, and its batch norm as it came."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from training import settings

from streamgan.core.config import load_config
from streamgan.core.errors import CheckpointError, ConfigError
from streamgan.train import build
from streamgan.train.build import check_models
from streamgan.train.checkpoint import load_file
from streamgan.train.loop import train
from streamgan.train.schedule import set_learning_rates
from streamgan.train.terms import build_losses

SMALL = ("run.steps=10", "data.size=32", "model.generator=resnet18_unet", "model.width=4", "model.norm=batch")


def make(*more: str):
    config = load_config(None, [*SMALL, "loss.gan_weight=0", *more])
    return config, build.build_networks(config, Accelerator(cpu=True))


def moved(*more: str) -> dict[str, torch.Tensor]:
    """How far each tensor of the generator goes in three steps, relative to the rate of the decoder, 0.01."""
    config, networks = make(*more, "optim.lr_g=0.01")
    before = {name: tensor.clone() for name, tensor in networks.plain_generator.state_dict().items()}
    train_step = build.build_step(config, Accelerator(cpu=True), networks, build_losses(config))
    color = torch.randint(
        0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for step in range(3):
        set_learning_rates(networks, config, step, 3)
        train_step(color, None, step=step, adversarial_weight=0)
    after = networks.plain_generator.state_dict()
    return {name: (after[name] - tensor).abs().max() / 0.03 for name, tensor in before.items()}


def test_the_encoder_has_a_learning_rate_of_its_own():
    whole, tenth = moved(), moved("optim.lr_encoder=0.001")
    weight, decoder = "encoder.layer1.0.conv1.weight", "ups.0.conv.weight"
    assert 0.3 < whole[weight] <= 1.01  # AdamW's steps are about the learning rate
    assert 0.03 < tenth[weight] <= 0.101
    assert 0.3 < tenth[decoder] <= 1.01


def test_an_encoder_without_a_learning_rate_stays_as_it_is_but_for_its_statistics():
    frozen = moved("optim.lr_encoder=0")
    inside = {name: change for name, change in frozen.items() if name.startswith("encoder.")}
    statistics = {name for name in inside if "running_" in name or "num_batches" in name}
    assert statistics
    assert all((inside[name] > 0) == (name in statistics) for name in inside)
    assert frozen["ups.0.conv.weight"] > 0
    frozen = moved("optim.lr_encoder=0", "optim.freeze_norm=true")
    assert not any(change for name, change in frozen.items() if name.startswith("encoder."))


def test_a_frozen_norm_keeps_its_statistics_and_learns_its_scale():
    change = moved("optim.freeze_norm=true")
    assert change["encoder.layer1.0.bn1.running_mean"] == 0
    assert change["encoder.layer1.0.bn1.weight"] > 0
    assert any(change[name] > 0 for name in change if name.startswith("ups.") and "running_mean" in name)


@pytest.mark.parametrize("setting", ["optim.lr_encoder=0", "optim.freeze_norm=true"])
def test_a_generator_without_an_encoder_of_its_own_refuses(setting):
    config = load_config(None, ["run.steps=1", "model.generator=unet", setting])
    with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: unet has no encoder"):
        check_models(config)


@pytest.mark.parametrize(
    "words",
    [
        ["model.generator=resnet18_unet", "model.norm=group"],
        ["model.generator=ddcolor"],
        ["model.generator=timm_unet", "model.variant=convnext_atto"],
    ],
)
def test_a_norm_is_not_frozen_where_there_is_none_of_batches(words):
    with pytest.raises(ConfigError, match=r"optim\.freeze_norm: \w+ has no encoder with batch norm"):
        check_models(load_config(None, ["run.steps=1", "optim.freeze_norm=true", *words]))


def test_the_encoder_of_koalarization_is_what_pretrained_weights_are_for():
    words = ["model.generator=koalarization", "optim.lr_encoder=0", "optim.freeze_norm=true"]
    config = load_config(None, ["run.steps=1", "model.width=4", "loss.gan_weight=0", *words])
    generator = build.build_networks(config, Accelerator(cpu=True)).plain_generator
    learning = {name.partition(".")[0] for name, one in generator.named_parameters() if one.requires_grad}
    assert learning == {"encoder", "fusion", "decoder", "last"}
    assert not generator.embedder.bn1.training
    frozen = [*words, "model.variant=published", "model.pretrained=true"]
    with pytest.raises(ConfigError, match=r"optim\.lr_encoder: koalarization has no encoder that learns"):
        check_models(load_config(None, ["run.steps=1", *frozen]))


def test_threads_are_those_of_the_settings_beside_a_gpu_too(monkeypatch):
    card = SimpleNamespace(num_processes=1, device=torch.device("cuda"), mixed_precision="bf16")
    monkeypatch.setattr(build, "Accelerator", lambda **_: card)
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    for words in ([], ["run.threads=3"]):
        build.start_accelerator(load_config(None, ["run.steps=1", *words]))
    assert chosen == [3]


def test_a_run_goes_on_with_the_rates_that_it_has(shard_set, tmp_path):
    words = settings(
        shard_set, tmp_path, "model.generator=resnet18_unet", "model.norm=batch", "loss.gan_weight=0"
    )
    words = [word for word in words if not word.startswith("model.depth")]
    apart = [*words, "optim.lr_encoder=1e-5", "optim.freeze_norm=true"]
    assert train(load_config(None, [*apart, "run.steps=2"]))["steps"] == 2
    assert train(load_config(None, [*apart, "run.steps=4"]))["steps"] == 4
    with pytest.raises(
        CheckpointError, match=r"has 2 learning rates, that of this run has 1; set optim\.lr_encoder"
    ):
        train(load_config(None, [*words, "run.steps=6"]), allow_changed=True)


def test_a_frozen_norm_stays_so_after_a_grid_of_samples(shard_set, tmp_path):
    words = settings(
        shard_set, tmp_path, "model.generator=resnet18_unet", "model.norm=batch", "loss.gan_weight=0"
    )
    words = [word for word in words if not word.startswith("model.depth")]
    train(load_config(None, [*words, "optim.freeze_norm=true", "run.sample_every=1", "run.steps=2"]))
    weights = load_file(tmp_path / "checkpoints" / "step-00000002" / "generator.safetensors")
    moved = {name for name, one in weights.items() if name.endswith("running_mean") and one.any()}
    assert moved == {f"ups.{index}.norm.running_mean" for index in range(4)}


def test_learning_rates_of_other_tensors_are_one_line(shard_set, tmp_path, monkeypatch):
    """As a run of koalarization has them from before, when its rates were those of its `encoder`."""
    words = ["model.generator=koalarization", "model.norm=null", "loss.gan_weight=0", "optim.lr_encoder=1e-5"]
    words = [word for word in settings(shard_set, tmp_path, *words) if not word.startswith("model.depth")]
    with monkeypatch.context() as before:
        before.setattr(build, "_encoder", lambda generator: generator.encoder)
        train(load_config(None, [*words, "run.steps=1"]))
    with pytest.raises(
        CheckpointError, match=r"learning rates are for \[\d+, 16\] tensors.*set optim\.lr_enc"
    ):
        train(load_config(None, [*words, "run.steps=2"]))
