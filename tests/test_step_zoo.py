"""The GAN step over the zoo: every generator, discriminator and loss, on the meta device and for real."""

import copy
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from marks import slow
from test_models import SMALL
from torch.utils._python_dispatch import TorchDispatchMode
from training import losses as read_losses
from training import tiny_config

from streamgan.core.color import HEADS
from streamgan.core.config import load_config
from streamgan.core.errors import CheckpointError, ConfigError
from streamgan.losses import RECONSTRUCTION, PerceptualLoss
from streamgan.models import GENERATORS
from streamgan.train import build, terms
from streamgan.train.checkpoint import list_checkpoints
from streamgan.train.loop import train
from streamgan.train.networks import EmaUpdate, Networks, ema_copy
from streamgan.train.step import GanStep
from streamgan.train.terms import Term, build_losses


def options(generator: str) -> list[str]:
    """KEY=VALUE words of a small generator of this name, with a loss that it has."""
    small = [f"model.{key}={value}" for key, value in SMALL[generator].items()]
    return [f"model.generator={generator}", *small, "model.d_width=4", "model.norm=group"]


class MetaAccelerator:
    """What the step asks of accelerate, without its move to a real device."""

    process_index, scaler = 0, None

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def no_sync(self, module: torch.nn.Module):
        return nullcontext()

    def autocast(self):
        return nullcontext()

    def unscale_gradients(self, optimizer) -> None: ...


class MetaOptimizer:
    """AdamW; only the fused one, which has no meta kernel, takes `found_inf`."""

    found_inf = None

    def __init__(self, parameters):
        self._parameters = list(parameters)
        self._adam = torch.optim.AdamW(self._parameters)
        self.zero_grad = self._adam.zero_grad

    def step(self) -> None:
        assert self.found_inf is not None
        assert self.found_inf.is_meta
        # A parameter without gradient is one that DDP would wait for, or have to look for.
        assert all(parameter.grad is not None for parameter in self._parameters)
        self._adam.step()


