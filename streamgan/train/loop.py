"""The training loop, top to bottom on one page.

A run is its configuration and its shard set. The only state is the step, the weights and the optimizers, so
the same command continues a run exactly where its newest checkpoint is.
"""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from streamgan.core.color import Head
from streamgan.core.config import dump_yaml
from streamgan.core.logs import say
from streamgan.core.settings import TrainConfig
from streamgan.data.bottleneck import BottleneckAdvice

from . import build
from .checkpoint import Progress, diverged, initialise_from, load_checkpoint, newest_whole, write_config
from .checkpoint_writer import CheckpointWriter
from .networks import Networks, ema_decay, update_ema
from .process import (
    StopRequest,
    join_processes,
    naming_file_errors,
    naming_lost_processes,
    run_lock,
    stop_with_launcher,
)
from .report import Interval, RunReport, format_values
from .schedule import (
    Lengths,
    adversarial_weight,
    continue_lengths,
    generator_moves,
    learning_rate_factor,
    settle,
)
from .terms import build_losses
from .trace import Trace
from .validation import Validation

HPARAM_METRICS = ["val/psnr", "val/ssim", "val/loss", "perf/images_per_s"]


def train(config: TrainConfig, *, allow_changed: bool = False) -> dict[str, Any]:
    """Train to the configured length, from the newest checkpoint if there is one.

    Returns {"run", "steps", "stopped" (before the configured length), "validation" (last figures)}. To be
    called in every process that the launcher starts. `allow_changed` continues a run whose settings or shards
    have changed.
    """
    stop_with_launcher()
    join_processes(timeout_s=config.run.timeout_s)
    accelerator = build.start_accelerator(config)
    try:
        with (
            naming_lost_processes(config.run.dir),
            run_lock(Path(config.run.dir), active=accelerator.is_main_process),
            naming_file_errors(Path(config.run.dir)),
            StopRequest() as stop,
        ):
            return _train(config, accelerator, stop, allow_changed=allow_changed)
    finally:
        accelerator.end_training()


