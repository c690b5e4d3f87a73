"""The zoo: generators and discriminators by name, each with the options that it has.

What builds a model declares its options as keywords, the defaults as published. Every generator takes
(B, 1, H, W) in [-1, 1] of any H, W and has

    out_channels     the head's channels: 2 for lab and ycbcr, 3 for rgb
    bounded = False  a sigmoid at the end: True for the rgb head, whose values lie in [0, 1]

and of these what it likes, each a setting `model.*` too but `size`:

    size        side of the training images in pixels; only a default may depend on it
    width       channels of the first level
    depth       what the model calls its depth
    norm        "batch", "instance", "group" or "none"
    pretrained  True: start from downloaded encoder weights; a string: from this file
    ...         whatever else `core/settings.py` has under `model`

A discriminator has in_channels = 3 and gives logits of any shape (B, 1, ...); layers.judging has the options
of a call. All have normal parameters on the default device, so `with torch.device("meta")` builds them
without memory.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from streamgan.core.errors import ConfigError
from streamgan.models import (
    ddcolor,
    ddcolor_discriminator,
    koalarization,
    paper_cnn,
    patchgan,
    resnet_unet,
    timm_unet,
    unet,
    unet_discriminator,
    vgg_unet,
    zhang,
)
from streamgan.models.options import at_least

__all__ = ["DISCRIMINATORS", "GENERATORS", "build_discriminator", "build_generator"]

_OF_THE_TASK = {"out_channels", "in_channels", "bounded", "size"}  # not to be chosen

GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "ddcolor": ddcolor.DDColor,
    "koalarization": koalarization.build_generator,
    "paper_cnn": paper_cnn.PaperGenerator,
    "resnet18_unet": partial(resnet_unet.ResNetUNet, "resnet18"),
    "resnet34_unet": partial(resnet_unet.ResNetUNet, "resnet34"),
    "resnet50_unet": partial(resnet_unet.ResNetUNet, "resnet50"),
    "timm_unet": timm_unet.TimmUNet,
    "unet": unet.UNet,
    "vgg16_unet": partial(vgg_unet.VggUNet, "vgg16"),
    "vgg19_unet": partial(vgg_unet.VggUNet, "vgg19"),
    "zhang": zhang.ZhangClassifier,
}

DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "ddcolor": ddcolor_discriminator.StridedDiscriminator,
    "paper_cnn": paper_cnn.PaperDiscriminator,
    "patchgan": patchgan.PatchDiscriminator,
    "pix2pix": partial(patchgan.PatchDiscriminator, variant="published"),
    "unet": unet_discriminator.UNetDiscriminator,
}


def build_generator(name: str, *, where: str = "model.generator", **options: Any) -> nn.Module:
    """The generator called `name`; an option that is None is as published.

    ConfigError, at `where` if there is none of this name, if it lacks or refuses an
    option that is set.
    """
    return _build(GENERATORS, name, where, options)


def build_discriminator(name: str, *, where: str = "model.discriminator", **options: Any) -> nn.Module:
    """The discriminator called `name`, like `build_generator`."""
    return _build(DISCRIMINATORS, name, where, options)


def _build(
    table: Mapping[str, Callable[..., nn.Module]], name: str, where: str, options: dict[str, Any]
) -> nn.Module:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.4)
        advice = f"did you mean {near[0]!r}? " if near else ""
        todo = f"{advice}choose from {', '.join(sorted(table))}"
        raise ConfigError(where, f"unknown name (got {name!r})", todo)
    known, chosen = inspect.signature(table[name]).parameters, {}
    for option, value in options.items():
        if option in known and value is not None:
            chosen[option] = at_least(1, value, option) if option in ("width", "depth") else value
        elif value is not None and value is not False and option != "size":
            what = f"{name} does not have this option (got {value!r})"
            has = ", ".join(sorted(known.keys() - _OF_THE_TASK))
            todo = f"leave it out, or choose another model ({name} has {has})"
            raise ConfigError(f"model.{option}", what, todo)
    return table[name](**chosen)
