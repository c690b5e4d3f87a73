"""One GAN step: discriminator, then generator, on one global batch.

    fake = G(l)
    D: logits = D(cat[real, fake.detach()]), one forward -> loss_d (+ R1 every k-th step) -> clip -> step
    G: D frozen; loss_g = rec(fake, target) + w * adv(D(fake)) -> clip -> step

With accumulation, D runs over all micro-batches first and then G, each with gradients summed over the
micro-batches and synchronised once. No value is read back to the host: scalars stay on the device until
`Meter.read`.

Shape suffixes: B local batch, C channels of the head, H and W pixels.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from streamgan.core.color import Head
from streamgan.core.seeding import torch_seed
from streamgan.losses import AdversarialLoss, r1_penalty

if TYPE_CHECKING:
    from .build import Networks

_NOISE = 11  # hash key of dropout


@dataclass(frozen=True)
class Losses:
    """The losses of a run. R1, `r1_weight / 2 * |grad|^2`, comes every `r1_every` steps, times that."""

    adversarial: AdversarialLoss
    reconstruction: Callable[[Tensor, Tensor], Tensor]
    rec_weight: float
    r1_weight: float
    r1_every: int


class MicroBatch(NamedTuple):
    """Network input (B, 1, H, W) and target (B, C, H, W), float32."""

    input_B1HW: Tensor
    target_BCHW: Tensor


@dataclass(frozen=True)
class StepSettings:
    """What changes from step to step or belongs to the run as a whole."""

    step: int
    seed: int
    adversarial_weight: float
    accumulate: int = 1
    clip_g: float = 0.0
    clip_d: float = 0.0


def gan_step(
    accelerator: Accelerator,
    networks: "Networks",
    head: Head,
    losses: Losses,
    color_B3HW: Tensor,
    gray_B1HW: Tensor | None,
    *,
    settings: StepSettings,
) -> dict[str, Tensor]:
    """Train both networks on one local batch of uint8 images; scalars by tag, still on the device."""
    input_B1HW, target_BCHW = head.encode(color_B3HW, gray_B1HW)
    micros = [
        MicroBatch(*parts)
        for parts in zip(
            input_B1HW.chunk(settings.accumulate), target_BCHW.chunk(settings.accumulate), strict=True
        )
    ]
    scalars: dict[str, Tensor] = {}
    fakes: list[Tensor | None] = [None] * len(micros)
    if settings.adversarial_weight > 0:
        # One forward of G serves both networks; to hold no graphs, micro-batches run G again.
        if len(micros) == 1:
            fakes = [_generate(networks, micros[0], settings, 0, accelerator)]
        _step_discriminator(accelerator, networks, head, losses, micros, fakes, settings, scalars)
    _step_generator(accelerator, networks, head, losses, micros, fakes, settings, scalars)
    return scalars


def _generate(
    networks: "Networks", micro: MicroBatch, settings: StepSettings, index: int, accelerator: Accelerator
) -> Tensor:
    # Dropout is seeded by its place in the run: a resumed run, and a second forward, draw the same noise.
    torch.manual_seed(torch_seed(settings.seed, _NOISE, settings.step, accelerator.process_index, index))
    return networks.generator(micro.input_B1HW)


def _step_discriminator(
    accelerator: Accelerator,
    networks: "Networks",
    head: Head,
    losses: Losses,
    micros: list[MicroBatch],
    fakes: list[Tensor | None],
    settings: StepSettings,
    scalars: dict[str, Tensor],
) -> None:
    discriminator, optimizer = networks.discriminator, networks.optimizer_d
    assert discriminator is not None
    assert optimizer is not None
    with_r1 = losses.r1_weight > 0 and settings.step % losses.r1_every == 0
    for index, micro in enumerate(micros):
        fake = fakes[index]
        if fake is None:
            with torch.no_grad():
                fake = _generate(networks, micro, settings, index, accelerator)
        real_pair = head.pair(micro.input_B1HW, micro.target_BCHW).requires_grad_(with_r1)
        fake_pair = head.pair(micro.input_B1HW, fake.detach())
        last = index == len(micros) - 1
        with nullcontext() if last else accelerator.no_sync(discriminator):
            real, made = discriminator(torch.cat((real_pair, fake_pair))).chunk(2)
            loss_real, loss_fake = losses.adversarial.d_real(real), losses.adversarial.d_fake(made)
            loss = loss_real + loss_fake
            if with_r1:
                penalty = r1_penalty(real, real_pair)
                loss = loss + losses.r1_weight * losses.r1_every * penalty
                _add(scalars, "loss/r1", penalty, len(micros))
            accelerator.backward(loss / len(micros))
        _add(scalars, "loss/d_real", loss_real, len(micros))
        _add(scalars, "loss/d_fake", loss_fake, len(micros))
        _add(scalars, "loss/d_total", loss, len(micros))
        _add(scalars, "d/real_mean", real.mean(), len(micros))
        _add(scalars, "d/fake_mean", made.mean(), len(micros))
    _finish(accelerator, discriminator, optimizer, settings.clip_d, "grad/d_norm", scalars)


def _step_generator(
    accelerator: Accelerator,
    networks: "Networks",
    head: Head,
    losses: Losses,
    micros: list[MicroBatch],
    fakes: list[Tensor | None],
    settings: StepSettings,
    scalars: dict[str, Tensor],
) -> None:
    # The plain module: a frozen network has no gradients to synchronise.
    judge = networks.plain_discriminator if settings.adversarial_weight > 0 else None
    if judge is not None:
        judge.requires_grad_(False)
    for index, micro in enumerate(micros):
        last = index == len(micros) - 1
        with nullcontext() if last else accelerator.no_sync(networks.generator):
            fake = fakes[index]
            if fake is None:
                fake = _generate(networks, micro, settings, index, accelerator)
            rec = losses.reconstruction(fake, micro.target_BCHW)
            loss = losses.rec_weight * rec
            if judge is not None:
                adv = losses.adversarial.g(judge(head.pair(micro.input_B1HW, fake)))
                loss = loss + settings.adversarial_weight * adv
                _add(scalars, "loss/g_adv", adv, len(micros))
            accelerator.backward(loss / len(micros))
        _add(scalars, "loss/g_rec", rec, len(micros))
        _add(scalars, "loss/g_total", loss, len(micros))
    if judge is not None:
        judge.requires_grad_(True)
    _finish(accelerator, networks.generator, networks.optimizer_g, settings.clip_g, "grad/g_norm", scalars)


def _finish(
    accelerator: Accelerator,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    max_norm: float,
    tag: str,
    scalars: dict[str, Tensor],
) -> None:
    """Clip, step, clear. A gradient norm that is not finite (the same on all ranks) skips the step."""
    accelerator.unscale_gradients(optimizer)
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    finite = torch.isfinite(norm)
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(module.parameters(), max_norm, norm)
    if accelerator.scaler is None:
        # What GradScaler does: the fused optimizer reads this attribute on the device.
        setattr(getattr(optimizer, "optimizer", optimizer), "found_inf", (~finite).float())  # noqa: B010
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    scalars[tag] = torch.where(finite, norm, 0.0)
    _add(scalars, "grad/skipped", (~finite).float(), 1)


def _add(scalars: dict[str, Tensor], tag: str, value: Tensor, parts: int) -> None:
    scalars[tag] = scalars.get(tag, 0.0) + value.detach().float() / parts
