"""The training loop, top to bottom on one page.

A run is its configuration and its shard set. The only state is the step, the weights and the optimizers, so
the same command continues a run exactly where its newest checkpoint is.
"""

import gc
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from streamgan.core.logs import say
from streamgan.core.settings import TrainConfig
from streamgan.data.loader import Loader
from streamgan.data.shards.known_set import reading_once

from . import build, graphs, process, schedule
from .checkpoint import Progress, diverged, initialise_from, load_checkpoint, newest_whole, with_origin
from .checkpoint_writer import CheckpointWriter
from .networks import EmaUpdate, Networks
from .report import Interval, RunReport, format_values
from .schedule import Due, Lengths
from .terms import build_losses
from .trace import Trace
from .upload import Upload
from .validation import Validation

_Outcome = tuple[int, int, dict[str, float]]  # steps done, steps of the whole run, last validation


@reading_once()
def train(config: TrainConfig, *, allow_changed: bool = False) -> dict[str, Any]:
    """Train to the configured length, from the newest checkpoint if there is one.

    Returns {"run", "steps", "stopped" (before the configured length), "validation" (last figures)}. To be
    called in every process that the launcher starts. `allow_changed` continues a run whose settings or shards
    have changed.
    """
    process.stop_with_launcher()
    process.refuse_launcher_options()
    process.join_processes(timeout_s=config.run.timeout_s)
    accelerator = build.start_accelerator(config)
    run = Path(config.run.dir)
    try:
        with (
            process.naming_lost_processes(config.run.dir),
            process.run_lock(run, active=accelerator.is_main_process),
            process.naming_file_errors(run),
            process.StopRequest() as stop,
        ):
            step, total, validation = _train(config, accelerator, stop, allow_changed=allow_changed)
    finally:
        accelerator.end_training()
        gc.collect()  # networks hold each other, and the memory of a card, in circles
    return {"run": str(run), "steps": step, "stopped": step < total, "validation": validation}


