"""Colour queries: learned vectors that gather colours from feature maps of several scales.

The colour decoder of DDColor, Kang et al., ICCV 2023, https://arxiv.org/abs/2212.11613 (section 3.3). Its
layers are those of Cheng et al., "Masked-attention Mask Transformer", CVPR 2022,
https://arxiv.org/abs/2112.01527, without the masks: attention to one scale, attention among the queries, a
feed-forward network, each with a residual connection and then LayerNorm.

Shape suffixes: B batch, C channels, D the model's channels, H height, W width, N = H * W, Q queries.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_HEAD_DIM = 32  # 8 heads at 256 channels
_FFN_FACTOR = 8  # 2048 at 256 channels


def sine_positions(
    height: int, width: int, num_channels: int, *, device: torch.device, published: bool = False
) -> Tensor:
    """Sines and cosines of the row and the column at many wavelengths, float32 (N, D).

    Carion et al., "End-to-End Object Detection with Transformers", 2020: coordinates run from 0 to 2 pi over
    the image, wavelengths grow geometrically up to 10,000. Published: a pixel's coordinate is that of its
    lower right corner; sines and cosines alternate. Here: of its centre, the same seen from either side; the
    sines come first, an order that means nothing to a network that learns.
    """
    anchor, alternating = (1.0, 2) if published else (0.5, 1)
    quarter = num_channels // 4
    wavelength = 10_000 ** (torch.arange(quarter, device=device) / quarter)
    angles = []
    for size in (height, width):
        place = (torch.arange(size, device=device) + anchor) / size * 2 * math.pi
        angle = place[:, None] / wavelength
        angles.append(torch.stack((angle.sin(), angle.cos()), alternating).flatten(1))
    rows, columns = angles
    both = torch.cat(
        (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)), -1
    )  # (H, W, D)
    return both.reshape(height * width, -1)


class QueryLayer(nn.Module):
    """Queries (B, Q, D) -> the same, after a look at one scale (B, N, D)."""

    def __init__(self, model_dim: int):
        super().__init__()
        heads = max(1, model_dim // _HEAD_DIM)
        self.cross = nn.MultiheadAttention(model_dim, heads, batch_first=True)
        self.among = nn.MultiheadAttention(model_dim, heads, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(model_dim, _FFN_FACTOR * model_dim),
            nn.ReLU(),
            nn.Linear(_FFN_FACTOR * model_dim, model_dim),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(model_dim) for _ in range(3))

    def forward(self, x_BQD: Tensor, places_QD: Tensor, keys_BND: Tensor, values_BND: Tensor) -> Tensor:
        query = x_BQD + places_QD
        seen, _ = self.cross(query, keys_BND, values_BND, need_weights=False)
        x_BQD = self.norms[0](x_BQD + seen)
        query = x_BQD + places_QD
        shared, _ = self.among(query, query, x_BQD, need_weights=False)
        x_BQD = self.norms[1](x_BQD + shared)
        return self.norms[2](x_BQD + self.feed(x_BQD))


class QueryDecoder(nn.Module):
    """Maps of several scales, (B, C, H, W) each, -> a vector for every query, (B, Q, D).

    Layer i looks at scale i modulo their number, the smallest first.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        model_dim: int,
        num_queries: int,
        num_layers: int,
        published: bool = False,
    ):
        super().__init__()
        self.model_dim, self.published = model_dim, published
        self.content = nn.Parameter(torch.empty(num_queries, model_dim).normal_())
        self.places = nn.Parameter(torch.empty(num_queries, model_dim).normal_())
        # A scale that no layer looks at has no parameters: each of them must learn.
        used = min(len(widths), num_layers)
        self.project = nn.ModuleList(nn.Conv2d(channels, model_dim, 1) for channels in widths[:used])
        self.scales = nn.Parameter(torch.empty(used, model_dim).normal_())
        self.layers = nn.ModuleList(QueryLayer(model_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(model_dim)
        self.embed = nn.Sequential(
            nn.Linear(model_dim, model_dim), nn.ReLU(), nn.Linear(model_dim, model_dim), nn.ReLU(),
            nn.Linear(model_dim, model_dim),
        )  # fmt: skip
        if published:
            self._start_as_published()

    def _start_as_published(self) -> None:
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        for conv in self.project:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, maps_BCHW: Sequence[Tensor]) -> Tensor:
        keys, values = [], []
        for project, scale_D, x_BCHW in zip(self.project, self.scales, maps_BCHW, strict=False):
            values_BND = project(x_BCHW).flatten(2).transpose(1, 2) + scale_D
            height, width = x_BCHW.shape[-2:]
            places_ND = sine_positions(
                height, width, self.model_dim, device=x_BCHW.device, published=self.published
            )
            values.append(values_BND)
            keys.append(values_BND + places_ND)
        x_BQD = self.content.expand(maps_BCHW[0].shape[0], -1, -1)  # len() would fix the batch of an export
        for index, layer in enumerate(self.layers):
            scale = index % len(keys)
            x_BQD = layer(x_BQD, self.places, keys[scale], values[scale])
        return self.embed(self.norm(x_BQD))
