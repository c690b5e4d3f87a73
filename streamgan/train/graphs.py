"""The networks' passes of a step as CUDA graphs: one call of the host for each, instead of one per kernel.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. A step of `default` has 1,600 kernels; to
ask for them one by one takes the host longer than an H200 takes to compute them, and the longer the busier
its other cores are with photos.

A graph has one shape, so the passes that most steps have are caught: G on the gray of a batch; D on real
photos and made ones at once, for its weights; D on made photos, for G. All others (gradient penalties,
validation, other sizes) go on kernel by kernel. The kernels are the same, and so is every value.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from streamgan.core.errors import ConfigError, in_one_line
from streamgan.core.settings import TrainConfig

from .networks import Networks
from .step import GanStep
from .terms import Losses, generator_options

_WARM_UPS = 3
Forward = Callable[..., Any]


class Pass(NamedTuple):
    """A call of a network that every step has: with these options, on images like these."""

    options: dict[str, Any]
    images: Tensor

    def fits(self, images: Tensor, options: dict[str, Any]) -> bool:
        like = self.images
        return (options, images.shape, images.requires_grad) == (self.options, like.shape, like.requires_grad)


def wanted(config: TrainConfig, accelerator: Accelerator) -> bool:
    """Whether a run takes graphs: on one CUDA device, without micro-batches.

    What ranks say to each other is in no graph, and a micro-batch would overwrite the gradients of the one
    before it.
    """
    alone = accelerator.distributed_type == DistributedType.NO and config.optim.accumulate == 1
    return config.run.cuda_graphs and alone and accelerator.device.type == "cuda"


def use_graphs(
    config: TrainConfig, networks: Networks, losses: Losses, step: GanStep, device: torch.device
) -> None:
    """Let the passes of `step` be graphs, caught here, before other threads use the device.

    ConfigError where a network does what no graph can hold, such as to wait for a value.
    """
    size = config.data.size
    color = torch.full((config.data.batch, 3, size, size), 128, dtype=torch.uint8, device=device)
    color = color.contiguous(memory_format=torch.channels_last)
    gray, judged = step.inputs(color, color[:, :1] if config.data.gray == "twin" else None)
    generator, discriminator = networks.plain_generator, networks.plain_discriminator
    caught = [(config.model.generator, generator, [Pass(generator_options(by_class=losses.by_class), gray)])]
    if discriminator is not None:
        passes = [Pass({}, judged.detach().clone().requires_grad_())]
        if not losses.always_penalised:
            passes.append(Pass({"full_precision": False, "parts": 2}, torch.cat((judged, judged))))
        caught.append((config.model.discriminator, discriminator, passes))
    for name, network, passes in caught:
        compiled = config.run.compile and network is generator
        try:
            _replace(network, passes, compiled=compiled)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            what = f"{name} cannot be caught as CUDA graphs ({in_one_line(error)[:300]})"
            todo = "set run.cuda_graphs=false" + (", or run.compile=false" if compiled else "")
            raise ConfigError("run.cuda_graphs", what, todo) from error


def _replace(network: nn.Module, passes: list[Pass], *, compiled: bool) -> None:
    """`network.forward` takes the graph of a pass that fits, in training mode, with gradients."""
    graphs = [(one, _graph(network, one)) for one in passes]
    # what is caught has been compiled; the choice is nothing for the compiler, and hides the rest from it
    plain: Forward = torch.compile(network.forward) if compiled else network.forward

    def forward(images: Tensor, **options: Any) -> Any:
        if network.training and torch.is_grad_enabled():
            for one, graph in graphs:
                if one.fits(images, options):
                    return graph(images)
        return plain(images, **options)

    network.forward = torch.compiler.disable(forward) if compiled else forward


class _WithOptions(nn.Module):
    """A network and the options of a pass; graphs are of modules, and take tensors alone."""

    def __init__(self, network: nn.Module, options: dict[str, Any]):
        super().__init__()
        self.network, self.options = network, options

    def forward(self, images: Tensor) -> Any:
        return self.network(images, **self.options)


def _graph(network: nn.Module, one: Pass) -> Forward:
    """The pass, forward and backward; what its warm-up moves (statistics, power iterations) is put back."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    module = _WithOptions(network, one.options)
    if one.images.requires_grad:  # for G, with D frozen
        network.requires_grad_(False)
    try:
        torch.cuda.make_graphed_callables(
            module, (one.images,), num_warmup_iters=_WARM_UPS, allow_unused_input=True
        )
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
    return module
