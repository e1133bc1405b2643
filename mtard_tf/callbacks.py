"""What decides about a training beside its steps: guard, validation, checkpoints.

One with a `notes` property carries a state from run to run: a checkpoint keeps it, `restore` sets
it.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from mtard_tf import checkpoints, files
from mtard_tf.accuracies import w_robust
from mtard_tf.data.image_data import Split
from mtard_tf.evaluation import Evaluator
from mtard_tf.preemption import Preempted


class NonFinite(ValueError):
    """A loss or gradient that is not a number. The message is one line."""


class Guard(keras.callbacks.Callback):
    """Stops at the first step whose loss or gradient is not finite, before it is recorded.

    Must be the first of the callbacks.

    Args:
      stage: its name.
      steps: per epoch.
      seed: of the stage.
    """

    def __init__(self, stage: str, steps: int, seed: int) -> None:
        super().__init__()
        self._stage, self._steps, self._seed = stage, steps, seed

    def on_train_batch_end(self, batch, logs=None):
        logs = {} if logs is None else logs
        count = float(np.ravel(logs.pop("non_finite", 0.0))[0])
        if count == 0 or "skipped" in logs:
            return
        step = self.model.step
        terms = [k for k, v in logs.items() if not np.isfinite(np.ravel(v)[0]) and k != "loss"]
        what = f"{terms[0]} is not finite" if terms else f"{count:,.0f} gradients are not finite"
        raise NonFinite(
            f"{self._stage}: {what} at step {step:,} (batch {(step - 1) % self._steps + 1} of "
            f"epoch {(step - 1) // self._steps + 1}, seed {self._seed}). Lower the learning rate, "
            "warm up epsilon, or set Stage.on_non_finite = 'skip'; the same command goes on from "
            "the last checkpoint."
        )


class Validation(keras.callbacks.Callback):
    """Measures W-Robust on the validation split and keeps the best and the last student.

    Stops the training once `patience` validations in a row were no better than the best.

    Args:
      split: the validation split; never the test split.
      evaluator: of the student, or of the model that stands for it.
      attack: its worst enemy during training; None measures clean accuracy alone.
      folder: `checkpoints/` of the stage; None writes nothing (every worker but the chief).
      every: epochs between two validations; the last epoch is always validated.
      epochs: of the stage.
      examples: how many validation images; None for all.
      refresh: brings the evaluator's model up to date.
      patience: None goes on whatever is found.
      patience_start: epochs whose validations do not count against patience.
      say: hears one line if the student is no better than chance, or training stops.
    """

    def __init__(
        self,
        split: Split,
        evaluator: Evaluator,
        attack: Callable | None,
        folder: pathlib.Path | None,
        *,
        epochs: int,
        every: int = 1,
        examples: int | None = None,
        refresh: Callable[[], None] = lambda: None,
        patience: int | None = None,
        patience_start: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__()
        self._refresh = refresh
        self._patience, self._patience_start = patience, patience_start
        self._split, self._evaluator, self._attack = split, evaluator, attack
        self._folder, self._every, self._examples = folder, every, examples
        self._epochs, self._say = epochs, say
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._worse = 0  # validations since the best

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self._patience is not None and self._worse >= self._patience

    @property
    def notes(self) -> dict[str, Any]:
        """What the best and the last student reached, and how long ago the best was."""
        return {"best": self.best, "last": self.last, "worse": self._worse}

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Goes on from `notes`."""
        self.best, self.last = dict(notes["best"]), dict(notes["last"])
        self._worse = notes.get("worse", 0)  # version 0.1 did not count

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self._every and epoch + 1 != self._epochs:
            return
        self._refresh()
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
        self._warn(clean)
        better = self.last["validation_score"] > self.best.get("validation_score", -1.0)
        if better:
            self.best = self.last
        counts = not better and epoch >= self._patience_start
        self._worse = self._worse + 1 if counts else 0
        if self._folder is not None:
            save_model(self._evaluator.model, self._folder / "last.keras")
            if better:
                save_model(self._evaluator.model, self._folder / "best.keras")
        if self.exhausted and epoch + 1 < self._epochs:
            self._say(
                f"stops after epoch {epoch + 1} of {self._epochs}: none of the last "
                f"{self._worse} validations was better than that of epoch {self.best['epoch']}."
            )

    def _warn(self, clean: float) -> None:
        examples = min(self._examples or len(self._split), len(self._split))
        chance = 1 / self.model.student.output_shape[-1]
        noise = math.sqrt(chance * (1 - chance) / examples)
        warm = float(self.model.epsilon_schedule(self.model.epoch)) >= 1.0
        if warm and clean <= chance + 2 * noise:
            self._say(
                f"the student is at chance after epoch {self.last['epoch']} "
                f"({clean:.1%} of validation images); try a lower learning rate, "
                "@optimizers.adam, or a longer epsilon warm-up (@schedules.Warmup())."
            )


class Saver(keras.callbacks.Callback):
    """Checkpoints every so many steps, at the end of each epoch, and when told to go.

    Must come after the callbacks whose notes go into a state.

    Args:
      kept: where states go; None writes nothing (every worker but the chief).
      notes: what goes with the variables into a state.
      every: steps between two checkpoints.
      steps: per epoch.
      told: says whether any worker was told to go, once all ask; asks them after every
        `ask_every` steps.
      ask_every: 1 where there is one worker.
    """

    def __init__(
        self,
        kept: checkpoints.Checkpoints | None,
        notes: Callable[[], Mapping[str, Any]],
        *,
        every: int,
        steps: int,
        told: Callable[[], bool],
        ask_every: int = 1,
    ) -> None:
        super().__init__()
        self._kept, self._notes = kept, notes
        self._every, self._steps = every, steps
        self._told, self._ask_every = told, ask_every
        self._seen = 0

    def on_train_begin(self, logs=None):
        self._seen = self.model.step

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.step
        if step % self._steps == 0:
            return  # validation and the epoch's row come first
        told = self._due(step, self._ask_every) and self._told()
        if told or self._due(step, self._every):
            self._save(step)
        self._seen = step
        if told:
            raise Preempted(step)

    def _due(self, step: int, every: int) -> bool:
        return step // every > self._seen // every

    def on_epoch_end(self, epoch, logs=None):
        step = self.model.step
        self._save(step)
        self._seen = step
        if self._told():
            raise Preempted(step)

    def _save(self, step: int) -> None:
        if self._kept is not None:
            values = checkpoints.values(self.model)
            self._kept.save(checkpoints.State(step, values, self._notes()))


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Writes a `.keras` file, whole or not at all."""
    with files.replacing(path) as temporary:
        model.save(temporary)