def _train(
    config: TrainConfig, accelerator: Accelerator, stop: process.StopRequest, *, allow_changed: bool
) -> _Outcome:
    run, main = Path(config.run.dir), accelerator.is_main_process
    probe = build.build_train_loader(config, accelerator, start_step=0, stop_step=0)
    losses = build_losses(config)  # like the loader, it refuses what it must before all the work
    config, step, networks, lengths, progress, validation = _resume(
        config, accelerator, probe, allow_changed=allow_changed
    )
    total = lengths.total
    due = Due(config, step, steps_per_epoch=probe.steps_per_epoch, total=total)
    owed = step > 0 and due.validate and not validation  # it ended while it validated
    if (step >= total or progress.out_of_patience) and not owed:
        why, more = f"all {total} steps are done", "run.epochs" if config.run.epochs else "run.steps"
        if step < total:
            why, more = f"ended early at step {step}", "run.patience"
        say(f"{run}: {why}; raise {more} to go on")
        return step, total, validation
    where = f"{accelerator.num_processes} x {accelerator.device.type}"
    how = f"mixed precision {accelerator.mixed_precision}"
    if graphed := graphs.wanted(config, accelerator):
        how += ", CUDA graphs"
    images = f"({probe.steps_per_epoch} per epoch) on {probe.num_samples} images"
    say(f"{run}: steps {step} to {total} {images}, {where}, {how}")
    if idle := schedule.out_of_reach(config, lengths, start=step):
        say(f"{run}: without effect in these steps: {', '.join(idle)}")
    validate = Validation(config, accelerator, networks)
    loader = build.build_train_loader(config, accelerator, start_step=step, stop_step=total)
    train_step = build.build_step(config, accelerator, networks, losses)
    if graphed:
        graphs.use_graphs(config, networks, losses, train_step, accelerator.device)
    upload = Upload(accelerator.device)
    interval = Interval(config, accelerator, loader, start_step=step)
    move_average = EmaUpdate(networks.ema, networks.plain_generator)
    bad_in_a_row = torch.zeros((), device=accelerator.device)
    with (
        closing(iter(loader)) as batches,
        RunReport(config, start_step=step, total_steps=total, active=main, again=owed) as report,
        CheckpointWriter(
            config, accelerator, networks, progress, lengths, probe.digest, probe.num_samples, step
        ) as writer,
        Trace(run, config.run.profile_steps, active=main) as trace,
    ):
        if owed:
            validation = validate(step, due, report)
            progress.add(validation)
            writer.save(step, validation)
        stopping = progress.out_of_patience
        while step < total and not stopping:
            with trace.step(step + 1):
                with interval.waiting():
                    batch = next(batches)
                gray_B1HW, color_B3HW, _ = upload(batch)
                rates = schedule.set_learning_rates(networks, config, step, total)
                weight = schedule.adversarial_weight(config, step, lengths)
                train_g = schedule.generator_moves(config, step, lengths)
                scalars = train_step(
                    color_B3HW, gray_B1HW, step=step, adversarial_weight=weight, train_generator=train_g
                )
                step += 1
                move_average(schedule.ema_decay(config, step))
                kept = 0 if train_g else bad_in_a_row  # a good D step excuses no bad G
                bad_in_a_row = torch.where(scalars["grad/skipped"] > 0, bad_in_a_row + 1, kept)
                interval.add(scalars)
                report.advance()

            due = Due(config, step, steps_per_epoch=probe.steps_per_epoch, total=total)
            stopping = stop.agreed(accelerator)
            hopeless = (due.log or stopping) and bad_in_a_row.item() >= config.run.max_bad_steps
            save = due.checkpoint or stopping or hopeless
            ends = due.log or due.validate or save  # a checkpoint closes it: a resumed run logs the same
            if ends:
                report.figures(step, interval.read(step) | rates)
                interval.advise(step)
            if save:  # first: a validation that fails, on whatever rank, costs no step
                writer.save(step)
            with writer.saving_first(step):
                validation = validate(step, due, report)
            if validation:
                better = progress.add(validation)  # its weights are kept, whatever else is due
                stopping |= progress.out_of_patience
                if better or save or stopping:
                    writer.save(step, validation)
            if hopeless:
                writer.wait()
                accelerator.wait_for_everyone()
                raise diverged(run, step, int(bad_in_a_row.item()), n_critic=config.loss.n_critic)
            if ends:
                interval.restart(step)
    accelerator.wait_for_everyone()
    _say_end(run, step, total, progress, validation)
    return step, total, validation


def _say_end(run: Path, step: int, total: int, progress: Progress, validation: dict[str, float]) -> None:
    if progress.out_of_patience:
        what = f"val/{progress.metric} has not improved for {progress.stale} validations"
        say(f"{run}: ended early at step {step} of {total}, {what}; {format_values(validation)}")
    elif step < total:
        say(f"{run}: stopped at step {step} of {total}, checkpoint written; the same command continues")
    else:
        say(f"{run}: done, {total} steps; {format_values(validation)}")


class _Start(NamedTuple):
    """Where a run begins, or goes on."""

    config: TrainConfig
    step: int
    networks: Networks
    lengths: Lengths
    progress: Progress
    validation: dict[str, float]


def _resume(config: TrainConfig, accelerator: Accelerator, probe: Loader, *, allow_changed: bool) -> _Start:
    """The newest checkpoint of the run folder, else new networks or those of `run.init_from`."""
    found = newest_whole(config, accelerator)
    networks = build.build_networks(config, accelerator)
    if found is None:
        if config.run.init_from:
            initialise_from(config.run.init_from, networks, config)
        build.balance_classes(config, networks)  # those of the photos of this run
        lengths = Lengths.resolve(config.model_dump(), probe.steps_per_epoch)
        progress = Progress(config.run.best_metric, config.run.patience)
        return _Start(config, 0, networks, lengths, progress, {})
    newest, progress = found
    config = with_origin(config, newest)
    load_checkpoint(
        newest,
        config=config,
        digest=probe.digest,
        networks=networks,
        accelerator=accelerator,
        allow_changed=allow_changed,
    )
    lengths = schedule.continue_lengths(config, newest.meta, probe.steps_per_epoch, start=newest.step)
    return _Start(config, newest.step, networks, lengths, progress, newest.meta["validation"])
