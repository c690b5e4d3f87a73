"""Settings that another one switches off: they are named, so that nobody takes them for tried."""

from .config import setting_names
from .settings import TrainConfig
from .storage.address import is_address

_OF_D = ("model.discriminator", "model.d_width", "optim.lr_d", "optim.clip_d")
_OF_GAN = ("gan", "judge", "r1_weight", "r1_every", "gp_weight", "n_critic", "warmup_steps", "ramp_steps")


def without_effect(config: TrainConfig) -> list[str]:
    """`section.key (only with ...)` of every setting that is not at its default and changes nothing."""
    data, model, loss, optim = config.data, config.model, config.loss, config.optim
    sets = [data.shards] if isinstance(data.shards, str) else [one.path for one in data.shards]
    remote = any(map(is_address, sets))
    needs = {
        "data.max_bad": ("data.on_bad=substitute", data.on_bad == "substitute"),
        "data.stall_s": ("data.workers", data.workers > 0),
        "data.cache": ("shards at an address", remote),
        "data.cache_gb": ("shards at an address and a data.cache", remote and data.cache != "none"),
        "model.pretrained": (  # but it freezes the published embedder of koalarization
            "new networks, without run.init_from",
            config.run.init_from is None or (model.generator == "koalarization" and bool(model.variant)),
        ),
        "loss.gp_weight": ("loss.gan=wgan", loss.gan == "wgan"),
        "loss.r1_every": ("loss.r1_weight", loss.r1_weight > 0),
        "loss.uniform_share": ("loss.rec=cross_entropy", loss.rec == "cross_entropy"),
        "loss.perceptual": ("loss.perceptual_weight", loss.perceptual_weight > 0),
        "loss.perceptual_file": ("loss.perceptual_weight", loss.perceptual_weight > 0),
        "loss.real_saturation": (
            "loss.perceptual_weight or loss.judge=photo",
            loss.perceptual_weight > 0 or (loss.judge == "photo" and loss.gan_weight > 0),
        ),
        "optim.decay_after": ("an optim.schedule other than constant", optim.schedule != "constant"),
        "optim.decay_every": ("optim.schedule=step", optim.schedule == "step"),
        "optim.decay": ("optim.schedule=step", optim.schedule == "step"),
    }
    if loss.gan_weight == 0:
        needs |= {name: ("loss.gan_weight", False) for name in (*_OF_D, *(f"loss.{key}" for key in _OF_GAN))}
    fields, found = setting_names(), []
    for name, (condition, holds) in needs.items():
        section, key = name.split(".")
        if not holds and getattr(getattr(config, section), key) != fields[name].default:
            found.append(f"{name} (only with {condition})")
    return found
