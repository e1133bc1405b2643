"""A progress line on stderr: it moves on a terminal, and comes seldom elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import keras

_PLAIN_SECONDS = 30.0
_LIVE_SECONDS = 0.1


class ProgressLine:
    """How far an attack or a training is, how it stands, and how long it will take.

    Args:
      name: what is running.
      total: examples or steps to go through.
    """

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.perf_counter()

    def update(self, done: int, computed: int, text: str = "", now: bool = False) -> None:
        """Shows the state; the last update (`done` equal to the total) always.

        Args:
          done: examples or steps that are behind.
          computed: how many of them this process computed; the time left follows from these.
          text: such as the running accuracy.
          now: show it however short ago the last one was shown.
        """
        last = done >= self._total
        moment = time.perf_counter()
        pause = _LIVE_SECONDS if self._live else _PLAIN_SECONDS
        if not (now or last) and moment - self._shown < pause:
            return
        self._shown = moment
        share = done / self._total
        line = f"{self._name} [{'=' * int(20 * share):.<20}] {done:,}/{self._total:,}  {text}"
        seconds = moment - self._started
        if last:
            line += f"  {_clock(seconds)}"
        elif computed:
            line += f"  {_clock(seconds * (self._total - done) / computed)} left"
        start, end = ("\r\033[K", "\n" if last else "") if self._live else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


class Progress(keras.callbacks.Callback):
    """One progress line for the stage, with what the last validation found.

    Args:
      stage: its name.
      epochs: of the stage.
      steps: per epoch.
    """

    def __init__(self, stage: str, epochs: int, steps: int) -> None:
        super().__init__()
        self._line = ProgressLine(stage, epochs * steps)
        self._epochs, self._steps = epochs, steps
        self._first: int | None = None
        self._found = ""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._first is None:
            self._first = self.model.step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = self.model.step
        if step < self._epochs * self._steps:  # the last line waits for the last validation
            self._show(step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if "validation_clean" in logs:
            robust = logs.get("validation_robust")
            self._found = f"  validation: clean {logs['validation_clean']:.1%}" + (
                "" if robust is None else f", robust {robust:.1%}"
            )
        self._show(self.model.step, now=True)

    def _show(self, step: int, now: bool = False) -> None:
        epoch = -(-step // self._steps)
        text = f"epoch {epoch}/{self._epochs}{self._found}"
        self._line.update(step, step - (self._first or 0), text, now)
