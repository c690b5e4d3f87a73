"""One GAN step: discriminator, then generator, on one global batch.

    fake = G(l)
    D: logits = D(cat[real, fake.detach()]), one forward -> loss_d (+ R1 every k-th step) -> clip -> step
    G: D frozen; loss_g = rec(fake, target) + w * adv(D(fake)) + log MSE, perceptual, colourfulness
       -> clip -> step

In the warm-up G steps alone; with `loss.n_critic` n, D does in all but every n-th step. With accumulation,
D runs over all micro-batches first and then G, each with gradients summed over the micro-batches and
synchronised once. No value is read back to the host: scalars stay on the device until
`Interval.read`.

What is drawn at random: the mixtures of the gradient penalty, by a hash of the step and the image's place in
the global batch, the same however the batch is shared out; and dropout noise, by step, rank and micro-batch,
so a generator with dropout trains alike on another number of ranks, but not the same.

Shape suffixes: B local batch, C channels of the head, H and W pixels.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from streamgan.core.color import Head, saturate
from streamgan.core.seeding import torch_seed, uniform
from streamgan.losses import (
    AdversarialLoss,
    colourfulness_loss,
    gradient_penalty,
    log_mse,
    mix,
    r1_penalty,
    rebalanced_cross_entropy,
)
from streamgan.models.zhang import ZhangClassifier

from .networks import Networks

_NOISE, _MIXTURES = 11, 12  # hash keys of dropout and of the gradient penalty's mixtures


@dataclass(frozen=True)
class Losses:
    """The losses of a run. R1, `r1_weight / 2 * |grad|^2`, comes every `r1_every` steps, times that.

    `by_class`: the reconstruction loss is the cross-entropy of a ZhangClassifier's logits instead.
    """

    adversarial: AdversarialLoss
    reconstruction: Callable[[Tensor, Tensor], Tensor]
    rec_weight: float
    r1_weight: float
    r1_every: int
    gp_weight: float = 0.0
    by_class: bool = False
    log_mse_weight: float = 0.0
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    perceptual_weight: float = 0.0
    colourfulness_weight: float = 0.0
    judge_photos: bool = False
    real_saturation: float = 1.0


class Made(NamedTuple):
    """A generator's output (B, C, H, W), and its logits where it has classes."""

    output_BCHW: Tensor
    logits: Tensor | None


class MicroBatch(NamedTuple):
    """Network input (B, 1, H, W) and target (B, C, H, W), float32; the first one's place in the batch."""

    input_B1HW: Tensor
    target_BCHW: Tensor
    first: int


@dataclass(frozen=True)
class StepSettings:
    """What changes from step to step or belongs to the run as a whole.

    With an `adversarial_weight` the discriminator steps; then, if it is to, the generator.
    """

    step: int
    seed: int
    adversarial_weight: float
    train_generator: bool = True
    accumulate: int = 1
    clip_g: float = 0.0
    clip_d: float = 0.0