def _train(
    config: TrainConfig, accelerator: Accelerator, stop: StopRequest, *, allow_changed: bool
) -> dict[str, Any]:
    run, device, batch_size = Path(config.run.dir), accelerator.device, config.data.batch
    active = accelerator.is_main_process
    probe = build.build_train_loader(
        config, accelerator, start_step=0, stop_step=0
    )  # refuses before all the work
    steps_per_epoch, digest = probe.steps_per_epoch, probe.digest
    lengths = Lengths.resolve(config.model_dump(), steps_per_epoch)
    head, losses = build.build_head(config), build_losses(config)

    start, validation, progress = 0, {}, Progress(config.run.best_metric)
    found = newest_whole(run, config.run.best_metric, accelerator)
    networks = build.build_networks(config, accelerator, new=found is None)
    if found is not None:
        newest, progress = found
        load_checkpoint(
            newest,
            config=config,
            digest=digest,
            networks=networks,
            accelerator=accelerator,
            allow_changed=allow_changed,
        )
        start, validation = newest.step, newest.meta["validation"]
        lengths = continue_lengths(config, newest.meta, steps_per_epoch, run=run, start=start)
    elif config.run.init_from:
        initialise_from(config.run.init_from, networks, config)
    total, phases = lengths.total, settle(config, lengths)
    due = _Due(config, start, steps_per_epoch=steps_per_epoch, total=total)
    owed = found is not None and due.validate and not validation  # it ended while it validated
    if (start >= total or _out_of_patience(config, progress)) and not owed:
        why = f"all {total} steps are done" if start >= total else f"{run} ended early at step {start}"
        say(f"{run}: {why}; raise run.steps, run.epochs or run.patience to go on")
        return {"run": str(run), "steps": start, "stopped": start < total, "validation": validation}
    say(
        f"{run}: steps {start} to {total} ({steps_per_epoch} an epoch) on {probe.num_samples} images, "
        f"{accelerator.num_processes} x {device.type}, mixed precision {accelerator.mixed_precision}"
    )
    if active:
        write_config(run, config)
    validate = Validation(config, accelerator)
    loader = build.build_train_loader(config, accelerator, start_step=start, stop_step=total)
    train_step = build.build_step(config, accelerator, networks, losses)
    verdict = BottleneckAdvice(workers=config.data.workers, device="GPU" if device.type == "cuda" else "CPU")
    interval = Interval(start, batch_size=batch_size, loader=loader, verdict=verdict)
    bad_in_a_row = torch.zeros((), device=device)
    with (
        closing(iter(loader)) as batches,
        RunReport(run, start_step=start, total_steps=total, active=active) as report,
        CheckpointWriter(run, config, digest, lengths, saved=start, active=active) as writer,
        Trace(run, config.run.profile_steps, active=active) as trace,
    ):
        report.text("config", dump_yaml(config))
        flat = {f"{section}.{key}": value for section, one in config for key, value in one}
        report.hparams(flat, metrics=HPARAM_METRICS)
        step, stopping = start, False
        keep = partial(writer.save, progress=progress, networks=networks, accelerator=accelerator)
        if owed:
            validation = _validate(step, due, validate, networks, head, report)
            progress.add(validation)
            stopping = _out_of_patience(config, progress)
            keep(step, finished=step == total or stopping, validation=validation)
        while step < total and not stopping:
            with trace.step(step + 1):
                with interval.waiting():
                    batch = next(batches)
                color_B3HW = batch.color_B3HW.to(device, non_blocking=True)
                gray_B1HW = None if batch.gray_B1HW is None else batch.gray_B1HW.to(device, non_blocking=True)

                rate = learning_rate_factor(phases, step, total)
                build.set_learning_rates(networks, config, rate)
                train_g = generator_moves(phases, step, total)
                weight = adversarial_weight(phases, step, total)
                scalars = train_step(
                    color_B3HW, gray_B1HW, step=step, adversarial_weight=weight, train_generator=train_g
                )
                step += 1
                half_life = config.optim.ema_half_life_images
                decay = ema_decay(batch=batch_size, images_seen=step * batch_size, half_life_images=half_life)
                update_ema(networks.ema, networks.plain_generator, decay)
                kept = 0 if train_g else bad_in_a_row  # a good D step excuses no bad G
                bad_in_a_row = torch.where(scalars["grad/skipped"] > 0, bad_in_a_row + 1, kept)
                interval.add(scalars)
                report.advance()

            due = _Due(config, step, steps_per_epoch=steps_per_epoch, total=total)
            stopping = stop.agreed(accelerator)
            hopeless = (due.log or stopping) and bad_in_a_row.item() >= config.run.max_bad_steps
            save = due.checkpoint or stopping or hopeless
            ends = due.log or due.validate or save  # a checkpoint closes it: a resumed run logs the same
            if ends:
                values = interval.read(step, accelerator)
                values |= {"lr/g": config.optim.lr_g * rate, "lr/d": config.optim.lr_d * rate}
                report.scalars(step, values)
                report.line(step, values)
                if news := interval.judge(step, images=len(color_B3HW)):
                    say(news)
            if save:  # first: a validation that fails, on whatever rank, costs no step
                keep(step, finished=step == total, validation={})
            try:
                validation = _validate(step, due, validate, networks, head, report)
            except Exception:
                if not save:
                    keep(step, finished=False, validation={})
                raise
            if validation:
                save |= progress.add(validation)  # the best weights are kept, whatever else is due
                if _out_of_patience(config, progress):
                    save = stopping = True
                if save:
                    finished = step == total or _out_of_patience(config, progress)
                    keep(step, finished=finished, validation=validation)
            if hopeless:
                writer.wait()
                accelerator.wait_for_everyone()
                raise diverged(run, step, int(bad_in_a_row.item()))
            if ends:
                interval.restart(step)

    accelerator.wait_for_everyone()
    if _out_of_patience(config, progress):
        what = f"no better val/{config.run.best_metric} for {progress.stale} validations"
        say(f"{run}: ended early at step {step} of {total}, {what}; {format_values(validation)}")
    elif step < total:
        say(f"{run}: stopped at step {step} of {total}, checkpoint written; the same command continues")
    else:
        say(f"{run}: done, {total} steps; {format_values(validation)}")
    return {"run": str(run), "steps": step, "stopped": step < total, "validation": validation}


def _validate(
    step: int, due: "_Due", validate: Validation, networks: Networks, head: Head, report: RunReport
) -> dict[str, float]:
    """The figures of the validation that is due, else nothing; they and the samples are shown."""
    validation = validate.scores(networks.ema, head) if due.validate else {}
    if due.sample and report.active:
        report.grid(step, "samples/val", validate.samples(networks, head))
    if validation:
        report.scalars(step, validation)
        report.line(step, validation)
    return validation


def _out_of_patience(config: TrainConfig, progress: Progress) -> bool:
    return 0 < config.run.patience <= progress.stale


class _Due:
    """What is to be done after `step` optimizer steps."""

    def __init__(self, config: TrainConfig, step: int, *, steps_per_epoch: int, total: int):
        end, epoch_end = step == total, step % steps_per_epoch == 0
        self.log = end or step % config.run.log_every == 0
        self.checkpoint = end or epoch_end or _every(step, config.run.checkpoint_every)
        own = config.run.validate_every
        self.validate = end or (_every(step, own) if own else epoch_end)
        self.sample = end or (
            _every(step, config.run.sample_every) if config.run.sample_every else self.validate
        )


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
