"""The GAN step and the schedules around it."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from streamgan.core.color import HEADS, saturate
from streamgan.core.config import load_config
from streamgan.core.errors import ConfigError
from streamgan.models import DISCRIMINATORS, GENERATORS
from streamgan.train import build
from streamgan.train.networks import EmaUpdate, ema_copy
from streamgan.train.schedule import (
    Lengths,
    adversarial_weight,
    ema_decay,
    learning_rate_factor,
    out_of_reach,
)
from streamgan.train.step import GanStep
from streamgan.train.terms import build_losses

SMALL = [
    "run.steps=10",
    "data.size=48",
    "model.width=6",
    "model.depth=3",
    "model.norm=group",
    "model.d_width=4",
]


def make(*more: str):
    config = load_config(None, [*SMALL, *more])
    accelerator = Accelerator(cpu=True)
    return config, accelerator, build.build_networks(config, accelerator)


def images(count: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 48, 48), dtype=torch.uint8, generator=generator)


def step(config, accelerator, networks, color, *, number: int = 0, weight: float = 0.1, accumulate: int = 1):
    head, chosen = HEADS[config.model.head], build_losses(config)
    train_step = GanStep(accelerator, networks, head, chosen, seed=0, accumulate=accumulate)
    return train_step(color, None, step=number, adversarial_weight=weight)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_both_networks_move_in_every_step_whatever_the_accumulation(accumulate):
    config, accelerator, networks = make()
    for number in range(3):
        before = weights(networks.generator), weights(networks.discriminator)
        step(config, accelerator, networks, images(), number=number, accumulate=accumulate)
        assert not torch.equal(before[0], weights(networks.generator))
        assert not torch.equal(before[1], weights(networks.discriminator))


def test_accumulation_gives_the_generator_the_gradient_of_the_whole_batch():
    moved = []
    for accumulate in (1, 2, 4):
        config, accelerator, networks = make()
        scalars = step(config, accelerator, networks, images(), weight=0.0, accumulate=accumulate)
        moved.append((weights(networks.generator), scalars["loss/g_rec"], scalars["grad/g_norm"]))
    for weight, loss, norm in moved[1:]:
        torch.testing.assert_close(weight, moved[0][0], atol=2e-6, rtol=0)
        torch.testing.assert_close(loss, moved[0][1], atol=1e-6, rtol=0)
        torch.testing.assert_close(norm, moved[0][2], atol=1e-6, rtol=1e-5)


def test_accumulated_losses_are_those_of_the_whole_batch():
    values = []
    for accumulate in (1, 4):
        # BCE: its logits need no power iteration to agree, the spectral norm has converged from one
        config, accelerator, networks = make("loss.gan=bce", "model.discriminator=paper_cnn")
        networks.discriminator.eval()
        values.append(step(config, accelerator, networks, images(), accumulate=accumulate))
    for tag in ("loss/d_real", "loss/d_fake", "loss/g_rec", "d/real_mean"):
        torch.testing.assert_close(values[0][tag], values[1][tag], atol=1e-5, rtol=0)


def test_the_generator_step_leaves_no_gradient_in_the_discriminator_and_thaws_it():
    config, accelerator, networks = make()
    step(config, accelerator, networks, images())
    assert all(parameter.grad is None for parameter in networks.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in networks.discriminator.parameters())


def test_the_generator_runs_forward_once_a_step():
    config, accelerator, networks = make()
    calls = []
    handle = networks.generator.register_forward_hook(lambda *_: calls.append(1))
    step(config, accelerator, networks, images())
    handle.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("words", [[], ["loss.judge=photo", "loss.real_saturation=1.2"]])
def test_the_discriminator_sees_real_images_then_the_fakes_then_their_mixtures(words):
    config, accelerator, networks = make("loss.gan=wgan", *words)
    color, head, seen = images(), HEADS["lab"], []
    given, target = head.encode(color, None)
    made = networks.plain_generator(given).detach()
    real, fake = head.pair(given, target), head.pair(given, made)
    if words:
        real, fake = saturate(head.decode(given, target), 1.2), head.decode(given, made)
    handle = networks.discriminator.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].detach())
    )
    step(config, accelerator, networks, color)
    handle.remove()
    of_d, of_g = seen
    torch.testing.assert_close(of_d[:16], torch.cat((real, fake)))
    torch.testing.assert_close(of_g, fake)
    shares = ((of_d[16:] - fake) * (real - fake)).sum((1, 2, 3)) / (real - fake).square().sum((1, 2, 3))
    torch.testing.assert_close(of_d[16:], torch.lerp(fake, real, shares.view(8, 1, 1, 1)))
    assert 0 < shares.min() < shares.max() < 1


def statistics(networks) -> list[torch.Tensor]:
    buffers = [*networks.plain_generator.buffers(), *networks.plain_discriminator.buffers()]
    return [buffer.clone() for buffer in buffers if buffer.is_floating_point()]


@pytest.mark.parametrize("train_generator", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_pass_that_overflows_leaves_the_running_statistics_as_they_were(train_generator, accumulate):
    config, accelerator, networks = make("model.norm=batch", "model.discriminator=pix2pix", "data.size=64")
    color = torch.nn.functional.interpolate(images().float(), 64).byte()
    head, chosen = HEADS[config.model.head], build_losses(config)
    train_step = GanStep(accelerator, networks, head, chosen, seed=0, accumulate=accumulate)

    def call(number: int) -> bool:
        how = {"adversarial_weight": 0.1, "train_generator": train_generator}
        return bool(train_step(color, None, step=number, **how)["grad/skipped"])

    assert not call(0)
    before = statistics(networks)
    first = next(m for m in networks.plain_generator.modules() if isinstance(m, torch.nn.Conv2d))
    handle = first.register_forward_hook(lambda *given: given[-1] * float("inf"))
    assert call(1)
    handle.remove()
    for old, new in zip(before, statistics(networks), strict=True):
        assert torch.equal(old, new)
    assert not call(2)
    assert any(not torch.equal(old, new) for old, new in zip(before, statistics(networks), strict=True))


def test_a_gradient_that_is_not_finite_skips_the_step_and_the_next_one_counts():
    config, accelerator, networks = make()
    step(config, accelerator, networks, images())
    poison = next(networks.generator.parameters())
    before = weights(networks.generator)
    moments = copy.deepcopy(networks.optimizer_g.state_dict()["state"])
    handle = poison.register_hook(lambda gradient: gradient * float("nan"))
    scalars = step(config, accelerator, networks, images(), number=1)
    handle.remove()
    assert scalars["grad/skipped"] == 1
    assert torch.equal(before, weights(networks.generator))
    after = networks.optimizer_g.state_dict()["state"]
    for key, old in moments.items():
        assert all(torch.equal(value, after[key][name]) for name, value in old.items())
    scalars = step(config, accelerator, networks, images(), number=2)
    assert scalars["grad/skipped"] == 0
    assert not torch.equal(before, weights(networks.generator))


def test_the_discriminator_does_not_run_in_the_warm_up():
    config, accelerator, networks = make()
    before = weights(networks.discriminator)
    scalars = step(config, accelerator, networks, images(), weight=0.0)
    assert torch.equal(before, weights(networks.discriminator))
    assert "loss/d_total" not in scalars
    assert "loss/g_adv" not in scalars


def test_r1_is_added_every_kth_step():
    config, accelerator, networks = make("loss.r1_weight=1.0", "loss.r1_every=4")
    seen = [n for n in range(9) if "loss/r1" in step(config, accelerator, networks, images(), number=n)]
    assert seen == [0, 4, 8]


def test_r1_weighs_as_much_as_if_it_came_every_step():
    config, accelerator, networks = make("loss.r1_weight=3.0", "loss.r1_every=4")
    s = step(config, accelerator, networks, images(), number=4)
    torch.testing.assert_close(s["loss/d_total"], s["loss/d_real"] + s["loss/d_fake"] + 3 * 4 * s["loss/r1"])


def test_clipping_bounds_the_gradient_of_each_network_apart():
    config, accelerator, networks = make()
    seen = {}

    def keep(name, optimizer):
        def hook(*_):
            grads = [
                p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            seen[name] = torch.nn.utils.get_total_norm(grads).item()

        return hook

    networks.optimizer_g.optimizer.register_step_pre_hook(keep("g", networks.optimizer_g))
    networks.optimizer_d.optimizer.register_step_pre_hook(keep("d", networks.optimizer_d))
    train_step = GanStep(
        accelerator, networks, HEADS["lab"], build_losses(config), seed=0, clip_g=1e-3, clip_d=2e-3
    )
    train_step(images(), None, step=0, adversarial_weight=0.1)
    assert seen["g"] == pytest.approx(1e-3, rel=1e-3)
    assert seen["d"] == pytest.approx(2e-3, rel=1e-3)


@pytest.mark.parametrize("dropped", [["model.depth=6"], ["model.depth=3", "model.dropout=0.3"]])
def test_dropout_is_a_function_of_the_step(dropped):
    config, accelerator, networks = make("data.size=64", *dropped, "model.width=4")
    start = copy.deepcopy(networks.generator.state_dict())
    values = []
    for number in (3, 3, 4):
        networks.generator.load_state_dict(start)
        torch.nn.init.ones_(networks.generator.last.weight)
        torch.manual_seed(number * 100 + len(values))
        values.append(
            step(config, accelerator, networks, images(), number=number, weight=0.0)["loss/g_rec"].item()
        )
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_the_average_forgets_half_of_a_weight_in_its_half_life():
    config = load_config(None, ["run.steps=1", "data.batch=10", "optim.ema_half_life_images=1000"])
    assert ema_decay(config, 10**8) ** 100 == pytest.approx(0.5)
    assert ema_decay(config, 1) < 1e-5  # ramp-up: nearly a copy at first
    forgetful = load_config(None, ["run.steps=1", "data.batch=10", "optim.ema_half_life_images=0"])
    assert ema_decay(forgetful, 10**8) == 0.0


def test_the_average_moves_parameters_and_copies_buffers():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    average = ema_copy(model)
    torch.nn.init.constant_(model[0].weight, 1.0)
    torch.nn.init.constant_(average[0].weight, 0.0)
    model[1].running_mean.fill_(7.0)
    model[1].num_batches_tracked.fill_(3)
    EmaUpdate(average, model)(0.75)
    assert average[0].weight.item() == pytest.approx(0.25)
    assert average[1].running_mean.item() == 7.0
    assert average[1].num_batches_tracked.item() == 3
    assert not any(parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        (["run.steps=100"], (100, 15, 15)),
        (["run.epochs=3"], (21, 3, 3)),
        (["run.steps=100", "loss.warmup_steps=10"], (100, 10, 10)),
        (["run.steps=100", "loss.ramp_steps=5"], (100, 15, 5)),
        (["run.steps=100", "loss.warmup_steps=0"], (100, 0, 0)),
    ],
)
def test_phases_that_are_left_open_are_a_share_of_the_run(words, lengths):
    assert Lengths.resolve(load_config(None, words).model_dump(), 7) == Lengths(*lengths)


@pytest.mark.parametrize(
    ("words", "start", "told"),
    [
        (["loss.warmup_steps=20"], 0, ["loss.gan_weight (after 20 steps of warm-up)"]),
        (["loss.warmup_steps=20", "loss.gan_weight=0"], 0, []),
        (["loss.warmup_steps=19"], 0, []),
        (["loss.warmup_steps=17", "loss.r1_weight=1"], 0, ["loss.r1_weight (from step 33 on)"]),
        (["loss.warmup_steps=16", "loss.r1_weight=1"], 0, []),
        (["optim.schedule=step", "optim.decay_every=20"], 0, ["optim.decay (after 20 steps)"]),
        (["optim.schedule=step", "optim.decay_every=19"], 0, []),
        (["run.profile_steps=[20, 30]"], 0, []),
        (["run.profile_steps=[21, 30]"], 0, ["run.profile_steps=[21, 30]"]),
        (["run.profile_steps=[5, 8]"], 5, ["run.profile_steps=[5, 8]"]),
        ([], 0, []),
    ],
)
def test_what_a_run_is_too_short_for_is_named(words, start, told):
    config = load_config(None, ["run.steps=20", *words])
    lengths = Lengths.resolve(config.model_dump(), steps_per_epoch=1)
    assert out_of_reach(config, lengths, start=start) == told


def test_the_adversarial_weight_waits_for_the_warm_up_and_ramps():
    config = load_config(
        None, ["run.steps=100", "loss.gan_weight=1", "loss.warmup_steps=10", "loss.ramp_steps=5"]
    )
    lengths = Lengths.resolve(config.model_dump(), steps_per_epoch=1)
    weights_ = [adversarial_weight(config, step, lengths) for step in (0, 9, 10, 12, 14, 99)]
    assert weights_ == pytest.approx([0, 0, 0.2, 0.6, 1, 1])
    unset = load_config(None, ["run.steps=100", "loss.gan_weight=1"])
    lengths = Lengths.resolve(unset.model_dump(), steps_per_epoch=1)
    assert adversarial_weight(unset, 14, lengths) == 0
    assert adversarial_weight(unset, 15, lengths) > 0


@pytest.mark.parametrize(
    ("schedule", "middle", "last"), [("constant", 1, 1), ("linear", 0.5, 0.01), ("cosine", 0.5, 0)]
)
def test_learning_rates_warm_up_and_follow_their_schedule(schedule, middle, last):
    config = load_config(None, ["run.steps=110", "optim.warmup_steps=10", f"optim.schedule={schedule}"])
    factors = [learning_rate_factor(config, step, 110) for step in range(110)]
    assert factors[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert factors[60] == pytest.approx(middle, abs=1e-6)
    assert factors[109] == pytest.approx(last, abs=1e-3)


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5)])
def test_learning_rates_stay_for_a_while_before_they_fall_to_zero(schedule, middle):
    words = ["run.steps=110", "optim.warmup_steps=10", f"optim.schedule={schedule}", "optim.decay_after=60"]
    config = load_config(None, words)
    factors = [learning_rate_factor(config, step, 110) for step in range(110)]
    assert factors[10:71] == [1] * 61
    assert factors[90] == pytest.approx(middle)
    assert 0 < factors[109] < 0.03


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = weights(make()[2].generator)
    torch.manual_seed(2)
    assert torch.equal(first, weights(make()[2].generator))
    assert not torch.equal(first, weights(make("run.seed=1")[2].generator))


def test_unknown_models_and_options_are_refused_before_any_work():
    with pytest.raises(ConfigError, match="did you mean 'unet'"):
        build.check_models(load_config(None, ["run.steps=1", "model.generator=unett"]))
    with pytest.raises(ConfigError, match="pretrained"):
        build.check_models(load_config(None, ["run.steps=1", "model.pretrained=true"]))


def test_batch_norm_becomes_that_of_the_global_batch_on_several_gpus_alone():
    norm, synced = torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm
    for model in (
        GENERATORS["paper_cnn"](out_channels=2, width=4, depth=1),
        DISCRIMINATORS["paper_cnn"](width=4),
    ):
        count = sum(type(module) is norm for module in model.modules())
        for processes, device in ((1, "cuda"), (2, "cpu")):
            accelerator = SimpleNamespace(num_processes=processes, device=torch.device(device))
            assert build._for_ranks(model, accelerator) is model
        accelerator = SimpleNamespace(num_processes=2, device=torch.device("cuda"))
        kinds = [type(module) for module in build._for_ranks(model, accelerator).modules()]
        assert kinds.count(synced) == count > 0
        assert norm not in kinds
