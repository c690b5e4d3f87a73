"""An encoder that knows something: its own learning rate, none at all, and its batch norm as it came."""

import pytest
import torch
from accelerate import Accelerator
from training import settings

from streamgan.core.config import load_config
from streamgan.core.errors import CheckpointError, ConfigError
from streamgan.train import build
from streamgan.train.build import check_models
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
