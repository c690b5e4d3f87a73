"""A comparison from beginning to end: plan every row, train it, score it, and rewrite the table each time.

The state is what lies in the folders of the rows: `plan.json` (the length), checkpoints, `scores.json`. So
the same command goes on where it was, in the middle of a row too; a row with scores is not touched again. All
rows train in this process, one after the other, on one device.
"""

import gc
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator

from streamgan.core.errors import ConfigError, StreamganError, file_error, is_of_file_system
from streamgan.core.logs import say
from streamgan.core.storage.files import atomic_write, write_json
from streamgan.train.build import build_reading
from streamgan.train.evaluate import Photos
from streamgan.train.loop import train
from streamgan.train.process import run_lock

from .grid import write_grid
from .machine import describe_machine
from .plan import Plan, Terms, plan_row, refuse_changes, training_minutes
from .score import TestPhotos, gray_and_truth, grid_photos, read_scores, score_row, write_column
from .settings import Comparison, Row
from .table import markdown

FORMAT, VERSION = "streamgan-comparison", 1
_T = TypeVar("_T")


def compare(comparison: Comparison) -> dict[str, Any]:
    """Do what is left of a comparison; what OUT/comparison.json then says.

    A row that fails is named in its `error`, and the others go on. Raises KeyboardInterrupt if a signal ended
    a row, which is then saved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("launcher", "rows train on one device", "start one process")
    with run_lock(Path(comparison.config.out), active=True):
        # The first one says the precision of all in this process.
        accelerator = Accelerator(mixed_precision=comparison.config.mixed_precision)
        return _Rows(comparison, accelerator).run()


class _Rows:
    """The rows with what is known of each so far."""

    def __init__(self, comparison: Comparison, accelerator: Accelerator):
        self._config, self._rows, digest = comparison
        self._out = Path(self._config.out)
        precision = accelerator.mixed_precision
        self._machine = describe_machine(accelerator.device, precision=precision)
        self._terms = Terms(self._config.budget, precision, digest)
        reading = replace(build_reading(self._rows[0].config), gray=None, workers=self._config.workers)
        photos = Photos(reading, self._config.split, self._config.max_images, self._config.batch)
        self._test = TestPhotos(photos, digest, self._config.grid_images)
        self._scores = {row.name: read_scores(self._folder(row), self._test) for row in self._rows}
        self._plans: dict[str, Plan] = {}
        self._errors: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        for row in self._rows:
            refuse_changes(row, self._terms)
        for row in self._rows:
            plan = self._attempt(row, lambda row=row: plan_row(row, self._terms))
            if plan is not None:
                self._plans[row.name] = plan
        todo = [row for row in self._rows if row.name in self._plans and self._scores[row.name] is None]
        if not todo and not self._errors:
            say(f"{self._out}: all {len(self._rows)} rows are trained and scored")
        started, done_steps = time.monotonic(), 0
        for number, row in enumerate(todo, 1):
            self._announce(row, number, todo, elapsed_s=time.monotonic() - started, done_steps=done_steps)
            self._attempt(row, lambda row=row: self._do(row))
            done_steps += self._plans[row.name].steps
            self._write()
            gc.collect()  # networks of this row, before those of the next
        return self._write()

    def _folder(self, row: Row) -> Path:
        return self._out / row.name

    def _attempt(self, row: Row, work: Callable[[], _T]) -> _T | None:
        """Its result, or None with the reason in `_errors`."""
        try:
            return work()
        except StreamganError as error:
            self._errors[row.name] = str(error)
        except Exception as error:  # a defect, or no memory: the other rows do not suffer for it
            if isinstance(error, OSError) and is_of_file_system(error):
                self._errors[row.name] = str(file_error(error))
            else:
                self._errors[row.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                say(traceback.format_exc())
        say(f"row {row.name} failed: {self._errors[row.name]}")
        return None

    def _do(self, row: Row) -> None:
        about = {"machine": self._machine, "load": os.getloadavg()[0]}
        if train(self._plans[row.name].config)["stopped"]:
            raise KeyboardInterrupt
        known = next((kept["baselines"] for kept in self._scores.values() if kept), None)
        folder = self._folder(row)
        self._scores[row.name] = score_row(folder, self._test, baselines=known, about=about)

    def _announce(self, row: Row, number: int, todo: list[Row], *, elapsed_s: float, done_steps: int) -> None:
        left = [self._plans[one.name] for one in todo[number - 1 :]]
        seconds = [plan.steps * plan.step_s for plan in left if plan.step_s is not None]
        if len(seconds) < len(left):  # a budget of steps: by the rows of this call so far
            seconds = [elapsed_s / done_steps * plan.steps for plan in left] if done_steps else []
        eta = f", about {sum(seconds) / 60:.0f} min of training left in all" if seconds else ""
        say(f"row {number} of {len(todo)}: {row.name}, {self._plans[row.name].steps} steps{eta}")

    def _write(self) -> dict[str, Any]:
        """Write comparison.json, comparison.md and grid.png of what is there; the first of them."""
        any_scores = next((kept for kept in self._scores.values() if kept), None)
        result = {
            "format": FORMAT,
            "version": VERSION,
            "budget": str(self._config.budget),
            "shards": self._config.shards,
            "shards_digest": self._test.shards_digest,
            "split": self._test.photos.split,
            "size": self._test.photos.reading.size,
            "num_images": any_scores and any_scores["num_images"],
            "protocol": any_scores and any_scores["protocol"],
            "rows": [*self._baseline_rows(any_scores), *map(self._model_row, self._rows)],
        }
        write_json(self._out / "comparison.json", result)
        with atomic_write(self._out / "comparison.md") as file:
            file.write(markdown(result).encode())
        self._write_grid()
        return result

    def _baseline_rows(self, kept: dict[str, Any] | None) -> list[dict[str, Any]]:
        baselines = kept["baselines"] if kept else {}
        return [{"name": name, "kind": "baseline", "scores": scores} for name, scores in baselines.items()]

    def _model_row(self, row: Row) -> dict[str, Any]:
        kept, plan = self._scores[row.name], self._plans.get(row.name)
        steps = kept["step"] if kept else None
        return {
            "name": row.name,
            "kind": "model",
            "recipe": str(row.recipe),
            "head": row.config.model.head,
            "parameters": kept and kept["parameters"],
            "steps": steps,
            "images": steps and steps * row.config.data.batch,
            "minutes": kept and training_minutes(self._folder(row)),
            "planned_steps": plan and plan.steps,
            "machine": kept and kept["machine"],
            "load": kept and kept["load"],
            "weights": kept and kept["weights"],
            "scores": kept["model"] if kept else {},
            "error": self._errors.get(row.name),
        }

    def _write_grid(self) -> None:
        made = {row.name: self._folder(row) / "column.png" for row in self._rows if self._scores[row.name]}
        if not made:
            return
        color_B3HW = grid_photos(self._test)
        ends = dict(zip(("gray", "truth"), gray_and_truth(color_B3HW), strict=True))
        for name, rgb_B3HW in ends.items():
            (self._out / name).mkdir(exist_ok=True)
            write_column(self._out / name, rgb_B3HW)
        gray, truth = (self._out / name / "column.png" for name in ends)
        columns = {"gray": gray, **made, "truth": truth}
        write_grid(self._out / "grid.png", columns, photo_size=self._test.photos.reading.size)
