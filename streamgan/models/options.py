"""What the models check of the options that they are given."""

from streamgan.core.errors import ConfigError

from .layers import Norm


def is_published(model: str, variant: str | None, *others: str) -> bool:
    """Whether `variant` is "published"; ConfigError if it is neither that nor one of `others` nor None."""
    known = ("published", *others)
    if variant is not None and variant not in known:
        what = f"{model} has no such variant (got {variant!r})"
        raise ConfigError("model.variant", what, f"choose {' or '.join(known)}, or leave it out")
    return variant == "published"


def only_lab(model: str, out_channels: int, bounded: bool) -> None:
    """ConfigError unless the head is one of chroma: what `model` gives is measured in Lab ab."""
    if bounded or out_channels != 2:
        raise ConfigError("model.head", f"{model} predicts Lab ab", "choose model.head=lab")


def between(least: int, most: int, value: int, option: str) -> int:
    """`value` if it is in the range, else ConfigError."""
    if value > most:
        raise ConfigError(f"model.{option}", f"too large (got {value})", f"give at most {most}")
    return at_least(least, value, option)


def at_least(least: int, value: int, option: str) -> int:
    """`value` if it is large enough, else ConfigError."""
    if value < least:
        raise ConfigError(f"model.{option}", f"too small (got {value})", f"give at least {least}")
    return value


def encoder_norm(norm: Norm | None, pretrained: bool | str) -> Norm:
    """The norm of an encoder whose pretrained weights have BatchNorm; ConfigError if another is asked for."""
    if pretrained is not False and norm not in (None, "batch"):
        raise ConfigError(
            "model.norm",
            f"pretrained weights belong to BatchNorm (got {norm!r})",
            "leave model.norm out, or train from scratch",
        )
    return norm or "batch"
