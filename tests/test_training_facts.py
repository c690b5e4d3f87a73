"""Facts about torch and accelerate that the training is built around, and what we do instead.

A test that fails here after an upgrade says that a precaution of ours may have become needless.
"""

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate import accelerator as accelerate_module
from accelerate.utils import ProjectConfiguration
from test_precision import SCALE, fp16_accelerator
from test_train_step import images, make, step
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from streamgan.core.color import lab_to_rgb, rgb_to_lab
from streamgan.losses import r1_penalty
from streamgan.models import DISCRIMINATORS


def pair() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    return (*models, *(torch.optim.SGD(model.parameters(), lr=1.0) for model in models))


def small_critic() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3))


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone, for DistributedDataParallel."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_accumulating_in_turn_with_an_even_number_never_steps_the_first_network(fresh_accelerator):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    d, g, optimizer_d, optimizer_g = accelerator.prepare(*pair())
    before = d.weight.clone(), g.weight.clone()
    for _ in range(8):
        for model, optimizer in ((d, optimizer_d), (g, optimizer_g)):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.ones(1, 2)).sum())
                optimizer.step()
                optimizer.zero_grad()
    assert torch.equal(d.weight, before[0])
    assert not torch.equal(g.weight, before[1])


def test_one_scaler_serves_all_optimizers_and_clipping_one_unscales_the_others(fresh_accelerator):
    accelerator = fp16_accelerator()
    d, g, optimizer_d, optimizer_g = accelerator.prepare(*pair())
    assert optimizer_d.scaler is optimizer_g.scaler is accelerator.scaler
    for model in (d, g):
        accelerator.backward(model(torch.ones(1, 2)).sum())
    assert g.weight.grad.tolist() == [[SCALE, SCALE]]
    accelerator.clip_grad_norm_(d.parameters(), 10.0)
    assert g.weight.grad.tolist() == [[1.0, 1.0]]
    with pytest.raises(RuntimeError, match="already been called"):
        accelerator.clip_grad_norm_(g.parameters(), 10.0)


def test_unwrapping_without_its_fp32_wrapper_takes_mixed_precision_from_the_live_model(fresh_accelerator):
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model, seen = accelerator.prepare(small_critic()), []
    model[0].register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    image = torch.rand(1, 3, 8, 8)
    model(image)
    accelerator.unwrap_model(model)  # what build.py does
    model(image)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model(image)
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_autocast_turned_off_around_a_prepared_model_changes_nothing_but_inside_it_does(fresh_accelerator):
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    plain = DISCRIMINATORS["patchgan"](width=4).eval()
    image = torch.rand(2, 3, 32, 32)
    exact = plain(image)
    model = accelerator.prepare(plain)
    with torch.autocast("cpu", enabled=False):
        assert not torch.equal(model(image), exact)
    assert torch.equal(model(image, full_precision=True), exact)


def test_r1_without_the_logits_leaves_a_parameter_that_ddp_waits_for(one_rank):
    def alone(logits, real):  # the published formula
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return gradient.square().sum()

    real = torch.rand(2, 3, 8, 8, requires_grad=True)
    model = DistributedDataParallel(small_critic())
    alone(model(real), real).backward()
    with pytest.raises(RuntimeError, match="unused"):
        model(real)
    model = DistributedDataParallel(small_critic())
    for _ in range(2):
        r1_penalty(model(real), real).backward()


@pytest.mark.slow
def test_a_compiled_discriminator_has_no_second_derivative():
    model = torch.compile(small_critic(), backend="aot_eager")
    real = torch.rand(2, 3, 8, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="double backward"):
        r1_penalty(model(real), real).backward()


def test_a_discriminator_that_is_not_frozen_gathers_gradients_in_the_generators_step(one_rank):
    reduced: list[int] = []

    def count(state, bucket):
        reduced.append(bucket.buffer().numel())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model = DistributedDataParallel(small_critic())
    model.register_comm_hook(None, count)
    fake = torch.rand(2, 3, 8, 8, requires_grad=True)
    model(fake).mean().backward()
    assert sum(reduced) == sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    reduced.clear()
    model.zero_grad()
    model.module.requires_grad_(False)
    model.module(fake).mean().backward()  # the plain module, as the step does
    assert not reduced
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_discriminator_runs_once_on_real_and_fake_together_and_once_for_the_generator():
    config, accelerator, networks = make("loss.r1_weight=1")
    sizes: list[int] = []
    networks.discriminator.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    step(config, accelerator, networks, images())
    assert sizes == [16, 8]


def test_our_discriminators_have_no_batch_norm_unless_asked_for():
    for name in ("patchgan", "unet"):
        kinds = [type(module) for module in DISCRIMINATORS[name](width=4).modules()]
        assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)


def test_save_state_numbers_the_models_and_removes_the_old_before_the_new_is_there(
    fresh_accelerator, tmp_path, monkeypatch
):
    options = ProjectConfiguration(tmp_path, automatic_checkpoint_naming=True, total_limit=1)
    accelerator = Accelerator(cpu=True, project_config=options)
    accelerator.prepare(*pair())
    accelerator.save_state()
    (first,) = (tmp_path / "checkpoints").iterdir()
    assert {"model.safetensors", "model_1.safetensors"} <= {path.name for path in first.iterdir()}

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(accelerate_module, "save_accelerator_state", fail)
    with pytest.raises(OSError, match="no space"):
        accelerator.save_state()
    assert not first.exists()


def round_trip(rgb_B3HW: torch.Tensor) -> torch.Tensor:
    """sRGB -> Lab -> sRGB by the textbook's formulas, in the precision of the input."""
    to_xyz = torch.tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    to_xyz = to_xyz / to_xyz.sum(1, keepdim=True)

    def times(matrix_33: torch.Tensor, image_B3HW: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,bjhw->bihw", matrix_33.to(image_B3HW.dtype), image_B3HW)

    linear = torch.where(rgb_B3HW > 0.04045, ((rgb_B3HW + 0.055) / 1.055) ** 2.4, rgb_B3HW / 12.92)
    xyz = times(to_xyz, linear)
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    f_y = (lightness + 16) / 116
    f = torch.stack((f_y + a / 500, f_y, f_y - b / 200), 1)
    linear = times(torch.linalg.inv(to_xyz), torch.where(f > 0.206893, f**3, (f - 16 / 116) / 7.787))
    linear = linear.clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear).float()


def test_lab_and_back_in_bf16_is_good_to_39_db():
    rgb = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def db(made: torch.Tensor) -> float:
        return -10 * (made - rgb).square().mean().log10().item()

    assert db(round_trip(rgb)) > 80
    assert db(round_trip(rgb.bfloat16())) == pytest.approx(39, abs=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert db(lab_to_rgb(rgb_to_lab(rgb))) > 80


@pytest.mark.parametrize("root", [lambda x: x.pow(1 / 2.4), torch.sqrt])
def test_roots_inside_where_have_nan_gradients_at_0_unless_their_base_is_clamped(root):
    values = torch.zeros(3, requires_grad=True)
    for tiny, expected in ((0.0, True), (0.01, False)):
        made = torch.where(values > 0.01, root(values.clamp_min(tiny) if tiny else values), values)
        (gradient,) = torch.autograd.grad(made.sum(), values)
        assert gradient.isnan().any().item() == expected