class GanStep:
    """Trains both networks on one local batch a call."""

    def __init__(self, accelerator: Accelerator, networks: Networks, head: Head, losses: Losses):
        self._accelerator, self._networks, self._head, self._losses = accelerator, networks, head, losses

    def __call__(
        self, color_B3HW: Tensor, gray_B1HW: Tensor | None, *, settings: StepSettings
    ) -> dict[str, Tensor]:
        """One step on uint8 images; scalars by TensorBoard tag, still on the device."""
        chunks = [t.chunk(settings.accumulate) for t in self._head.encode(color_B3HW, gray_B1HW)]
        rank, local, size = self._accelerator.process_index, len(color_B3HW), len(chunks[0][0])
        firsts = range(rank * local, (rank + 1) * local, size)
        micros = [MicroBatch(*parts) for parts in zip(*chunks, firsts, strict=True)]
        scalars: dict[str, Tensor] = {}
        fakes: list[Made | None] = [None] * len(micros)
        if settings.adversarial_weight > 0:
            # One forward of G serves both networks; to hold no graphs, micro-batches run G again.
            if len(micros) == 1 and settings.train_generator:
                fakes = [self._generate(micros[0], 0, settings)]
            self._step_discriminator(micros, fakes, settings, scalars)
        if settings.train_generator:
            self._step_generator(micros, fakes, settings, scalars)
        if self._accelerator.scaler is not None:
            one = torch.ones((), device=color_B3HW.device)
            scalars["grad/scale"] = self._accelerator.scaler.scale(one)  # get_scale() would wait for it
        return scalars

    def _generate(self, micro: MicroBatch, index: int, settings: StepSettings) -> Made:
        # Dropout is seeded by its place in the run: a resumed run, and a second forward, draw the same noise.
        rank = self._accelerator.process_index
        torch.manual_seed(torch_seed(settings.seed, _NOISE, settings.step, rank, index))
        _power_iteration(self._networks.plain_generator, first=index == 0)
        if self._losses.by_class:
            return Made(*self._networks.generator(micro.input_B1HW, with_logits=True))
        return Made(self._networks.generator(micro.input_B1HW), None)

    def _step_discriminator(
        self,
        micros: list[MicroBatch],
        fakes: list[Made | None],
        settings: StepSettings,
        scalars: dict[str, Tensor],
    ) -> None:
        discriminator, optimizer = self._networks.discriminator, self._networks.optimizer_d
        assert discriminator is not None
        assert optimizer is not None
        losses, share = self._losses, 1 / len(micros)
        with_r1 = losses.r1_weight > 0 and settings.step % losses.r1_every == 0
        for index, micro in enumerate(micros):
            fake = fakes[index]
            if fake is None:
                with torch.no_grad():
                    fake = self._generate(micro, index, settings)
            real_pair = self._judged(micro, micro.target_BCHW, real=True).requires_grad_(with_r1)
            pairs = [real_pair, self._judged(micro, fake.output_BCHW.detach())]
            if losses.gp_weight > 0:
                pairs.append(mix(pairs[0], pairs[1], self._shares(micro, settings)))
            # The gradient of a pixel is tiny: fp16 would round it to 0, bf16 to three digits.
            options = {"full_precision": with_r1 or losses.gp_weight > 0, "parts": len(pairs)}
            _power_iteration(discriminator, first=index == 0)
            with self._synchronised(discriminator, last=index == len(micros) - 1):
                real, made, *between = discriminator(torch.cat(pairs), **options).chunk(len(pairs))
                loss_real, loss_fake = losses.adversarial.d_real(real), losses.adversarial.d_fake(made)
                loss = loss_real + loss_fake
                if with_r1:
                    penalty = r1_penalty(real, real_pair)
                    loss = loss + losses.r1_weight * losses.r1_every * penalty
                    _add(scalars, share, {"loss/r1": penalty})
                if between:
                    slope = gradient_penalty(between[0], pairs[2])
                    loss = loss + losses.gp_weight * slope
                    _add(scalars, share, {"loss/gp": slope})
                self._accelerator.backward(loss * share)
            _add(scalars, share, {"loss/d_real": loss_real, "loss/d_fake": loss_fake, "loss/d_total": loss})
            _add(scalars, share, {"d/real_mean": real.mean(), "d/fake_mean": made.mean()})
        self._finish(discriminator, optimizer, settings.clip_d, "grad/d_norm", scalars)

    def _shares(self, micro: MicroBatch, settings: StepSettings) -> Tensor:
        """How much of each mixture is the real image, float32 (B,) in [0, 1)."""
        places = np.arange(micro.first, micro.first + len(micro.input_B1HW))
        shares = torch.from_numpy(uniform(settings.seed, _MIXTURES, settings.step, places)).float()
        return shares.to(micro.input_B1HW.device, non_blocking=True)

    def _step_generator(
        self,
        micros: list[MicroBatch],
        fakes: list[Made | None],
        settings: StepSettings,
        scalars: dict[str, Tensor],
    ) -> None:
        generator, losses, share = self._networks.generator, self._losses, 1 / len(micros)
        # The plain module: a frozen network has no gradients to synchronise.
        judge = self._networks.plain_discriminator if settings.adversarial_weight > 0 else None
        if judge is not None:
            judge.requires_grad_(False)
        for index, micro in enumerate(micros):
            with self._synchronised(generator, last=index == len(micros) - 1):
                fake = fakes[index]
                if fake is None:
                    fake = self._generate(micro, index, settings)
                rec = self._reconstruction(fake, micro.target_BCHW)
                loss = losses.rec_weight * rec + self._on_photos(fake, micro, share, scalars)
                if losses.log_mse_weight > 0:
                    by_image = log_mse(fake.output_BCHW, micro.target_BCHW)
                    loss = loss + losses.log_mse_weight * by_image
                    _add(scalars, share, {"loss/g_log_mse": by_image})
                if judge is not None:
                    _power_iteration(judge, first=index == 0)
                    adversarial = losses.adversarial.g(judge(self._judged(micro, fake.output_BCHW)))
                    loss = loss + settings.adversarial_weight * adversarial
                    _add(scalars, share, {"loss/g_adv": adversarial})
                self._accelerator.backward(loss * share)
            _add(scalars, share, {"loss/g_rec": rec, "loss/g_total": loss})
        if judge is not None:
            judge.requires_grad_(True)
        self._finish(generator, self._networks.optimizer_g, settings.clip_g, "grad/g_norm", scalars)

    def _judged(self, micro: MicroBatch, output_BCHW: Tensor, *, real: bool = False) -> Tensor:
        """What the discriminator sees of an output, (B, 3, H, W)."""
        if not self._losses.judge_photos:
            return self._head.pair(micro.input_B1HW, output_BCHW)
        return self._real_photo(micro) if real else self._head.decode(micro.input_B1HW, output_BCHW)

    def _real_photo(self, micro: MicroBatch) -> Tensor:
        return saturate(self._head.decode(micro.input_B1HW, micro.target_BCHW), self._losses.real_saturation)

    def _reconstruction(self, fake: Made, target_BCHW: Tensor) -> Tensor:
        if fake.logits is None:
            return self._losses.reconstruction(fake.output_BCHW, target_BCHW)
        generator = self._networks.plain_generator
        assert isinstance(generator, ZhangClassifier)
        return rebalanced_cross_entropy(
            fake.logits, target_BCHW, centres_Q2=generator.centres_Q2, weights_Q=generator.class_weights
        )

    def _on_photos(
        self, fake: Made, micro: MicroBatch, share: float, scalars: dict[str, Tensor]
    ) -> Tensor | float:
        """The weighted losses that compare photos, in sRGB with the luminance of the input; 0 without any."""
        losses, total = self._losses, 0.0
        if losses.perceptual is None and losses.colourfulness_weight == 0:
            return total
        made_B3HW = self._head.decode(micro.input_B1HW, fake.output_BCHW)
        if losses.perceptual is not None:
            with self._accelerator.autocast():
                distance = losses.perceptual(made_B3HW, self._real_photo(micro))
            total = total + losses.perceptual_weight * distance
            _add(scalars, share, {"loss/g_perc": distance})
        if losses.colourfulness_weight > 0:
            pale = colourfulness_loss(made_B3HW)
            total = total + losses.colourfulness_weight * pale
            _add(scalars, share, {"loss/g_cf": pale})
        return total

    def _synchronised(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between ranks with the last micro-batch only."""
        return nullcontext() if last else self._accelerator.no_sync(module)

    def _finish(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        max_norm: float,
        tag: str,
        scalars: dict[str, Tensor],
    ) -> None:
        """Clip, step, clear. A gradient norm that is not finite (the same on all ranks) skips the step."""
        self._accelerator.unscale_gradients(optimizer)
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm)
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(module.parameters(), max_norm, norm)
        if self._accelerator.scaler is None:
            # What GradScaler does: the fused optimizer reads this attribute on the device.
            setattr(getattr(optimizer, "optimizer", optimizer), "found_inf", (~finite).float())  # noqa: B010
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _add(scalars, 1.0, {tag: torch.where(finite, norm, 0.0), "grad/skipped": ~finite})


def _power_iteration(network: nn.Module, *, first: bool) -> None:
    """Spectral norms move with every forward in training mode: of the micro-batches, with the first alone.

    All of them then see the same network, and accumulation does not change it.
    """
    for module in network.modules():
        if parametrize.is_parametrized(module):
            module.parametrizations.train(first and module.training)  # type: ignore[operator]


def _add(scalars: dict[str, Tensor], share: float, values: dict[str, Tensor]) -> None:
    """Add a micro-batch's share to the scalars of the step."""
    for tag, value in values.items():
        scalars[tag] = scalars.get(tag, 0.0) + value.detach().float() * share
