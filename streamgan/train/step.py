"""One GAN step: discriminator, then generator, on one global batch.

    fake = G(l)
    D: logits = D(cat[real, fake.detach()]), one forward -> loss_d (+ R1 every k-th step) -> clip -> step
    G: D frozen; loss_g = rec(fake, target) + the other terms + w * adv(D(fake)) -> clip -> step

In the warm-up G steps alone; with `loss.n_critic` n, D does in all but every n-th step. With accumulation,
D runs over all micro-batches first and then G, each with gradients summed over the micro-batches and
synchronised once. No value is read back to the host: scalars stay on the device until
`Interval.read`.

What is drawn at random: the mixtures of the gradient penalty, by a hash of the step and the image's place in
the global batch, the same however the batch is shared out; and dropout noise, by step, rank and micro-batch,
so a generator with dropout trains alike on another number of ranks, but not the same.

Shape suffixes: B local batch, C channels of the head, H and W pixels.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from streamgan.core.color import Head
from streamgan.core.seeding import torch_seed, uniform
from streamgan.losses import gradient_penalty, mix, r1_penalty
from streamgan.models.zhang import ZhangClassifier

from .networks import Networks
from .terms import Classes, Losses, Made, MicroBatch, generator_options

_NOISE, _MIXTURES = 11, 12  # hash keys of dropout and of the gradient penalty's mixtures


class GanStep:
    """Trains both networks on one local batch per call, in `accumulate` micro-batches.

    `clip_g`, `clip_d`: largest norms of their gradients; 0: no clipping.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        networks: Networks,
        head: Head,
        losses: Losses,
        *,
        seed: int,
        accumulate: int = 1,
        clip_g: float = 0.0,
        clip_d: float = 0.0,
    ):
        self._accelerator, self._networks, self._head, self._losses = accelerator, networks, head, losses
        self._seed, self._accumulate, self._clip_g, self._clip_d = seed, accumulate, clip_g, clip_d
        self._options = generator_options(by_class=losses.by_class)
        self._g = _Parts(networks.plain_generator)
        self._d = None if networks.plain_discriminator is None else _Parts(networks.plain_discriminator)

    def __call__(
        self,
        color_B3HW: Tensor,
        gray_B1HW: Tensor | None,
        *,
        step: int,
        adversarial_weight: float,
        train_generator: bool = True,
    ) -> dict[str, Tensor]:
        """One step on uint8 images; scalars by TensorBoard tag, still on the device.

        With an `adversarial_weight` the discriminator steps; then, if it is to, the generator.
        """
        micros = self._split(color_B3HW, gray_B1HW)
        scalars: dict[str, Tensor] = {}
        self._g.keep_statistics()
        fake = None
        if adversarial_weight > 0:
            # One forward of G serves both networks; to hold no graphs, micro-batches run G again.
            if len(micros) == 1 and train_generator:
                fake = self._generate(micros[0], step)
            self._step_discriminator(micros, fake, step, scalars)
            if not train_generator:  # it made photos all the same
                self._g.put_back_statistics(scalars["grad/skipped"])
        if train_generator:
            self._step_generator(micros, fake, step, adversarial_weight, scalars)
        if self._accelerator.scaler is not None:
            one = torch.ones((), device=color_B3HW.device)
            scalars["grad/scale"] = self._accelerator.scaler.scale(one)  # get_scale() would wait for it
        return scalars

    def inputs(self, color_B3HW: Tensor, gray_B1HW: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the generator, and of real images the discriminator, is given of a (micro-)batch."""
        micro = self._split(color_B3HW, gray_B1HW)[0]
        return micro.input_B1HW, self._view(micro)

    def _split(self, color_B3HW: Tensor, gray_B1HW: Tensor | None) -> list[MicroBatch]:
        chunks = [t.chunk(self._accumulate) for t in self._head.encode(color_B3HW, gray_B1HW)]
        micros, first = [], self._accelerator.process_index * len(color_B3HW)
        for index, (given, target) in enumerate(zip(*chunks, strict=True)):
            saturation = self._losses.real_saturation
            micros.append(MicroBatch(self._head, given, target, index, first, saturation))
            first += len(given)
        return micros

    def _generate(self, micro: MicroBatch, step: int) -> Made:
        # Dropout is seeded by its place in the run: a resumed run, and a second forward, draw the same noise.
        rank = self._accelerator.process_index
        _seed_noise(torch_seed(self._seed, _NOISE, step, rank, micro.index), micro.input_B1HW.device)
        generator = self._networks.plain_generator
        self._g.set_power_iteration(micro)
        made = self._networks.generator(micro.input_B1HW, **self._options)
        if not self._losses.by_class:
            return Made(micro, made)
        assert isinstance(generator, ZhangClassifier)
        output, logits = made
        return Made(micro, output, Classes(logits, generator.centres_Q2, generator.class_weights))

    def _step_discriminator(
        self, micros: list[MicroBatch], made: Made | None, step: int, scalars: dict[str, Tensor]
    ) -> None:
        discriminator, optimizer = self._networks.discriminator, self._networks.optimizer_d
        assert discriminator is not None
        assert optimizer is not None
        assert self._d is not None
        losses, share = self._losses, 1 / len(micros)
        self._d.keep_statistics()
        with_r1 = losses.r1_weight > 0 and step % losses.r1_every == 0
        for micro in micros:
            with torch.no_grad():
                fake = made or self._generate(micro, step)
            seen = [self._view(micro).detach().requires_grad_(with_r1)]
            seen.append(self._view(micro, fake.output_BCHW.detach()))
            if losses.gp_weight > 0:
                seen.append(mix(seen[0], seen[1], self._shares(micro, step)))
            # The gradient of a pixel is tiny: fp16 would round it to 0, bf16 to three digits.
            options = {"full_precision": with_r1 or losses.gp_weight > 0, "parts": len(seen)}
            self._d.set_power_iteration(micro)
            with self._synchronised(discriminator, last=micro is micros[-1]):
                real, fooled, *between = discriminator(torch.cat(seen), **options).chunk(len(seen))
                loss_real, loss_fake = losses.adversarial.d_real(real), losses.adversarial.d_fake(fooled)
                loss = loss_real + loss_fake
                if with_r1:
                    penalty = r1_penalty(real, seen[0])
                    loss = loss + losses.r1_weight * losses.r1_every * penalty
                    _add(scalars, share, {"loss/r1": penalty})
                if between:
                    slope = gradient_penalty(between[0], seen[2])
                    loss = loss + losses.gp_weight * slope
                    _add(scalars, share, {"loss/gp": slope})
                self._accelerator.backward(loss * share)
            _add(scalars, share, {"loss/d_real": loss_real, "loss/d_fake": loss_fake, "loss/d_total": loss})
            _add(scalars, share, {"d/real_mean": real.mean(), "d/fake_mean": fooled.mean()})
        self._finish(self._d, optimizer, self._clip_d, "grad/d_norm", scalars)

    def _shares(self, micro: MicroBatch, step: int) -> Tensor:
        """How much of each mixture is the real image, float32 (B,) in [0, 1)."""
        places = np.arange(micro.first, micro.first + len(micro.input_B1HW))
        shares = torch.from_numpy(uniform(self._seed, _MIXTURES, step, places)).float()
        return shares.to(micro.input_B1HW.device, non_blocking=True)

    def _step_generator(
        self,
        micros: list[MicroBatch],
        made: Made | None,
        step: int,
        adversarial_weight: float,
        scalars: dict[str, Tensor],
    ) -> None:
        generator, losses, share = self._networks.generator, self._losses, 1 / len(micros)
        # The plain module: a frozen network has no gradients to synchronise.
        judge = self._d if adversarial_weight > 0 else None
        if judge is not None:
            judge.require_gradients(False)
            judge.keep_statistics()
        for micro in micros:
            with self._synchronised(generator, last=micro is micros[-1]):
                fake = made or self._generate(micro, step)
                total: Any = 0.0
                for term in losses.terms:
                    with self._accelerator.autocast() if term.autocast else nullcontext():
                        value = term.value(fake)
                    total = total + term.weight * value
                    _add(scalars, share, {term.tag: value})
                if judge is not None:
                    judge.set_power_iteration(micro)
                    value = losses.adversarial.g(judge.module(self._view(micro, fake.output_BCHW)))
                    total = total + adversarial_weight * value
                    _add(scalars, share, {"loss/g_adv": value})
                self._accelerator.backward(total * share)
            _add(scalars, share, {"loss/g_total": total})
        if judge is not None:
            judge.require_gradients(True)
        skipped = self._finish(self._g, self._networks.optimizer_g, self._clip_g, "grad/g_norm", scalars)
        if judge is not None:
            judge.put_back_statistics(skipped)

    def _view(self, real: MicroBatch, output_BCHW: Tensor | None = None) -> Tensor:
        """What the discriminator sees of real images, or of an output for them, (B, 3, H, W)."""
        if not self._losses.judge_photos:
            return self._head.pair(real.input_B1HW, real.target_BCHW if output_BCHW is None else output_BCHW)
        # Not the photo of the terms: gradients that meet in one photo add up in another order.
        return real.photo_B3HW if output_BCHW is None else self._head.decode(real.input_B1HW, output_BCHW)

    def _synchronised(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between ranks with the last micro-batch only."""
        return nullcontext() if last else self._accelerator.no_sync(module)

    def _finish(
        self,
        parts: "_Parts",
        optimizer: torch.optim.Optimizer,
        max_norm: float,
        tag: str,
        scalars: dict[str, Tensor],
    ) -> Tensor:
        """Clip, step, clear. Whether a gradient norm that is not finite, the same on all ranks, skips it."""
        self._accelerator.unscale_gradients(optimizer)
        gradients = [parameter.grad for parameter in parts.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm)
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parts.parameters, max_norm, norm)
        if self._accelerator.scaler is None:
            # Accelerate's wrapper has nothing to do then, but looks for a package in each step.
            optimizer = getattr(optimizer, "optimizer", optimizer)
            # What GradScaler does: the fused optimizer reads this attribute on the device.
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        parts.put_back_statistics(~finite)
        _add(scalars, 1.0, {tag: torch.where(finite, norm, 0.0), "grad/skipped": ~finite})
        return ~finite


