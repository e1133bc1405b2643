"""Callbacks of a training: validation and checkpoints.

The `notes` of a callback are part of a checkpoint, and `restore` sets them when it is resumed.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import keras

from mtard_tf.auditing.accuracies import w_robust
from mtard_tf.auditing.chance import advice, at_chance, largest_share
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.image_data import Split
from mtard_tf.measuring import overfitting
from mtard_tf.models import model_files
from mtard_tf.processes.preemption import Preempted
from mtard_tf.running import checkpoints
from mtard_tf.running.guard import Guard, Watch


class Validation(keras.callbacks.Callback):
    """Measures W-Robust on the validation split and keeps the best and the last student.

    Stops the training once `patience` validations in a row were no better than the best.

    Args:
      split: the validation split; never the test split.
      evaluator: of the student, or of its average.
      attack: measures robust accuracy on the split; None: clean accuracy only.
      folder: `checkpoints/` of the stage; None writes nothing (every worker but the chief).
      every: epochs between two validations; the last epoch is always validated.
      epochs: of the stage.
      examples: at most this many validation images, the first ones; None for all.
      watch: looks for catastrophic overfitting, with FGSM; needs `attack`.
      refresh: brings the evaluator's model up to date.
      patience: None never stops early.
      patience_start: epochs whose validations do not count against patience.
      weak_teachers: roles of those that are at chance themselves.
      say: is given one line if the student is no better than always predicting the largest
        class, or training stops early.
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
        watch: Watch | None = None,
        refresh: Callable[[], None] = lambda: None,
        patience: int | None = None,
        patience_start: int = 0,
        weak_teachers: Sequence[str] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__()
        self._refresh = refresh
        self._patience, self._patience_start = patience, patience_start
        self._split, self._evaluator, self._attack = split, evaluator, attack
        self._folder, self._every, self._examples = folder, every, examples
        self._epochs, self._weak_teachers, self._say = epochs, weak_teachers, say
        self.best: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self._watch = watch
        self._worse = 0  # validations since the best

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` validations were no better than the best, or it overfits."""
        impatient = self._patience is not None and self._worse >= self._patience
        return impatient or "overfitted_in" in self.last

    @property
    def restarted_in(self) -> list[int]:
        """The epochs after which training went back to the best student."""
        return [] if self._watch is None else self._watch.restarted_in

    @property
    def notes(self) -> dict[str, Any]:
        """What best and last student reached, how long ago the best was, and restarts."""
        own = {"best": self.best, "last": self.last, "worse": self._worse}
        return own if self._watch is None else own | {"restarted_in": self.restarted_in}

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Resumes from `notes`."""
        self.best, self.last = dict(notes["best"]), dict(notes["last"])
        self._worse = notes["worse"]
        if self._watch is not None:
            self._watch.restarted_in = list(notes["restarted_in"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        if not (epoch + 1) % self._every or epoch + 1 == self._epochs:
            self.validate(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.model.stop_training:  # another callback ends the training here
            self.validate(self._epoch)

    def validate(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures and keeps the student after an epoch, unless that was done."""
        if self.last.get("epoch") == epoch + 1:
            return
        self._refresh()
        before = self.last
        clean = float(self._evaluator.clean(self._split, self._examples).mean())
        self.last = {"epoch": epoch + 1, "validation_clean": clean}
        if self._attack is None:
            self.last["validation_score"] = clean
        else:
            survived = self._evaluator.attacked(self._attack, self._split, self._examples)
            robust = float(survived.mean())
            score = w_robust(clean, robust)
            self.last |= {"validation_robust": robust, "validation_w_robust": score}
            self.last["validation_score"] = score
        if self._watch:
            single = self._evaluator.attacked(overfitting.SINGLE_STEP, self._split, self._examples)
            self.last[overfitting.SINGLE_STEP_KEY] = float(single.mean())
        if logs is not None:
            logs |= {k: v for k, v in self.last.items() if k.startswith("validation_")}
        if self._watch and (last := self._watch.after(before, self.last, self.best, self.model)):
            self.last = last
            if "overfitted_in" not in last:  # it went back
                self._refresh()
                self._save("last")
            return
        self.model.validated(self.last)
        self._judge(clean)
        better = self.last["validation_score"] > self.best.get("validation_score", -1.0)
        if better:
            self.best = self.last
        counts = not better and epoch >= self._patience_start
        self._worse = self._worse + 1 if counts else 0
        self._save("last")
        if better:
            self._save("best")
            if self._watch is not None:
                self._watch.keep(self.model)
        if self.exhausted and epoch + 1 < self._epochs:
            self._say(
                f"stops after epoch {epoch + 1} of {self._epochs}: none of the last "
                f"{self._worse} validations was better than that of epoch {self.best['epoch']}."
            )

    def _save(self, name: str) -> None:
        if self._folder is not None:
            model_files.save(self._evaluator.model, self._folder / f"{name}.keras")

    def _judge(self, clean: float) -> None:
        """Records a student at chance, and warns of it once epsilon has warmed up."""
        examples = min(self._examples or len(self._split), len(self._split))
        share = largest_share(self._split.labels[:examples])
        if not at_chance(round(clean * examples), examples, share):
            return
        self.last["at_chance"] = True
        help_with = advice(self.model, self._weak_teachers)
        if share == 1:
            help_with = "a validation split of one class measures nothing: add images of others"
        if float(self.model.context.epsilon_schedule(self.model.epoch)) >= 1.0:
            self._say(
                f"the student is at chance after epoch {self.last['epoch']} ({clean:.1%} of "
                f"validation images, the largest class is {share:.1%}); "
                f"{help_with}."
            )


class Saver(keras.callbacks.Callback):
    """Checkpoints at the start, every `every` steps, at the end of each epoch, and when preempted.

    Must come after the callbacks whose notes go into a state. While steps are skipped, as their
    loss or gradient is not finite, nothing is written: the weights may not be finite either. The
    next step that makes an update is checkpointed instead.

    Args:
      kept: where states go; None writes nothing (every worker but the chief).
      notes: what goes with the variables into a state.
      every: steps between two checkpoints.
      steps: per epoch.
      preempted: whether any worker was preempted, once all ask; called after every `ask_every`
        steps.
      ask_every: 1 where there is one worker.
      guard: counts the skipped steps.
    """

    def __init__(
        self,
        kept: checkpoints.Checkpoints | None,
        notes: Callable[[], Mapping[str, Any]],
        *,
        every: int,
        steps: int,
        preempted: Callable[[], bool],
        ask_every: int = 1,
        guard: Guard,
    ) -> None:
        super().__init__()
        self._kept, self._notes, self._guard = kept, notes, guard
        self._every, self._steps = every, steps
        self._preempted, self._ask_every = preempted, ask_every
        self._seen = 0
        self._owed = False  # whether a checkpoint was due while steps were skipped

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._seen = self.model.step
        if self._kept is not None and self._seen == 0 and not self._kept.any():
            self._save(0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = self.model.step
        if step % self._steps == 0:
            return  # validation and the epoch's row come first
        preempted = self._due(step, self._ask_every) and self._preempted()
        if preempted or self._owed or self._due(step, self._every):
            self._save(step)
        self._seen = step
        if preempted:
            self._leave(step)

    def _due(self, step: int, every: int) -> bool:
        return step // every > self._seen // every

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        step = self.model.step
        self._save(step)
        self._seen = step
        if self._preempted():
            self._leave(step)

    def _leave(self, step: int) -> NoReturn:
        if self._owed:
            raise Preempted(where="while steps were left out, after the last checkpoint")
        raise Preempted(step)

    def _save(self, step: int) -> None:
        self._owed = self._guard.left_out > 0
        if self._owed:
            return
        self._guard.check_weights()
        if self._kept is not None:
            values = checkpoints.values(self.model)
            self._kept.save(checkpoints.State(step, values, self._notes()))
