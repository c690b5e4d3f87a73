"""The losses of a run as the step takes them; those of the generator are a list of terms.

A new loss is a function in streamgan/losses, a setting for its weight, and a line in `build_losses`.

Shape suffixes: B batch, C channels of the head, H and W pixels, h and w places, Q classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from streamgan.core.color import Head, saturate
from streamgan.core.settings import LossConfig, TrainConfig
from streamgan.losses import (
    ADVERSARIAL,
    RECONSTRUCTION,
    AdversarialLoss,
    PerceptualLoss,
    colourfulness_loss,
    log_mse,
    rebalanced_cross_entropy,
)


@dataclass(frozen=True)
class MicroBatch:
    """Real images that pass through the networks together: network input and target of the head, float32.

    `index` counts the micro-batches of a rank, `first` is the place of the first image in the global batch.
    """

    head: Head
    input_B1HW: Tensor
    target_BCHW: Tensor
    index: int = 0
    first: int = 0
    saturation: float = 1.0

    @cached_property
    def photo_B3HW(self) -> Tensor:
        """sRGB in [0, 1], `saturation` times as colourful."""
        return saturate(self.head.decode(self.input_B1HW, self.target_BCHW), self.saturation)


class Classes(NamedTuple):
    """What a classifier says of every place, and the colour and the weight in the loss of its Q classes."""

    logits_BQhw: Tensor
    centres_Q2: Tensor
    weights_Q: Tensor


@dataclass(frozen=True)
class Made:
    """What the generator made of `real`; the photo is decoded once, for all terms that look at it."""

    real: MicroBatch
    output_BCHW: Tensor
    classes: Classes | None = None

    @cached_property
    def photo_B3HW(self) -> Tensor:
        """sRGB in [0, 1] with the luminance of the input."""
        return self.real.head.decode(self.real.input_B1HW, self.output_BCHW)


@dataclass(frozen=True)
class Term:
    """A loss of the generator: `weight` times `value`, which is logged as `tag`.

    With `autocast` it is computed in the precision of the networks, else as it comes.
    """

    tag: str
    weight: float
    value: Callable[[Made], Tensor]
    autocast: bool = False


@dataclass(frozen=True)
class Losses:
    """The losses of a run. R1, `r1_weight / 2 * |grad|^2`, comes every `r1_every` steps, times that.

    `by_class`: a term looks at `Made.classes`. `judge_photos`: the discriminator sees photos, not pairs.
    """

    terms: tuple[Term, ...]
    adversarial: AdversarialLoss
    r1_weight: float = 0.0
    r1_every: int = 1
    gp_weight: float = 0.0
    by_class: bool = False
    judge_photos: bool = False
    real_saturation: float = 1.0

    @property
    def always_penalised(self) -> bool:
        """Whether every step of the discriminator has a gradient penalty."""
        return self.gp_weight > 0 or (self.r1_weight > 0 and self.r1_every == 1)


def generator_options(*, by_class: bool) -> dict[str, bool]:
    """How a generator is called in training."""
    return {"with_logits": True} if by_class else {}


def pixel_loss(loss: LossConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The reconstruction loss of (prediction, target); L1, for validation, where training goes by class."""
    return RECONSTRUCTION["l1" if loss.rec == "cross_entropy" else loss.rec]


def build_losses(config: TrainConfig) -> Losses:
    """ConfigError if the weights of the perceptual network are not there."""
    loss, by_class = config.loss, config.loss.rec == "cross_entropy"
    reconstruction = _class_loss if by_class else _on_output(pixel_loss(loss))
    terms = [Term("loss/g_rec", loss.rec_weight, reconstruction)]  # whatever its weight: logs have it
    if loss.perceptual_weight > 0:
        distance = PerceptualLoss(loss.perceptual, weights=loss.perceptual_file or True)
        terms.append(Term("loss/g_perc", loss.perceptual_weight, _on_photos(distance), autocast=True))
    more = [
        Term("loss/g_cf", loss.colourfulness_weight, lambda made: colourfulness_loss(made.photo_B3HW)),
        Term("loss/g_log_mse", loss.log_mse_weight, _on_output(log_mse)),
    ]
    return Losses(
        terms=(*terms, *(term for term in more if term.weight > 0)),
        adversarial=ADVERSARIAL[loss.gan],
        r1_weight=loss.r1_weight,
        r1_every=loss.r1_every,
        gp_weight=loss.gp_weight if loss.gan == "wgan" else 0.0,
        by_class=by_class,
        judge_photos=loss.judge == "photo",
        real_saturation=loss.real_saturation,
    )


def _on_output(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Made], Tensor]:
    return lambda made: distance(made.output_BCHW, made.real.target_BCHW)


def _on_photos(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Made], Tensor]:
    return lambda made: distance(made.photo_B3HW, made.real.photo_B3HW)


def _class_loss(made: Made) -> Tensor:
    assert made.classes is not None
    logits, centres, weights = made.classes
    return rebalanced_cross_entropy(logits, made.real.target_BCHW, centres_Q2=centres, weights_Q=weights)
