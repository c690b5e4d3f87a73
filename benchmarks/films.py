"""Films: do their colours flicker, and what does a frame cost.

    python benchmarks/films.py PHOTOS --other CHECKOUT --out benchmarks/results/films.md

PHOTOS is a folder of parquet with pairs of 512 pixels. There is no film in it, so films are made: a camera
that stands still, goes sideways or closer over a photo, with the noise of film. As the motion is known, the
chroma of a point of the photo is compared from frame to frame, with smoothing and without. For the cost of a
frame of 1280 x 720 this tree and CHECKOUT (an earlier commit, say) colour one film in turn, each in a new
process.
"""

import io
import shlex
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from common import (
    ask_tree,
    load,
    machine,
    markdown,
    parser_of_two_trees,
    read_pairs,
    scratch,
    spread,
    two_trees,
    write_report,
)
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from streamgan.inference.colorizer import Chroma, Colorizer
from streamgan.inference.smooth import Smoother
from streamgan.inference.yuv import Painter, Space

SIDE, NOISE, RATE = 512, 6.0, 24
SPACE = Space(tag=2, full=False, red=0.299, blue=0.114, bits=8)
GRID = 4.0  # pixels of the photo from point to point
# Colours a film with the packaged model: seconds and CPU seconds after all is loaded.
ARM = """
import json, os, sys, time
from pathlib import Path
from streamgan.inference.colorizer import Colorizer
from streamgan.inference.video import color_video

colorizer = Colorizer.load(device="cpu")
began, before = time.monotonic(), os.times()
color_video(colorizer, Path(sys.argv[1]), Path(sys.argv[2]))
after = os.times()
cpu = after.user + after.system - before.user - before.system
print(json.dumps({"wall": time.monotonic() - began, "cpu": cpu}))
"""


class Window(NamedTuple):
    """What of the photo a frame shows, in its pixels."""

    left: float
    top: float
    width: float
    height: float


def _window(motion: str, share: float, size: tuple[int, int]) -> Window:
    """`share` of the way that a camera goes in four seconds."""
    width = {"still": 420.0, "sideways": 360.0, "closer": 440.0 - 140 * share}[motion]
    height = width * size[1] / size[0]
    if motion == "closer":
        return Window((SIDE - width) / 2, (SIDE - height) / 2, width, height)
    start = (40.0, 100.0) if motion == "still" else (10.0 + 140 * share, 80.0 + 60 * share)
    return Window(*start, width, height)


def film(
    photo: Image.Image, motion: str, count: int, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, Window]]:
    """Luma of each frame, (H, W), and where it was taken."""
    rng = np.random.default_rng(0)
    for index in range(count):
        window = _window(motion, index % (4 * RATE) / (4 * RATE), size)
        left, top, width, height = window
        box = (left, top, left + width, top + height)
        gray = np.asarray(photo.resize(size, Image.Resampling.BICUBIC, box), np.float32)
        noisy = (gray + rng.normal(0, NOISE, gray.shape)).clip(0, 255)
        yield (16 + noisy * 219 / 255).round().astype(np.uint8), window


