"""The model card: how to use a model, what it was trained on, and what its figures mean.

It is made of what `config.json` and `metrics.json` of a bundle say. What only its publisher knows, above all
on what terms the photos may be used, is in `data_note`, or asked for in its place.
"""

from typing import Any

from streamgan.core.color import AB_SCALE
from streamgan.core.storage.hub import READY

_CARD = """---
license: apache-2.0
library_name: streamgan
pipeline_tag: image-to-image
tags:
- image-colorization
---

# {title}

Colours gray photos at their own resolution and luminance: a `{generator}` with the {head} head and
{million:.1f} million parameters. Colours are plausible, not true: the model guesses what a gray photo does
not show, and it learned to guess from its training photos.

## How to use it

```
pip install streamgan
streamgan colorize old/*.jpg --model {title} --out colored
```

```python
from PIL import Image
from streamgan import Colorizer

Colorizer.load("{title}")(Image.open("old.jpg")).save("colored.png")
```

{used}

For other programs, as ONNX (`pip install 'streamgan[onnx]'` makes it{runs}):

```
streamgan export {title} --to onnx --out model.onnx
```

{onnx}
Training goes on from it with `{trained}`.

## What it was trained on

{data}

**Terms of the photos.** {terms}

## What its figures mean

{figures}"""
_ONNX = """```python
import numpy as np
import onnxruntime
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

photo = Image.open("old.jpg").convert("RGB")
small = photo.resize([max(1, round(side * {size} / min(photo.size))) for side in photo.size])
lightness = rgb2lab(np.asarray(small))[..., 0]
session = onnxruntime.InferenceSession("model.onnx")
(chroma,) = session.run(None, {{"l": (lightness / 50 - 1).astype(np.float32)[None, None]}})
ab = [np.asarray(Image.fromarray(one).resize(photo.size)) for one in chroma[0] * {scale:g}]
lab = np.stack([rgb2lab(np.asarray(photo))[..., 0], *ab], axis=-1)
Image.fromarray((lab2rgb(lab) * 255).round().astype(np.uint8)).save("colored-by-onnx.png")
```
"""
_OTHER_HEAD = "What its input and output mean is said in its metadata.\n"
_UNKNOWN = (
    "streamgan does not know them. Whoever publishes this model: say here whose photos they are and what\n"
    "their licence allows (`streamgan export --data-note TEXT`)."
)
_FIGURES = """| validation{photos} | this model | left gray | median colour | the true photos |
|---|---|---|---|---|
{rows}

PSNR and SSIM compare whole photos{pixels}, which all have the luminance of the input: a photo left gray
does well, and what a model is worth is what it has beyond that. Median colour is one colour for all, the
median of the training photos. Colourfulness is that of Hasler and Suesstrunk: less than that of the true
photos is pale, which PSNR rewards. `metrics.json` has more; `streamgan evaluate` measures them on photos of
your own.
"""
_OF_THE_TASK = ("out_channels", "bounded", "size")  # options of a generator that are no settings of a model
_ROWS = {"PSNR, dB": "psnr", "SSIM": "ssim", "colourfulness": "cf"}


def model_card(title: str, config: dict[str, Any], metrics: dict[str, float], *, num_parameters: int) -> str:
    """README.md of a bundle with this `config.json` and `metrics.json`."""
    model = config["model"]
    scale = AB_SCALE * model.get("saturation", 1)
    lab = model["head"] == "lab"
    return _CARD.format(
        title=title, generator=model["generator"], head=model["head"], million=num_parameters / 1e6,
        used=_used(title, model), trained=_trained(title, config),
        runs="; `pip install onnxruntime scikit-image` runs it" if lab else "",
        onnx=_ONNX.format(size=model["size"], scale=scale) if lab else _OTHER_HEAD,
        data=_data(config), terms=config.get("data_note") or _UNKNOWN, figures=_figures(config, metrics),
    )  # fmt: skip


def _used(title: str, model: dict[str, Any]) -> str:
    factor = model.get("saturation", 1)
    times = f" and multiplied by {factor:g}" if factor != 1 else ""
    place = "" if title == READY else f"`{title}` stands for this folder; on the Hub write ORG/NAME. "
    return (
        f"{place}Colour is predicted at a short side of {model['size']} pixels{times};\n"
        "`--size` and `--saturation` change that."
    )


def _trained(title: str, config: dict[str, Any]) -> str:
    """The command that goes on from a bundle, with the settings of its networks."""
    model, training = config["model"], config.get("training") or {}
    options = {name: value for name, value in model["options"].items() if name not in _OF_THE_TASK}
    networks = {**training.get("model", {}), "variant": None, **options}
    networks |= {"generator": model["generator"], "head": model["head"], "pretrained": None}
    words = [f"data.size={model['options']['size']}"]
    words += [f"model.{name}={value}" for name, value in networks.items() if value is not None]
    given = f"data.shards=... run.dir=... run.steps=... run.init_from={title}"
    return f"streamgan train {given} {' '.join(words)}"


def _data(config: dict[str, Any]) -> str:
    photos, digest, training = config.get("photos"), config.get("shards_digest"), config.get("training") or {}
    lines = [f"- {photos:,} photos" if photos else "- photos whose number was not recorded"]
    if digest:
        lines[0] += f", in the shard set with the digest `{digest}`"
    if training:
        data, run, loss = training["data"], training["run"], training["loss"]
        lines.append(
            f"- crops of {data['size']} x {data['size']} pixels, {config['step']:,} steps of {data['batch']}"
        )
        if run["init_from"]:
            lines.append(f"- starting from the networks of `{run['init_from']}`")
        elif training["model"]["pretrained"]:
            lines.append("- starting from an encoder with ImageNet weights")
        lines.append(f"- {loss['rec']} loss, {'with' if loss['gan_weight'] else 'without'} a discriminator")
    lines.append(f"- streamgan {config['streamgan']}; `config.json` has every setting")
    return "\n".join(lines)


def _figures(config: dict[str, Any], metrics: dict[str, float]) -> str:
    if "val/psnr" not in metrics:
        return "It was not validated.\n"

    def cell(name: str) -> str:
        value = metrics.get(name)
        return "" if value is None else f"{value:.4g}"

    metrics = {**metrics, "val/gray_cf": 0.0}

    rows = [
        f"| {row} | {cell(f'val/{name}')} | {cell(f'val/gray_{name}')} | {cell(f'val/median_ab_{name}')} | "
        f"{cell(f'val/{name}_truth')} |"
        for row, name in _ROWS.items()
    ]
    count, training = metrics.get("val/num_images"), config.get("training")
    size = training["data"]["size"] if training else None
    return _FIGURES.format(
        rows="\n".join(rows),
        photos=f", {count:,.0f} photos" if count else "",
        pixels=f" of {size} x {size} pixels" if size else "",
    )
