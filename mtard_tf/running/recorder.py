"""Metrics of a training, as rows of a file, and its progress bar."""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.reporting import tensorboard_files
from mtard_tf.reporting.progress import Bar


class Recorder(keras.callbacks.Callback):
    """Writes every term, weight, temperature and entropy to `metrics.jsonl` and TensorBoard.

    Rows of kind "step" hold the scalars of one step, rows of kind "epoch" their means over the
    epoch and what validation found. `timing.jsonl` has seconds and memory, which differ between
    runs. A "partial" epoch was timed from a resumption on; a "validated" one ended with a
    validation.

    Args:
      folder: the stage's folder.
      settings: its hyper-parameters, for TensorBoard.
      every: steps between two rows of kind "step".
    """

    def __init__(
        self, folder: pathlib.Path, settings: Mapping[str, str] | None = None, every: int = 10
    ) -> None:
        super().__init__()
        self._path, self._timing = folder / "metrics.jsonl", folder / "timing.jsonl"
        self._every = every
        # Name -> sum over the epoch so far, and of how many.
        self._sums: dict[str, list[float]] = {}
        self._last = 0
        self._started = time.perf_counter()
        self._partial = False  # whether this epoch's beginning was timed by an earlier process
        self._writer = tf.summary.create_file_writer(str(folder / tensorboard_files.FOLDER))
        tensorboard_files.note_settings(self._writer, folder.name, settings or {})
        self._path.touch()
        files.cut_half_line(self._timing)

    @property
    def notes(self) -> dict[str, Any]:
        """Sums of the epoch so far, and the length of the rows that belong to this state."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())  # the rows are on disk before the state that counts on them
            size = file.seek(0, os.SEEK_END)
        return {"sums": self._sums, "last": self._last, "bytes": size}

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Resumes from `notes`: rows written after it are cut off, to be written again."""
        self._sums, self._last = dict(notes["sums"]), notes["last"]
        self._partial = bool(self._sums)
        if self._path.stat().st_size > notes["bytes"]:  # less only if somebody removed the file
            with self._path.open("r+b") as file:
                file.truncate(notes["bytes"])

    def close(self) -> None:
        """Closes the TensorBoard file."""
        self._writer.close()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Not where the epoch before ended: what follows it there, as the page, is not training.
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        values = {name: float(np.ravel(value)[0]) for name, value in (logs or {}).items()}
        # What is not finite belongs to a skipped step.
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = [total + value, count + 1]
        step = self.model.step
        if self._last == 0 or step // self._every > self._last // self._every:
            self._write({"kind": "step", "step": step, **values}, "step")
        self._last = step

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        means = {name: total / count for name, (total, count) in self._sums.items()}
        validation = {k: v for k, v in (logs or {}).items() if k.startswith("validation_")}
        row = {"kind": "epoch", "step": self.model.step, "epoch": epoch + 1}
        self._write({**row, **means, **validation}, "epoch")
        timing = {"epoch": epoch + 1, "seconds": time.perf_counter() - self._started}
        peak = peak_memory_mb()
        if peak is not None:  # a leak shows as growth from epoch to epoch
            timing["peak_memory_mb"] = peak
        _append(self._timing, {**timing, "partial": self._partial, "validated": bool(validation)})
        self._sums, self._partial = {}, False

    def _write(self, row: dict, prefix: str) -> None:
        _append(self._path, row)
        with self._writer.as_default(row["step"]):
            for name, value in row.items():
                if isinstance(value, float):
                    tf.summary.scalar(f"{prefix}/{name}", value)


class Progress(keras.callbacks.Callback):
    """One progress bar for the stage, with what the last validation found.

    Args:
      stage: its name.
      epochs: of the stage.
      steps: per epoch.
    """

    def __init__(self, stage: str, epochs: int, steps: int) -> None:
        super().__init__()
        self._stage, self._epochs, self._steps = stage, epochs, steps
        self._bar: Any = None  # a Bar, once it is known where to begin
        self._found = ""  # by the last validation

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._bar is None:
            total = self._epochs * self._steps
            self._bar = Bar(self._stage, total, unit="step", initial=self.model.step)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._bar.update(self.model.step - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        found = {n: (logs or {}).get(f"validation_{n}") for n in ("clean", "robust")}
        shown = [f"{name} {value:.1%}" for name, value in found.items() if value is not None]
        self._found = f", validation: {', '.join(shown)}" if shown else self._found
        self._bar.set_postfix_str(f"epoch {epoch + 1}/{self._epochs}{self._found}")

    def close(self) -> None:
        """Ends the line."""
        if self._bar is not None:
            self._bar.close()


def peak_memory_mb() -> float | None:
    """Peak memory of the process so far, in MiB; None where the system does not count it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def _append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