class NoWaiting(TorchDispatchMode):
    """Copies from the CPU have to be asynchronous: others make the host wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket is torch.ops.aten._to_copy and args[0].device.type == "cpu":
            target = kwargs.get("device") or args[0].device
            assert target.type == "cpu" or kwargs.get("non_blocking"), "a blocking copy to the device"
        return func(*args, **kwargs)


def meta_step(*words: str, accumulate: int = 1, train_generator: bool = True) -> dict[str, torch.Tensor]:
    """One whole step where every tensor is on the meta device: a value read or left on the CPU raises."""
    config = load_config(None, ["run.steps=1", *words])
    with torch.device("meta"):
        generator = build._build_generator(config)
        discriminator = build._build_discriminator(config)
        chosen = build_losses(config)
    networks = Networks(
        generator, generator, ema_copy(generator), MetaOptimizer(generator.parameters()),
        discriminator, discriminator, MetaOptimizer(discriminator.parameters()),
    )  # fmt: skip
    train_step = GanStep(
        MetaAccelerator(), networks, build.build_head(config), chosen,
        seed=0, accumulate=accumulate, clip_g=1.0, clip_d=1.0,
    )  # fmt: skip
    color = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device="meta")
    with NoWaiting():
        scalars = train_step(color, None, step=0, adversarial_weight=0.1, train_generator=train_generator)
    EmaUpdate(networks.ema, generator)(0.9)
    assert {value.device.type for value in scalars.values()} == {"meta"}
    assert all(parameter.is_meta for parameter in networks.ema.parameters())
    return scalars


def test_a_step_walks_over_no_modules_and_looks_for_no_packages(monkeypatch, fresh_accelerator):
    config = load_config(
        None, ["run.steps=1", "data.size=32", "model.depth=3", "model.width=8", "model.d_width=8"]
    )
    accelerator = build.start_accelerator(config)
    networks = build.build_networks(config, accelerator)
    train_step = build.build_step(config, accelerator, networks, build_losses(config))
    move_average = EmaUpdate(networks.ema, networks.plain_generator)
    color = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    train_step(color, None, step=0, adversarial_weight=0.1)
    forbidden = []
    monkeypatch.setattr(
        torch.nn.Module, "named_modules", lambda *_, **__: forbidden.append("walk") or iter(())
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: forbidden.append("package"))
    train_step(color, None, step=1, adversarial_weight=0.1)
    move_average(0.9)
    assert forbidden == []


ALL = {"g_total", "g_rec", "g_log_mse", "g_adv", "g_perc", "g_cf", "d_total", "d_real", "d_fake", "r1", "gp"}
EVERY_LOSS = [
    "loss.gan=wgan", "loss.r1_weight=1", "loss.perceptual_weight=1", "loss.perceptual=vgg16",
    "loss.colourfulness_weight=1", "loss.log_mse_weight=1",
]  # fmt: skip


PAIRS = [(name, "l1") for name in GENERATORS] + [("zhang", "cross_entropy")]
PAIRS += [("unet", rec) for rec in RECONSTRUCTION if rec != "l1"]


@pytest.mark.parametrize(
    ("generator", "rec"),
    [pair if pair == ("unet", "l1") else slow(*pair) for pair in PAIRS],
)
def test_a_whole_step_of_every_generator_with_every_loss_runs_on_meta(generator, rec):
    words = [*options(generator), *EVERY_LOSS, f"loss.rec={rec}"]
    scalars = meta_step(*words, accumulate=2 if rec == "mse" else 1)
    assert scalars.keys() >= {f"loss/{tag}" for tag in ALL}


@pytest.mark.parametrize("generator", [name if name == "unet" else slow(name) for name in GENERATORS])
def test_a_step_of_the_discriminator_alone_runs_on_meta(generator):
    scalars = meta_step(*options(generator), "loss.gan=wgan", train_generator=False)
    assert "loss/gp" in scalars
    assert "loss/g_total" not in scalars


MISTAKES = [
    ("item.* meta tensors", lambda made, real: made.sub(real).abs().mean() / made.max().item()),
    ("item.* meta tensors", lambda made, real: made.mean() if made.mean() > 0 else real.mean()),
    ("on device cpu", lambda made, real: (made.sub(real).abs() * torch.ones(1, 2, 32, 32)).mean()),
    ("blocking copy", lambda made, real: made.sub(real).abs().mean() * torch.ones(()).to(made.device)),
]


@pytest.mark.parametrize(
    ("message", "mistake"),
    [MISTAKES[0], slow(*MISTAKES[1]), slow(*MISTAKES[2]), MISTAKES[3]],
    ids=["item", "bool", "CPU tensor", "copy"],
)
def test_the_meta_device_finds_what_would_stop_a_gpu(message, mistake, monkeypatch):
    monkeypatch.setitem(RECONSTRUCTION, "l1", mistake)
    with pytest.raises((RuntimeError, AssertionError), match=message):
        meta_step(*options("unet"))


def real_step(config, networks, chosen, *, number: int = 0, weight: float = 0.1, accumulate: int = 1):
    generator = torch.Generator().manual_seed(5)
    color = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    head, accelerator = build.build_head(config), Accelerator(cpu=True)
    train_step = GanStep(accelerator, networks, head, chosen, seed=0, accumulate=accumulate)
    return train_step(color, None, step=number, adversarial_weight=weight)


def make(*words: str):
    config = load_config(None, ["run.steps=1", *words])
    return config, build.build_networks(config, Accelerator(cpu=True))


def test_the_total_of_the_generator_is_the_weighted_sum_of_its_losses():
    weights = ["loss.rec_weight=3", "loss.colourfulness_weight=0.5", "loss.log_mse_weight=0.2"]
    config, networks = make(*options("unet"), *weights)
    torch.nn.init.normal_(networks.plain_generator.last.weight, 0, 0.1)
    chosen = build_losses(config)
    small = torch.nn.Conv2d(3, 2, 3).requires_grad_(False)
    distance = lambda made: (small(made.photo_B3HW) - small(made.real.photo_B3HW)).abs().mean()  # noqa: E731
    chosen = replace(chosen, terms=(*chosen.terms, Term("loss/g_perc", 0.25, distance)))
    s = real_step(config, networks, chosen)
    shares = {"g_rec": 3, "g_log_mse": 0.2, "g_perc": 0.25, "g_cf": 0.5, "g_adv": 0.1}
    total = sum(weight * s[f"loss/{tag}"] for tag, weight in shares.items())
    torch.testing.assert_close(s["loss/g_total"], total)
    assert min(s[f"loss/{tag}"].abs() for tag in shares) > 1e-3


def test_a_new_loss_is_a_term_that_is_logged_and_moves_the_generator():
    gradients, moved = [], []
    for weight in (0.0, 5.0):
        config, networks = make(*options("unet"))
        bias = networks.plain_generator.last.bias
        bias.register_hook(lambda gradient: gradients.append(gradient.clone()))
        reddish = Term("loss/g_red", weight, lambda made: -made.output_BCHW[:, 0].mean())
        chosen = build_losses(config)
        s = real_step(config, networks, replace(chosen, terms=(*chosen.terms, reddish)), weight=0)
        torch.testing.assert_close(s["loss/g_total"], s["loss/g_rec"] + weight * s["loss/g_red"])
        moved.append(bias[0].item())
    torch.testing.assert_close(gradients[1] - gradients[0], torch.tensor([-5.0, 0.0]), atol=1e-5, rtol=0)
    assert moved[1] > moved[0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_photo_is_decoded_once_for_all_that_look_at_it(accumulate, monkeypatch):
    words = ["loss.judge=photo", "loss.colourfulness_weight=1", "loss.r1_weight=1"]
    config, networks = make(*options("unet"), *words)
    chosen = build_losses(config)
    distance = lambda made: (made.photo_B3HW - made.real.photo_B3HW).abs().mean()  # noqa: E731
    chosen = replace(chosen, terms=(*chosen.terms, Term("loss/g_perc", 1.0, distance)))
    decoded, decode = [], HEADS["lab"].decode
    counting = HEADS["lab"]._replace(decode=lambda *pair: decoded.append(pair) or decode(*pair))
    monkeypatch.setattr(build, "build_head", lambda config: counting)
    real_step(config, networks, chosen, accumulate=accumulate)
    assert len(decoded) == 4 * accumulate  # the real one, what the terms see, and what D sees in either step


def test_the_critic_of_wgan_pays_for_its_slope_every_step_with_the_same_mixtures():
    values = []
    for _ in range(2):
        config, networks = make(*options("unet"), "loss.gan=wgan", "loss.gp_weight=7")
        chosen = build_losses(config)
        networks.plain_discriminator.eval()  # no power iteration between the two
        torch.manual_seed(len(values))
        s = real_step(config, networks, chosen)
        torch.testing.assert_close(
            s["loss/d_total"], s["loss/d_real"] + s["loss/d_fake"] + 7 * s["loss/gp"], rtol=1e-4, atol=1e-6
        )
        values.append(s["loss/gp"])
        assert real_step(config, networks, chosen, number=1)["loss/gp"] != values[-1]
    assert values[0] == values[1] > 0


@pytest.mark.slow
def test_every_generator_takes_a_real_step_that_moves_it():
    for name in GENERATORS:
        config, networks = make(*options(name))
        before = copy.deepcopy(networks.plain_generator.state_dict())
        scalars = real_step(config, networks, build_losses(config))
        assert scalars["grad/skipped"] == 0, name
        after = networks.plain_generator.state_dict()
        assert any(not torch.equal(before[key], after[key]) for key in before), name


def test_classes_need_a_classifier_and_a_classifier_the_lab_head():
    for words, where in (
        (["model.generator=unet", "loss.rec=cross_entropy"], "loss.rec"),
        (["model.generator=zhang", "model.head=ycbcr"], "model.head"),
        (["model.generator=zhang", "model.head=rgb"], "model.head"),
        (["loss.perceptual_weight=1", "loss.perceptual_file=nowhere"], "loss.perceptual_file"),
    ):
        with pytest.raises(ConfigError, match=f"^{where}: "):
            build.check_models(load_config(None, ["run.steps=1", *words]))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.size=16", "data.batch=4"], r"data\.size: too small for the patches .* give at least 24"),
        (
            ["data.size=16", "data.batch=4", "optim.accumulate=4", "model.discriminator=paper_cnn"],
            r"data\.batch: batch norm is left with one value per channel .*micro-batch of 1, 16 pixels",
        ),
        (
            ["data.size=32", "data.batch=1", "model.generator=resnet18_unet", "loss.gan_weight=0"],
            r"data\.batch: batch norm",
        ),
    ],
)
def test_images_that_a_network_does_not_take_are_refused_before_the_training(words, told):
    with pytest.raises(ConfigError, match=told):
        build.check_models(load_config(None, ["run.steps=1", *words]))


@pytest.mark.parametrize(
    ("on_gpu", "words", "rank_alone"),
    [
        (False, ["model.generator=resnet18_unet", "loss.gan_weight=0", "data.size=32"], True),
        (True, ["model.generator=resnet18_unet", "loss.gan_weight=0", "data.size=32"], False),
        (True, ["model.discriminator=paper_cnn", "data.size=16"], False),
        (True, ["model.discriminator=paper_cnn", "data.size=16", "loss.r1_weight=1"], True),
    ],
)
def test_batch_norm_of_a_rank_sees_the_images_of_all_on_gpus_without_a_penalty(
    on_gpu, words, rank_alone, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    config = load_config(None, ["run.steps=1", "data.batch=2", *words])
    told = r"^data\.batch: batch norm .*a micro-batch of 1 on each of 2 ranks, "
    with pytest.raises(ConfigError, match=told) if rank_alone else nullcontext():
        build.check_models(config)


def frozen(config) -> list[str]:
    """What `build` freezes where there are several ranks."""
    generator = build._build_generator(config)
    build._freeze_unused(config, generator)
    return [name for name, parameter in generator.named_parameters() if not parameter.requires_grad]


@pytest.mark.parametrize("generator", GENERATORS)
def test_nothing_of_a_network_is_without_effect(generator):
    assert frozen(load_config(None, ["run.steps=1", *options(generator)])) == []


def test_layers_of_a_backbone_whose_maps_are_not_used_are_frozen():
    words = ["model.generator=timm_unet", "model.variant=hrnet_w18_small", "data.size=64", "run.steps=1"]
    names = frozen(load_config(None, words))
    first_map = ("stage4.0.fuse_layers.0.", "incre_modules.0.")
    assert names
    assert all(name.removeprefix("encoder.network.").startswith(first_map) for name in names)


def test_a_classifier_trains_by_class_and_keeps_its_prior_in_the_checkpoint(
    shard_set, tmp_path, monkeypatch, capsys
):
    words = [*options("zhang"), "model.depth=null", "loss.rec=cross_entropy", "loss.gan_weight=0"]
    even = tmp_path / "even"
    train(tiny_config(shard_set, even, *words, "run.steps=1", "loss.uniform_share=1", "data.max_samples=20"))
    assert "class weights 1 to 1 from 20 images" in capsys.readouterr().err
    run = tmp_path / "run"
    train(tiny_config(shard_set, run, *words, "run.steps=2", "optim.lr_g=0.01"))
    assert read_losses(run)[1]["loss/g_rec"] > 3  # nats; the L1 of chroma is below 1
    assert "class weights" in capsys.readouterr().err
    from safetensors.torch import load_file

    stored = load_file(list_checkpoints(run)[-1].path / "generator.safetensors")
    assert stored["class_weights"].min() < 0.8 < 2 < stored["class_weights"].max()
    tuned = tmp_path / "tuned"
    train(tiny_config(shard_set, tuned, *words, "run.steps=1", f"run.init_from={even}"))
    for name in ("generator", "ema"):  # of its own photos and uniform share, not those of `even`
        own = load_file(list_checkpoints(tuned)[-1].path / f"{name}.safetensors")
        assert torch.equal(own["class_weights"], stored["class_weights"])
    monkeypatch.setattr(build, "rebalance", lambda *_, **__: pytest.fail("the checkpoint has them"))
    train(tiny_config(shard_set, run, *words, "run.steps=3", "optim.lr_g=0.01"))
    again = load_file(list_checkpoints(run)[-1].path / "ema.safetensors")
    assert torch.equal(again["class_weights"], stored["class_weights"])


def test_a_classifier_of_other_bins_is_no_start_for_a_run(shard_set, tmp_path):
    np.save(tmp_path / "bins.npy", np.array([[0, 0], [20, 0], [-20, 0], [0, 20], [0, -20], [20, 20]]))
    words = [
        *options("zhang"),
        "model.depth=null",
        "loss.rec=cross_entropy",
        "loss.gan_weight=0",
        "run.steps=1",
    ]
    few = [*words, f"model.variant={tmp_path / 'bins.npy'}"]
    train(tiny_config(shard_set, tmp_path / "few", *few))
    from_few = f"run.init_from={tmp_path / 'few'}"
    train(tiny_config(shard_set, tmp_path / "again", *few, from_few))
    with pytest.raises(CheckpointError, match=r"has other bins of colour than this run \(got 6, not 261\)"):
        train(tiny_config(shard_set, tmp_path / "all", *words, from_few))


def test_building_the_perceptual_loss_from_the_configuration(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "empty.pth")
    words = ["run.steps=1", "loss.perceptual_weight=1", f"loss.perceptual_file={tmp_path / 'empty.pth'}"]
    with pytest.raises(ConfigError, match=r"features\.0\.weight is missing"):
        build_losses(load_config(None, words))
    built = []
    monkeypatch.setattr(terms, "PerceptualLoss", lambda *a, **k: built.append(PerceptualLoss(*a, **k)))
    with torch.device("meta"):
        chosen = build_losses(load_config(None, [*words, "loss.perceptual=vgg16"]))
    assert [term.tag for term in chosen.terms] == ["loss/g_rec", "loss/g_perc"]
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in built[0].features) == 11
