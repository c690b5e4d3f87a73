"""The grid of samples: a row for each way to show the photos, with its name before it."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_GAP = 2  # black pixels around each photo


def labelled_grid(rows: dict[str, Tensor]) -> Tensor:
    """Rows of photos ((B, 3, H, W), [0, 1]) under one another, with their names on the left: (3, ., .)."""
    from torchvision.utils import make_grid  # a second of importing

    photos = list(rows.values())
    images = make_grid(torch.cat([row.float().cpu() for row in photos]), nrow=len(photos[0]), padding=_GAP)
    side = photos[0].shape[2] + _GAP
    font = ImageFont.load_default(max(10, side // 8))
    width = 4 * _GAP + round(max(font.getlength(name) for name in rows))
    names = Image.new("RGB", (width, images.shape[1]))
    draw = ImageDraw.Draw(names)
    for row, name in enumerate(rows):
        draw.text((2 * _GAP, _GAP + (row + 0.5) * side), name, anchor="lm", fill="white", font=font)
    column = torch.from_numpy(np.array(names)).permute(2, 0, 1) / 255
    return torch.cat((column, images), 2)
