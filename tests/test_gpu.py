"""What only a CUDA device can tell: precision, memory layout, waiting, memory, colours."""

import copy
import gc
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from test_channels_last import NAMES, nhwc_generator, orders
from test_train_step import images
from torch import nn
from training import losses, read_metrics, tiny_config

from streamgan.core.color import HEADS
from streamgan.core.config import load_config
from streamgan.data.loader import build_loader
from streamgan.data.workers.batch import Batch
from streamgan.inference.colorizer import Colorizer
from streamgan.losses import r1_penalty
from streamgan.models import DISCRIMINATORS, GENERATORS
from streamgan.models.channels_last import conv_of_joined
from streamgan.train import build
from streamgan.train.loop import train
from streamgan.train.step import GanStep
from streamgan.train.terms import build_losses
from streamgan.train.upload import Upload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("fresh_accelerator"),
]
SIXTEEN = ["run.steps=16", "loss.r1_weight=1", "loss.r1_every=4", "optim.clip_g=1", "optim.clip_d=1"]
WORDS = [
    "run.steps=10", "data.size=48", "model.width=8", "model.depth=3", "model.norm=group", "model.d_width=8"
]  # fmt: skip


@contextmanager
def precision(name: str, patch: pytest.MonkeyPatch):
    """Accelerate as `--mixed_precision NAME` sets it up."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with patch.context() as one:
        one.setenv("ACCELERATE_MIXED_PRECISION", name)
        yield


def run(shards: Path, out: Path, name: str, patch: pytest.MonkeyPatch, *more: str) -> Path:
    with precision(name, patch):
        train(tiny_config(shards, out, *SIXTEEN, *more))
    return out


def small_step(*more: str, accelerator: Accelerator | None = None):
    """A step on the GPU that can be called with its number, and its networks."""
    config = load_config(None, [*WORDS, *more])
    accelerator = accelerator or build.start_accelerator(config)
    networks = build.build_networks(config, accelerator)
    color, chosen = images().to(accelerator.device), build_losses(config)

    def call(number: int, **options):
        train_step = GanStep(
            accelerator, networks, HEADS["lab"], chosen, seed=0, clip_g=1.0, clip_d=1.0, **options
        )
        return train_step(color, None, step=number, adversarial_weight=0.1)

    return call, networks


def assert_near(rounded: Path, exact: Path, *, rel: float) -> None:
    ours, theirs = losses(rounded), losses(exact)
    assert list(ours) == list(theirs)
    for step, values in theirs.items():
        assert ours[step]["loss/g_rec"] == pytest.approx(values["loss/g_rec"], rel=rel), step


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_mixed_precision_trains_like_fp32(shard_set, tmp_path, monkeypatch, name):
    exact = run(shard_set, tmp_path / "fp32", "no", monkeypatch)
    rounded = run(shard_set, tmp_path / name, name, monkeypatch)
    assert_near(rounded, exact, rel=0.05)
    lines = [line for line in read_metrics(rounded) if "lr/g" in line]
    # fp16 starts with a scale of 65536, which the first steps may find too large
    assert sum(line["grad/skipped"] for line in lines) <= (8 if name == "fp16" else 0)
    assert all((line["grad/scale"] > 1) == (name == "fp16") for line in lines)


def test_fp16_continues_with_the_scale_it_had(shard_set, tmp_path, monkeypatch):
    for steps in (8, 16):
        run(shard_set, tmp_path, "fp16", monkeypatch, f"run.steps={steps}")
    scales = {line["step"]: line["grad/scale"] for line in read_metrics(tmp_path) if "lr/g" in line}
    assert list(scales) == list(range(1, 17))
    assert scales[9] in (scales[8], scales[8] / 2, scales[8] / 4)
    assert scales[8] <= 65536


def test_activations_are_bf16_in_nhwc_order(monkeypatch):
    with precision("bf16", monkeypatch):
        call, networks = small_step()
        seen = []
        convs = [m for m in networks.plain_generator.modules() if isinstance(m, torch.nn.Conv2d)]
        second = convs[1]  # with one channel, as the first has, both orders are one
        second.register_forward_hook(lambda module, given, made: seen.append(made))
        call(0)
    (made,) = seen
    assert made.dtype == torch.bfloat16
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert second.weight.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_is_given_a_map_in_nhwc_order(name):
    with torch.device("cuda"):
        model, gray = nhwc_generator(name), torch.rand(2, 1, 64, 64) * 2 - 1
    with torch.autocast("cuda", torch.bfloat16):
        seen = orders(model, gray)
    assert [name for name, kept in seen.items() if not kept] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_order_in_memory_changes_no_output_and_no_gradient(name):
    with torch.device("cuda"):
        nhwc, gray = nhwc_generator(name).eval(), torch.rand(2, 1, 64, 64).double() * 2 - 1
        with torch.no_grad():
            for parameter in nhwc.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)  # the last layer starts at zero
    nhwc = nhwc.double()  # float32 would show the slopes of ReLU that rounding changes
    nchw = copy.deepcopy(nhwc).to(memory_format=torch.contiguous_format)
    made = [model(gray) for model in (nhwc, nchw)]
    torch.testing.assert_close(*made)
    for one in made:
        one.square().mean().backward()
    ours, theirs = ([p.grad for p in model.parameters() if p.grad is not None] for model in (nhwc, nchw))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("gan", ["hinge", "wgan"])
@pytest.mark.parametrize("name", ["no", "fp16", "bf16"])
def test_a_step_never_makes_the_host_wait(monkeypatch, name, gan):
    with precision(name, monkeypatch):
        call, _ = small_step(f"loss.gan={gan}", "loss.r1_weight=1", "loss.r1_every=1")
        call(0)  # allocates, chooses kernels, fills the optimizers
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number in (1, 2):
                scalars = call(number, accumulate=number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert name == "fp16" or scalars["grad/skipped"].item() == 0


def test_batches_arrive_in_pinned_memory_for_copies_beside_the_computation(shard_set):
    for workers in (0, 2):
        loader = build_loader(shard_set, batch=8, size=48, workers=workers, stop_step=2, pin_memory=True)
        for batch in loader:
            assert batch.color_B3HW.is_pinned()
            assert batch.color_B3HW.is_contiguous(memory_format=torch.channels_last)
            copied = batch.color_B3HW.to("cuda", non_blocking=True)
            assert torch.equal(copied.cpu(), batch.color_B3HW)


def test_a_batch_arrives_while_the_card_computes_and_what_follows_waits_for_it():
    upload = Upload(torch.device("cuda"))
    colors = [torch.randint(0, 256, (8, 3, 256, 256), dtype=torch.uint8).pin_memory() for _ in range(4)]
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    for _ in range(200):
        busy @ busy
    computed = torch.cuda.Event()
    computed.record()
    moved = [upload(Batch(None, color, torch.arange(8))).color_B3HW for color in colors]
    upload._stream.synchronize()
    assert not computed.query()  # the card still multiplies
    sums = [image.long().sum() for image in moved]  # on the stream that multiplies
    del moved
    assert [int(one) for one in sums] == [int(color.long().sum()) for color in colors]
    assert computed.query()


def test_channels_are_filled_up_to_eights_without_a_trace():
    torch.manual_seed(0)
    with torch.device("cuda"):
        conv = nn.Conv2d(13, 16, 3, padding=1).to(memory_format=torch.channels_last)
        x, gray = torch.randn(2, 12, 20, 24), torch.randn(2, 1, 20, 24)
    x = x.bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        made = conv_of_joined(conv, x, gray), conv(torch.cat((x, gray), 1))
    torch.testing.assert_close(*made, rtol=0.02, atol=0.02)
    assert made[0].is_contiguous(memory_format=torch.channels_last)
    given = [x, conv.weight, conv.bias]
    ours, theirs = (torch.autograd.grad(one.float().square().mean(), given) for one in made)
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=1e-3)


def test_accumulation_lowers_the_peak_of_memory_which_is_reported(shard_set, tmp_path, monkeypatch):
    peaks = []
    for accumulate in (1, 8):  # large enough that activations outweigh weights and workspaces
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        words = ["model.width=32", "data.size=256", "data.batch=32", f"optim.accumulate={accumulate}"]
        out = run(shard_set, tmp_path / str(accumulate), "bf16", monkeypatch, *words, "run.steps=4")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        peaks.append(max(line.get("perf/gpu_mem_gb", 0) for line in lines))
    assert peaks[0] > peaks[1] > 0


def test_tf32_is_on_for_training():
    build.start_accelerator(load_config(None, WORDS))
    assert torch.get_float32_matmul_precision() == "high"


def test_r1_has_second_derivatives_under_autocast(monkeypatch):
    with precision("fp16", monkeypatch):
        _, networks = small_step()
    assert networks.discriminator is not None
    for options in ({}, {"full_precision": True}):
        real = (torch.rand(4, 3, 48, 48, device="cuda") * 2 - 1).requires_grad_()
        r1_penalty(networks.discriminator(real, **options), real).backward()
        assert all(parameter.grad.isfinite().all() for parameter in networks.discriminator.parameters())


@pytest.mark.parametrize("name", ["unet", "ddcolor"])
def test_r1_has_second_derivatives_of_attention(name):
    model = DISCRIMINATORS[name](width=8).to("cuda", memory_format=torch.channels_last)
    real = torch.rand(2, 3, 64, 64, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        r1_penalty(model(real, full_precision=True), real).backward()
        model(real).sum().backward()  # fused
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_batch_norm_over_ranks_is_batch_norm_where_there_is_one_rank(tmp_path):
    torch.manual_seed(0)
    plain = GENERATORS["resnet18_unet"](out_channels=2, width=8).cuda()
    nn.init.normal_(plain.get_parameter("last.weight"))
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
        assert any(isinstance(module, nn.SyncBatchNorm) for module in synced.modules())
        given = torch.rand(4, 1, 64, 64, device="cuda") * 2 - 1
        for model in (plain, synced):
            model(given).square().mean().backward()
        for (name, one), two in zip(plain.named_parameters(), synced.parameters(), strict=True):
            assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-5), name
        for (name, one), two in zip(plain.named_buffers(), synced.buffers(), strict=True):
            assert torch.allclose(one, two, rtol=1e-4, atol=1e-6), name
    finally:
        torch.distributed.destroy_process_group()


def test_a_photo_is_the_same_colours_on_the_card(photo):
    pixels = np.array(photo(3, (1500, 1100)))
    for given in (pixels, pixels[..., 1].astype(np.uint16) * 257):
        one, other = (Colorizer.load(device=device)(given) for device in ("cpu", "cuda"))
        assert one.dtype == other.dtype == given.dtype
        levels = np.abs(one.astype(int) - other) / (1 if given.dtype == np.uint8 else 257)
        assert levels.mean() < 0.1
        assert np.quantile(levels, 0.999) <= 2
