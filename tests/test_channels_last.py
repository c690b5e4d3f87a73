"""Maps keep their order in memory: on a GPU, and here by what is known of its operators."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from streamgan.models import GENERATORS, channels_last
from streamgan.models.channels_last import concat, conv_of_joined, group_norm_nhwc, shuffle_nhwc

NHWC = torch.channels_last
CONV2D = F.conv2d
NEW_ORDER = {
    "convolution": NHWC,
    "native_group_norm": torch.contiguous_format,
    "pixel_shuffle": torch.contiguous_format,
}
NAMES = ["resnet34_unet", "vgg16_unet", "ddcolor", "unet", "paper_cnn"]


def nhwc_generator(name: str) -> nn.Module:
    options = {"norm": "group"} if name == "paper_cnn" else {}
    return GENERATORS[name](out_channels=2, **options).to(memory_format=NHWC)


class AsOnCuda(TorchDispatchMode):
    """Gives meta tensors the order that CUDA's operators give, for weights in channels-last order."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        order = NEW_ORDER.get(func.overloadpacket.__name__)
        if order is None:
            return made
        first, *others = made if isinstance(made, tuple) else (made,)
        first = torch.empty(first.shape, dtype=first.dtype, device="meta", memory_format=order)
        return (first, *others) if others else first


def orders(model: nn.Module, gray_B1HW: torch.Tensor) -> dict[str, bool]:
    """By convolution: is what it is given in channels-last order? Without photos and single pixels."""
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels > 3:
            module.register_forward_pre_hook(
                lambda module, given, name=name: (
                    seen.update({name: given[0].is_contiguous(memory_format=NHWC)})
                    if given[0][0, 0].numel() > 1
                    else None
                )
            )
    model(gray_B1HW)
    assert seen
    seen.pop("attention.out", None)  # its order is that of the fused attention, which only a card has
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_is_given_a_map_in_channels_last_order(name):
    with torch.device("meta"):
        model, gray = nhwc_generator(name), torch.empty(2, 1, 64, 64)
    with AsOnCuda():
        seen = orders(model, gray)
    assert [name for name, kept in seen.items() if not kept] == []


def test_the_rules_of_cuda_lose_the_order_with_the_operators_of_pytorch():
    with torch.device("meta"):
        layers = [
            nn.Conv2d(3, 8, 1),
            nn.GroupNorm(2, 8),
            nn.Conv2d(8, 8, 1),
            nn.PixelShuffle(2),
            nn.Conv2d(2, 8, 1),
        ]
        model = nn.Sequential(*layers).to(memory_format=NHWC)
        model[4].in_channels = 4  # two would be taken for a photo
        with AsOnCuda():
            assert orders(model, torch.empty(2, 3, 8, 8)) == {"2": False, "4": False}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (4, 4), (6, 1)])
def test_group_norm_in_channels_last_order(dtype, channels, groups):
    x = (3 + torch.randn(3, channels, 5, 4)).to(dtype, memory_format=NHWC).requires_grad_()
    weight, bias = (
        torch.randn(channels, dtype=max(dtype, torch.float32, key=lambda d: d.itemsize)).requires_grad_()
        for _ in range(2)
    )
    ours = group_norm_nhwc(x, groups, weight, bias, 1e-5)
    theirs = F.group_norm(x.to(weight.dtype), groups, weight, bias, 1e-5)
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=NHWC)
    torch.testing.assert_close(ours, theirs.to(dtype))
    passed = torch.randn_like(ours)
    grads = [torch.autograd.grad(made, (x, weight, bias), passed.to(made.dtype)) for made in (ours, theirs)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(
            one, other, **({} if dtype != torch.float32 else {"rtol": 1e-4, "atol": 1e-4})
        )
    assert grads[0][0].is_contiguous(memory_format=NHWC)


def test_the_gradient_of_group_norm_in_channels_last_order():
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64).to(memory_format=NHWC).requires_grad_()
    weight, bias = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda *given: group_norm_nhwc(given[0], 2, *given[1:], 1e-5), (x, weight, bias)
    )


@pytest.mark.parametrize("factor", [2, 4])
def test_pixel_shuffle_in_channels_last_order(factor):
    x = torch.randn(2, 3 * factor**2, 4, 5).to(memory_format=NHWC).requires_grad_()
    ours, theirs = shuffle_nhwc(x, factor), F.pixel_shuffle(x, factor)
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=NHWC)
    passed = torch.randn_like(ours)
    ours, theirs = (torch.autograd.grad(made, x, passed)[0] for made in (ours, theirs))
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=NHWC)


def test_a_single_channel_joins_a_map_in_its_order():
    with torch.device("meta"):
        wide, single = torch.empty(2, 8, 4, 4).to(memory_format=NHWC), torch.empty(2, 1, 4, 4)
        assert concat(wide, single).is_contiguous(memory_format=NHWC)
        assert concat(wide.contiguous(), single).is_contiguous()
    wide, single = torch.randn(2, 8, 4, 4).to(memory_format=NHWC), torch.randn(2, 1, 4, 4)
    assert torch.equal(concat(wide, single), torch.cat((wide, single), 1))


def test_channels_are_filled_up_to_eights_without_a_trace(monkeypatch):
    torch.manual_seed(0)
    conv = nn.Conv2d(13, 6, 3, padding=1)
    x = torch.randn(2, 12, 5, 4, requires_grad=True)
    single, seen = torch.randn(2, 1, 5, 4), []
    plain = conv(torch.cat((x, single), 1))
    monkeypatch.setattr(channels_last, "channels_missing", lambda conv, x: -conv.in_channels % 8)
    monkeypatch.setattr(F, "conv2d", lambda *given: seen.append(given[0].shape[1]) or CONV2D(*given))
    with torch.autocast("cpu", torch.bfloat16):
        filled = conv_of_joined(conv, x, single)
    assert seen == [16]
    assert filled.dtype == torch.bfloat16
    torch.testing.assert_close(filled.float(), plain, rtol=0.02, atol=0.02)
    given = [x, conv.weight, conv.bias]
    ours, theirs = (torch.autograd.grad(made.float().square().mean(), given) for made in (filled, plain))
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=2e-3)
