"""An experiment: the networks' forward and backward passes as CUDA graphs, one call of the host each.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. A graph has one shape, so the passes of
training are caught as they come: G on the gray of a batch; D on real photos and made ones at once, for its
weights; D on made photos, for G. All other calls (validation, penalties, other sizes) go on as before. One
process, no accumulation. The warm-up moves the statistics of batch norm and the power iteration of spectral
norm.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from streamgan.train.networks import Networks

WARM_UPS = 3
Forward = Callable[..., Tensor]


class _Pass(nn.Module):
    """A network with the options of one of its passes; graphs are of modules, and take tensors alone."""

    def __init__(self, network: nn.Module, options: dict[str, Any]):
        super().__init__()
        self.network, self.options = network, options

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, **self.options)


def use_graphs(networks: Networks, gray_B1HW: Tensor, pair_BKHW: Tensor) -> None:
    """Replace the passes of a step on inputs like these, within `networks`."""
    discriminator = networks.plain_discriminator
    assert discriminator is not None
    options = {"full_precision": False, "parts": 2}
    _replace(networks.plain_generator, [({}, gray_B1HW)])
    both = torch.cat((pair_BKHW, pair_BKHW))
    _replace(discriminator, [(options, both), ({}, pair_BKHW.clone().requires_grad_())])


def _replace(network: nn.Module, passes: list[tuple[dict[str, Any], Tensor]]) -> None:
    """`network.forward` takes a graph where options, shape, mode and wanted gradients are those of a pass."""
    plain: Forward = network.forward
    graphs: list[tuple[dict[str, Any], Tensor, Forward]] = []
    for options, images in passes:
        graph: Forward = partial(plain, **options)  # a rehearsal: the same calls without a graph
        if images.is_cuda:
            network.train()
            if images.requires_grad:  # that pass is one of frozen weights
                network.requires_grad_(False)
            graph = _Pass(network, options)
            torch.cuda.make_graphed_callables(
                graph, (images,), num_warmup_iters=WARM_UPS, allow_unused_input=True
            )
            if images.requires_grad:
                network.requires_grad_(True)
        graphs.append((options, images, graph))

    def forward(images: Tensor, **given: Any) -> Tensor:
        for options, like, graph in graphs:
            fits = (given, images.shape, images.requires_grad) == (options, like.shape, like.requires_grad)
            if fits and network.training and torch.is_grad_enabled():
                return graph(images)
        return plain(images, **given)

    network.forward = forward
