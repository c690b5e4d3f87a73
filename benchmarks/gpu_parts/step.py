"""The training step alone, on a batch in the card's memory: precision, layout, compilation, by model.

Arms in turn with two loops by hand: a bare one in bf16 (one G forward, D on real and fake at once, fused
Adam) and one as pix2pix writes it (two forwards of D, Adam as it comes, fp32). Then the whole of
`streamgan train` in turn with both. A window of every arm is timed in each round; ratios are of one round.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from common import in_turn, markdown, spread

from .arms import (
    ARMS,
    CANDIDATES,
    COMPILED,
    MAIN,
    MODELS,
    MORE_ARMS,
    Arm,
    Call,
    config_of,
    hand_step,
    our_step,
)
from .task import Clock, Result, Task, kernels, peak_memory, precision, seconds_per_call, steady, train_lines

BARE, PLAIN, LOOP = "bare loop, bf16", "pix2pix-style loop, fp32", "streamgan train, bf16, 8 workers"
ROUNDS, WINDOW_S, WARM_CALLS = 3, 0.5, 5
_BARE, _PIX2PIX = "x bare", "x pix2pix"


def measure(task: Task) -> Iterator[Result]:
    clock, result = task.began(), {"models": {}, "loop": None}
    models = task.choose(list(MODELS), ["default", "ddcolor"])
    for name in models:
        arms = task.choose(ARMS, ARMS if name == "default" else {MAIN: ARMS[MAIN]})
        yield from _model(task, clock, name, arms, result, by_hand=True)
        if name == "default":
            yield from _model(task, clock, name, {**CANDIDATES, **COMPILED}, result, by_hand=False)
            yield from _whole_loop(task, result)
    for name in models[1 : task.choose(None, 1)]:
        yield from _model(task, clock, name, COMPILED, result, by_hand=False)
    if not task.rehearse:
        yield from _model(task, clock, "default", MORE_ARMS, result, by_hand=False)


def _model(
    task: Task,
    clock: Clock,
    name: str,
    arms: dict[str, Arm],
    result: Result,
    *,
    by_hand: bool,
) -> Iterator[Result]:
    """Builds the arms of a model, warms them up and times them in turn; skips what time does not allow."""
    model = result["models"].setdefault(name, {})
    calls: dict[str, Call] = {}
    wanted: dict[str, Callable[[], Call]] = {
        arm: partial(our_step, config_of(task, name, how=how), how) for arm, how in arms.items()
    }
    if by_hand:
        config = config_of(task, name)
        wanted |= {BARE: partial(hand_step, config, False), PLAIN: partial(hand_step, config, True)}
    for arm, make in wanted.items():
        if clock.left() < 20:
            model[arm] = {}
            continue
        record: Result = {}
        try:
            with peak_memory(record):
                calls[arm] = make()
                for _ in range(task.choose(WARM_CALLS, 1)):
                    calls[arm]()
        except (RuntimeError, torch.OutOfMemoryError) as error:  # this arm's answer
            record["error"] = " ".join(str(error).split())[:400]
            calls.pop(arm, None)
        model[arm] = record
    batch = task.choose(MODELS[name][2], 2)
    for number in range(task.choose(ROUNDS, 1)):
        for arm in in_turn(calls, number):
            seconds = seconds_per_call(calls[arm], at_least_s=task.choose(WINDOW_S, 0.01))
            model[arm].setdefault("images_per_s", []).append(batch / seconds)
        yield result
    for arm, call in calls.items():
        if counted := kernels(call):
            wall_ms = 1e3 * batch / statistics.median(model[arm]["images_per_s"])
            model[arm] |= counted | {"idle": max(0.0, 1 - counted["busy_ms"] / wall_ms)}
    yield result


def _whole_loop(task: Task, result: Result) -> Iterator[Result]:
    """The run of `default` with all that belongs to it, in turn with the loops by hand."""
    steps, every, workers = task.choose(80, 4), task.choose(10, 1), task.choose(8, 1)
    found: dict[str, list[float]] = {LOOP: [], BARE: [], PLAIN: []}
    result["loop"] = {"images_per_s": found, "data_wait_ms": [], "step_ms": []}
    for number in range(task.choose(ROUNDS, 1)):
        config = config_of(
            task, "default", f"run.dir={task.scratch / f'loop-{number}'}", f"run.steps={steps}",
            f"run.log_every={every}", f"data.workers={workers}",
            "run.validate_images=8", "run.sample_images=2",
        )  # fmt: skip
        with precision("bf16"):
            lines = train_lines(config)
        found[LOOP].append(steady(lines, "perf/images_per_s"))
        for key in ("data_wait_ms", "step_ms"):
            result["loop"][key].append(steady(lines, f"perf/{key}"))
        for arm, plain in ((BARE, False), (PLAIN, True)):
            call = hand_step(config, plain)
            for _ in range(task.choose(WARM_CALLS, 1)):
                call()
            seconds = seconds_per_call(call, at_least_s=task.choose(2 * WINDOW_S, 0.01))
            found[arm].append(config.data.batch / seconds)
        yield result


def report(result: Result) -> str:
    tables, missing = [_LEGEND], []
    for name, model in result["models"].items():
        source, size, batch = MODELS[name]
        what, rows = f"`{source}.yaml`, {size} px, batch {batch}", []
        for arm, record in model.items():
            if "images_per_s" not in record:
                missing.append(f"{what}, {arm}: {record['error']}" if "error" in record else f"{what}, {arm}")
                continue
            speeds = record["images_per_s"]
            beside = [
                spread([a / b for a, b in zip(speeds, model[other]["images_per_s"], strict=False)])
                if "images_per_s" in model.get(other, {})
                else "-"
                for other in (BARE, PLAIN)
            ]
            more = [f"{record[key]:{form}}" if key in record else "-" for key, form in _COLUMNS.items()]
            rows.append([arm, spread(speeds, 0), *beside, *more])
        head = [
            "",
            "images/s",
            _BARE,
            _PIX2PIX,
            "peak GB",
            "kernels per step",
            "busy ms",
            "host ms",
            "idle",
        ]
        if rows:
            tables.append(f"{what}\n\n{markdown(head, rows)}")
    if (loop := result["loop"]) and all(loop["images_per_s"].values()):
        found = loop["images_per_s"]
        rows = []
        for arm, speeds in found.items():
            ratios = [spread([a / b for a, b in zip(speeds, found[o], strict=False)]) for o in (BARE, PLAIN)]
            rows.append([arm, spread(speeds, 0), *ratios])
        waits = [wait / step for wait, step in zip(loop["data_wait_ms"], loop["step_ms"], strict=True)]
        tables.append(
            f"The whole loop of `default.yaml`; {spread([100 * wait for wait in waits])} % of its time "
            f"waits for data\n\n{markdown(['', 'images/s', _BARE, _PIX2PIX], rows)}"
        )
    if missing:
        tables.append(f"Not reached in the time of this part, or failed: {'; '.join(missing)}.")
    return "\n\n".join(tables)


_LEGEND = f"""Columns: *{_BARE}* is the speed as a multiple of that of a loop by hand in bf16 (one G forward,
D on real and fake at once, fused Adam), *{_PIX2PIX}* of one as pix2pix writes it, in fp32 (D twice, Adam as
it comes); *busy* is the time of a step in which the card does anything, *host* what the processor takes to
ask for a step, *idle* the share of the step in which it does nothing. *kernel by kernel*: without
the CUDA graphs that the other arms have but those by hand. *PyTorch's norms*: its own group norm, instance
norm and PixelShuffle, which leave channels-last order; *pooled*, *mixed*, *fused*: gpu_parts/candidates.py.
Targets of `default.yaml` in bf16 on an H100 or H200: {_BARE} at least 0.97, {_PIX2PIX} at least 2, idle at
most 3%, and at most 2% of the whole loop waits for data."""
_COLUMNS = {"peak_gb": ".2f", "kernels": ".0f", "busy_ms": ".1f", "host_ms": ".1f", "idle": ".1%"}
