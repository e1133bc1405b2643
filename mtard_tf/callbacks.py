"""What happens beside the training steps: records, validation, checkpoints, a progress line."""

from __future__ import annotations

import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.data.image_data import Split
from mtard_tf.evaluation import Evaluator
from mtard_tf.measures import w_robust


class Recorder(keras.callbacks.Callback):
    """Writes every term, weight, temperature and entropy to `metrics.jsonl` and TensorBoard.

    Rows of kind "step" hold the scalars of one step, rows of kind "epoch" their means over the
    epoch and what validation found.

    Args:
      folder: the stage's folder.
      every: steps between two rows of kind "step".
    """

    def __init__(self, folder: pathlib.Path, every: int = 10) -> None:
        super().__init__()
        self._path = folder / "metrics.jsonl"
        self._every = every
        self._sums: dict[str, float] = {}
        self._count = 0
        self._writer = tf.summary.create_file_writer(str(folder / "tensorboard"))
        self._path.write_text("", encoding="utf-8")

    def on_epoch_begin(self, epoch, logs=None):
        self._sums, self._count, self._started = {}, 0, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        values = {name: float(np.ravel(value)[0]) for name, value in (logs or {}).items()}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        step = int(self.model.optimizer.iterations)
        if step == 1 or step % self._every == 0:
            self._write({"kind": "step", "step": step, **values}, "step")

    def on_epoch_end(self, epoch, logs=None):
        means = {name: total / max(self._count, 1) for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._started
        validation = {k: v for k, v in (logs or {}).items() if k.startswith("validation_")}
        row = {"kind": "epoch", "step": int(self.model.optimizer.iterations), "epoch": epoch + 1}
        # The process' peak so far, in MiB: a leak shows as growth from epoch to epoch.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        costs = {"seconds": seconds, "peak_memory_mb": peak}
        self._write({**row, **means, **validation, **costs}, "epoch")

    def on_train_end(self, logs=None):
        self._writer.close()

    def _write(self, row: dict, prefix: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        with self._writer.as_default(row["step"]):
            for name, value in row.items():
                if isinstance(value, float):
                    tf.summary.scalar(f"{prefix}/{name}", value)


class Validation(keras.callbacks.Callback):
    """Measures W-Robust on the validation split and keeps the best and the last student.

    Args:
      split: the validation split; never the test split.
      evaluator: of the student.
      attack: its worst enemy during training; None measures clean accuracy alone.
      folder: `checkpoints/` of the stage.
      every: epochs between two validations; the last epoch is always validated.
      examples: how many validation images; None for all.
    """

    def __init__(
        self,
        split: Split,
        evaluator: Evaluator,
        attack: Callable | None,
        folder: pathlib.Path,
        every: int = 1,
        examples: int | None = None,
    ) -> None:
        super().__init__()
        self._split, self._evaluator, self._attack = split, evaluator, attack
        self._folder, self._every, self._examples = folder, every, examples
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self._every and epoch + 1 != self.params["epochs"]:
            return
        clean = float(self._evaluator.clean(self._split, self._examples).mean())
        self.last = {"epoch": epoch + 1, "validation_clean": clean}
        if self._attack is None:
            self.last["validation_score"] = clean
        else:
            robust = float(
                self._evaluator.attacked(self._attack, self._split, self._examples).mean()
            )
            self.last |= {
                "validation_robust": robust,
                "validation_w_robust": w_robust(clean, robust),
            }
            self.last["validation_score"] = self.last["validation_w_robust"]
        if logs is not None:
            logs |= {k: v for k, v in self.last.items() if k.startswith("validation_")}
        save_model(self.model.student, self._folder / "last.keras")
        if self.last["validation_score"] > self.best.get("validation_score", -1.0):
            self.best = self.last
            save_model(self.model.student, self._folder / "best.keras")


class Progress(keras.callbacks.Callback):
    """One line per stage on a terminal, one line per epoch elsewhere.

    Args:
      name: of the stage.
      epochs: of the stage.
      steps: per epoch.
    """

    def __init__(self, name: str, epochs: int, steps: int) -> None:
        super().__init__()
        self._name, self._epochs, self._steps = name, epochs, steps
        self._live = sys.stderr.isatty()
        self._shown = 0.0

    def on_train_begin(self, logs=None):
        self._started, self._step, self._text = time.perf_counter(), 0, ""

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._live and time.perf_counter() - self._shown > 0.2:
            self._show(end="")

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if "validation_clean" in logs:
            robust = logs.get("validation_robust")
            self._text = f"validation: clean {logs['validation_clean']:.1%}" + (
                "" if robust is None else f", robust {robust:.1%}"
            )
        if not self._live:
            self._show(end="\n")

    def on_train_end(self, logs=None):
        if self._live:
            self._show(end="\n")

    def _show(self, end: str) -> None:
        self._shown = time.perf_counter()
        total = self._epochs * self._steps
        left = (self._shown - self._started) * (total - self._step) / max(self._step, 1)
        share = self._step / total
        bar = "=" * int(20 * share) + "." * (20 - int(20 * share))
        epoch = min(self._step // self._steps + (self._step % self._steps > 0), self._epochs)
        clock = f"{int(left // 60)}:{int(left % 60):02d} left"
        line = f"{self._name} [{bar}] epoch {epoch}/{self._epochs}  {clock}  {self._text}".rstrip()
        print(f"\r\033[K{line}" if self._live else line, end=end, file=sys.stderr, flush=True)


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Writes a `.keras` file, whole or not at all."""
    with files.replacing(path) as temporary:
        model.save(temporary)
