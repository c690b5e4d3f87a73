"""docs/colors.jpg: eight photographs that the packaged model was not trained on: gray, coloured, as they are.

    python benchmarks/colors.py [--model MODEL] [--out FILE]

They ship inside scikit-image and scikit-learn (extra `demo`), whose licences allow it. Each is cut to its
central square of SIDE pixels; scores are those of the squares.
"""

from pathlib import Path

import click
import numpy as np
import skimage
import sklearn
import torch
from PIL import Image, ImageOps

from streamgan import Colorizer
from streamgan.core.storage.hub import READY
from streamgan.metrics.functional import psnr

SIDE = 192
SKIMAGE = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
)
SKLEARN = ("china.jpg", "flower.jpg")


def photos() -> list[Image.Image]:
    """The squares, RGB."""
    paths = [Path(skimage.__file__).parent / "data" / name for name in SKIMAGE]
    paths += [Path(sklearn.__file__).parent / "datasets" / "images" / name for name in SKLEARN]
    return [ImageOps.fit(Image.open(path).convert("RGB"), (SIDE, SIDE)) for path in paths]


@click.command()
@click.option("--model", default=READY, show_default=True)
@click.option("--size", type=int, help="Short side of the chroma.")
@click.option("--saturation", default=1.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/colors.jpg"), show_default=True)
def main(model: str, size: int | None, saturation: float, out: Path) -> None:
    truths = photos()
    grays = [photo.convert("L") for photo in truths]
    colored = Colorizer.load(model, size=size, saturation=saturation)(grays)
    rows = [[gray.convert("RGB") for gray in grays], [image.convert("RGB") for image in colored], truths]
    sheet = Image.new("RGB", (SIDE * len(truths), SIDE * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * SIDE, y * SIDE))
    sheet.save(out, quality=90)
    for name, row in (("gray", rows[0]), ("coloured", rows[1])):
        print(f"{name}: {psnr(_batch(row), _batch(truths)).mean():.2f} dB", psnr(_batch(row), _batch(truths)))


def _batch(images: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