class _Parts:
    """What each step needs of a network, listed once: a walk over its modules takes a millisecond."""

    def __init__(self, module: nn.Module):
        self.module, self.parameters = module, list(module.parameters())
        self._statistics = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        self._kept: Tensor | None = None
        self._parametrized: list[Any] = [m for m in module.modules() if parametrize.is_parametrized(m)]

    def require_gradients(self, wanted: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(wanted)

    def keep_statistics(self) -> None:
        """Keep running means and the like, which a forward pass moves, as they are."""
        if self._statistics:
            self._kept = torch.cat([buffer.flatten() for buffer in self._statistics])

    @torch.no_grad()
    def put_back_statistics(self, skipped: Tensor) -> None:
        """As they were kept where a step is skipped: a pass that overflowed leaves none that is finite."""
        if self._kept is None:
            return
        now = torch.cat([buffer.flatten() for buffer in self._statistics])
        chosen = torch.where(skipped > 0, self._kept, now).split([b.numel() for b in self._statistics])
        values = [value.view_as(b) for value, b in zip(chosen, self._statistics, strict=True)]
        torch._foreach_copy_(self._statistics, values)  # pyright: ignore[reportPrivateImportUsage]

    def set_power_iteration(self, micro: MicroBatch) -> None:
        """Spectral norms move with every forward in training mode: of micro-batches, with the first alone.

        All of them then see the same network, and accumulation does not change it.
        """
        for module in self._parametrized:
            wanted = micro.index == 0 and module.training
            if module.parametrizations.training != wanted:
                module.parametrizations.train(wanted)


def _seed_noise(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for one device; for each kind of device that is absent it formats a traceback."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type not in ("cpu", "meta"):
        torch.manual_seed(seed)


def _add(scalars: dict[str, Tensor], share: float, values: dict[str, Tensor]) -> None:
    """Add a micro-batch's share to the scalars of the step; most steps have one, and launch nothing here."""
    for tag, value in values.items():
        value = value.detach().float() * share if share != 1 else value.detach().float()
        scalars[tag] = scalars[tag] + value if tag in scalars else value