def write(path: Path, photo: Image.Image, count: int, size: tuple[int, int]) -> Path:
    with av.open(str(path), "w") as made:
        video = made.add_stream("libx264", rate=RATE, options={"crf": "18"})
        video.width, video.height = size
        for index, (luma, _) in enumerate(film(photo, "sideways", count, size)):
            frame = av.VideoFrame.from_ndarray(luma, format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            made.mux(video.encode(frame))
        made.mux(video.encode(None))
    return path


def change(planes: list[Tensor], windows: list[Window]) -> float:
    """Mean change of Cb and Cr from frame to frame, in levels of 255, at points of the photo."""
    steps = torch.arange(GRID / 2, SIDE, GRID)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    found = [_sampled(plane, window, x, y) for plane, window in zip(planes, windows, strict=True)]
    changes = []
    for (before, seen_before), (after, seen_after) in pairwise(found):
        changes.append((after - before).abs()[:, seen_before & seen_after].mean().item())
    return float(np.mean(changes))


def _sampled(plane: Tensor, window: Window, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Chroma at points of the photo, and which of them are in the frame."""
    across = (x - window.left) / window.width * 2 - 1
    down = (y - window.top) / window.height * 2 - 1
    places = torch.stack((across, down), -1)[None]
    found = F.grid_sample(plane[None], places, align_corners=False, padding_mode="border")[0]
    return found, (across.abs() < 0.95) & (down.abs() < 0.95)


def flicker(colorizer: Colorizer, photo: Image.Image, motion: str, count: int) -> dict[str, float]:
    """Change of chroma by frame: of single frames, and smoothed."""
    size = (640, 360)
    painter = Painter(colorizer, SPACE)
    frames = list(film(photo, motion, count, size))
    chromas = colorizer.predict([painter.photo(luma, 0) for luma, _ in frames])
    arms: dict[str, Callable[[Chroma], Chroma]] = {"single": lambda chroma: chroma, "smoothed": Smoother()}
    found = {}
    for name, smooth in arms.items():
        planes = [
            torch.from_numpy(
                painter(luma, smooth(chroma), 0, (size[1] // 2, size[0] // 2)).astype(np.float32)
            )
            for (luma, _), chroma in zip(frames, chromas, strict=True)
        ]
        found[name] = change(planes, [window for _, window in frames])
    return found


def run_arm(tree: Path, source: Path, target: Path) -> dict[str, float]:
    found = ask_tree(tree, "-c", ARM, source, target)
    target.unlink()
    print(f"{tree}, {source.name}: {found}", file=sys.stderr)
    return found


def main() -> None:
    parser = parser_of_two_trees(__doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--frames", type=int, default=48)
    args = parser.parse_args()
    grays = [gray for _, gray in read_pairs(args.photos)[3:60:10]]
    photos = [Image.open(io.BytesIO(gray)).convert("L") for gray in grays]
    colorizer, before = Colorizer.load(device="cpu"), load()
    changes = []
    for motion in ("still", "sideways", "closer"):
        found = [flicker(colorizer, photo, motion, args.frames) for photo in photos]
        single, smoothed = ([one[name] for one in found] for name in ("single", "smoothed"))
        ratios = [one / other for one, other in zip(single, smoothed, strict=True)]
        print(f"{motion}: {found}", file=sys.stderr)
        changes.append([f"camera {motion}", spread(single), spread(smoothed), spread(ratios, 1)])
    trees = two_trees(args)
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with scratch(None) as folder:
        source = write(folder / "film.mp4", photos[0], args.frames, (1280, 720))
        for _ in range(args.rounds):
            for name, tree in trees.items():
                costs[name].append(run_arm(tree, source, folder / "out.mp4"))
    rows = []
    for name, found in costs.items():
        columns = []
        for what in ("wall", "cpu"):
            times = [one[what] for one in found]
            ratios = [other[what] / one for one, other in zip(times, costs[args.name], strict=True)]
            columns += [spread([one / args.frames for one in times], 3), spread(ratios)]
        rows.append([name, *columns])
    words = ["PHOTOS", "--other", "CHECKOUT", "--name", args.name, "--rounds", str(args.rounds)]
    command = shlex.join(["python", "benchmarks/films.py", *words, "--frames", str(args.frames)])
    text = (
        f"# Films\n\nMachine: {machine()}. Load average {before} before, {load()} after.\n"
        f"Command: `{command}`.\n\nFlicker: mean change of Cb and Cr from frame to frame, in levels of 255, "
        f"along the known motion; {len(photos)} photos, {args.frames} frames of 640 x 360 each, noise of "
        f"{NOISE:.0f} levels; median (min-max) over photos.\n\n"
        f"{markdown(['', 'frames by themselves', 'smoothed', 'times less'], changes)}\n\n"
        f"Cost of a frame of 1280 x 720, decoded, coloured and encoded as H.264: n = {args.rounds} rounds in "
        f"turn, median (min-max); how many times as fast as {args.name}.\n\n"
        f"{markdown(['', 'seconds', 'times as fast', 'CPU seconds', 'times less'], rows)}"
    )
    write_report(args.out, text)


if __name__ == "__main__":
    main()
