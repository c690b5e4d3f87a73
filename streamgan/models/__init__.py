"""The zoo: generators and discriminators by name.

Every generator is built by the same keywords and takes (B, 1, H, W) in [-1, 1] of any H, W:

    out_channels   the head's channels: 2 for lab and ycbcr, 3 for rgb
    size = 256     side of the training images in pixels; only a default may depend on it
    width = None   channels of the first level; None: as published
    depth = None   what the model calls its depth; None: as published
    norm = None    "batch", "instance", "group" or "none"; None: the model's own
    pretrained = False   True: start from downloaded encoder weights; a string: from this file
    bounded = False      a sigmoid at the end: True for the rgb head, whose values lie in [0, 1]
    dropout = None       rate of the model's dropout, in [0, 1); None: as published
    variant = None       another form of the model, by the name that its module gives it

Every discriminator is built by in_channels = 3, width, depth, norm as above and gives logits of any shape
(B, 1, ...); layers.judging has the options of a call. A model that does not have an option raises ConfigError
when it is set; none is ignored. All have normal parameters on the default device, so
`with torch.device("meta")` builds them without memory.
"""

from collections.abc import Callable

from torch import nn

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
from streamgan.models.options import choose

__all__ = ["DISCRIMINATORS", "GENERATORS", "choose"]

GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "ddcolor": ddcolor.build_generator,
    "koalarization": koalarization.build_generator,
    "paper_cnn": paper_cnn.build_generator,
    "resnet18_unet": resnet_unet.build_resnet18,
    "resnet34_unet": resnet_unet.build_resnet34,
    "resnet50_unet": resnet_unet.build_resnet50,
    "timm_unet": timm_unet.build_generator,
    "unet": unet.build_generator,
    "vgg16_unet": vgg_unet.build_vgg16,
    "vgg19_unet": vgg_unet.build_vgg19,
    "zhang": zhang.build_generator,
}

DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "ddcolor": ddcolor_discriminator.build_discriminator,
    "paper_cnn": paper_cnn.build_discriminator,
    "patchgan": patchgan.build_discriminator,
    "pix2pix": patchgan.build_pix2pix,
    "unet": unet_discriminator.build_discriminator,
}
