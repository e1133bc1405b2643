"""Stops a training early: values that are not finite, no updates, catastrophic overfitting."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from mtard_tf.auditing.evaluator import NonFiniteLogits
from mtard_tf.measuring import overfitting
from mtard_tf.measuring.overfitting import SINGLE_STEP_KEY
from mtard_tf.running import checkpoints
from mtard_tf.running.checkpoints import Checkpoints, State

# One batch that cannot be learned from is an accident, this many in a row are not.
SKIPS_IN_A_ROW = 20
# Loss scaling begins at 2^15 and halves: after 30 it is at 2^-15, and what overflows there is no
# matter of scale.
OVERFLOWS_IN_A_ROW = 30
# How often a stage goes back to its best state before it ends (`Stage.on_overfitting`).
RESTARTS = 3
_LARGE = 1e3  # no trained weight comes near it


class NonFinite(ValueError):
    """A loss, gradient or weight that is not a number. The message is one line."""


class NothingTrained(ValueError):
    """Too few steps that changed the weights. The message is one line."""


class Guard(keras.callbacks.Callback):
    """Stops a training at the first step that is not finite, or after many that changed nothing.

    Steps that are skipped (`Stage.on_non_finite`), or that loss scaling leaves out, change no
    weight. `SKIPS_IN_A_ROW` or `OVERFLOWS_IN_A_ROW` of them stop the stage. Must be the first of
    the callbacks: what it stops at is neither recorded, validated nor checkpointed.

    Args:
      stage: its name.
      steps: per epoch.
      seed: of the stage.

    Attributes:
      left_out: how many steps in a row, up to the last, made no update.
    """

    def __init__(self, stage: str, steps: int, seed: int) -> None:
        super().__init__()
        self._stage, self._steps, self._seed = stage, steps, seed
        self.left_out = 0
        self._step = self._taken = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._step, self._taken = self.model.step, _batches_taken(self.model)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        count = _scalar(logs.pop("non_finite", 0.0))
        terms = [k for k, v in logs.items() if not np.isfinite(_scalar(v)) and k != "loss"]
        what = f"{terms[0]} is not finite" if terms else f"{count:,.0f} gradients are not finite"
        if count and "skipped" not in logs:
            raise NonFinite(
                f"{self._stage}: {what} at {self._place()}. Lower the learning rate, warm up "
                "epsilon, or set Stage.on_non_finite = 'skip'; the same command resumes from "
                "the last checkpoint."
            )
        self._count(logs)
        if _scalar(logs.get("skipped", 0.0)) and self.left_out >= SKIPS_IN_A_ROW:
            raise NonFinite(
                f"{self._stage}: {self.left_out} steps in a row were skipped, up to "
                f"{self._place()}: {what}; {_advice(self.model)}; the checkpoints are from before "
                "these steps."
            )
        if _scalar(logs.get("overflowed", 0.0)) and self.left_out >= OVERFLOWS_IN_A_ROW:
            scale = float(self.model.optimizer.dynamic_scale.numpy())
            raise NonFinite(
                f"{self._stage}: loss scaling skipped {self.left_out} steps in a row, up to "
                f"{self._place()}: the gradients are not finite at any scale (now {scale:.1e}). "
                "Use Stage.precision = 'mixed_bfloat16' or 'float32', which says where they are "
                "not; the checkpoints are from before these steps."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.check_weights()

    def check_weights(self) -> None:
        """Raises NonFinite if what the optimizer has made is no longer finite."""
        held = [v for model in self.model.trained_models for v in model.variables]
        if self.model.averages is not None:
            held += self.model.averages.values
        for variable in [*held, *self.model.optimizer.variables]:
            value = np.asarray(variable.numpy())
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise NonFinite(
                    f"{self._stage}: {variable.path} is not finite after {self._place()}; it is "
                    "not saved. Lower the learning rate or warm up epsilon; the same command "
                    "resumes from the last checkpoint."
                )

    def check_end(self, distiller: Any) -> None:
        """Raises NothingTrained if fewer than half of a stage's steps reached the weights."""
        step, taken = distiller.step, _batches_taken(distiller)
        if 2 * taken >= step:
            return
        cause = "skipped, as their loss or gradient is not finite"
        if not distiller.context.skip_non_finite:
            cause = "skipped by loss scaling, as their gradients overflow in mixed_float16"
        raise NothingTrained(
            f"{self._stage}: only {taken:,} of {step:,} steps changed the weights; the others were "
            f"{cause}. Lower the learning rate, train for more steps, or use another "
            "Stage.precision."
        )

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Turns logits of the student that are not finite into an error like that of a loss."""
        try:
            yield
        except NonFiniteLogits as error:
            raise NonFinite(
                f"{self._stage}: {str(error).split(';')[0]} after {self._place()}; "
                f"{_advice(self.model)}; the same command resumes from the last checkpoint."
            ) from error

    def _count(self, logs: Any) -> None:
        # By the optimizer's count: of several steps in one execution, only the last has logs.
        step, taken = self.model.step, _batches_taken(self.model)
        last = any(_scalar(logs.get(name, 0.0)) for name in ("skipped", "overflowed"))
        if not last:
            self.left_out = 0
        elif taken > self._taken:
            self.left_out = 1
        else:
            self.left_out += step - self._step
        self._step, self._taken = step, taken

    def _place(self) -> str:
        step = self.model.step
        batch, epoch = (step - 1) % self._steps + 1, (step - 1) // self._steps + 1
        return f"step {step:,} (batch {batch} of epoch {epoch}, seed {self._seed})"


def _batches_taken(distiller: Any) -> int:
    """Batches whose gradients the optimizer has taken in, applied or accumulated."""
    # `iterations` counts updates where gradients are accumulated.
    return int(_inner(distiller)._iterations.numpy())


def _inner(distiller: Any) -> Any:
    """The optimizer, within loss scaling."""
    return getattr(distiller.optimizer, "inner_optimizer", distiller.optimizer)


def _advice(distiller: Any) -> str:
    largest = np.max([np.abs(v.numpy()).max() for v in distiller.student.trainable_variables])
    if largest < _LARGE:
        return (
            f"the largest weight is {largest:.1e}, so look at the teachers and at Stage.precision"
        )
    return f"the largest weight is {largest:.1e}, so lower the learning rate or warm up epsilon"


def _scalar(value: Any) -> float:
    return float(np.ravel(value)[0])


class Watch:
    """Notices catastrophic overfitting at a validation, says so, and ends or resets the training.

    Args:
      say: is given one line.
      kept: holds the state of the best student, to go back to; None to end the training there.
      writes: whether this process is the one that writes it.

    Attributes:
      restarted_in: the epochs after which it went back; at most `RESTARTS`, then it ends.
    """

    def __init__(
        self, say: Callable[[str], None], kept: Checkpoints | None = None, writes: bool = True
    ) -> None:
        self._say, self._kept, self._writes = say, kept, writes
        self.restarted_in: list[int] = []

    def keep(self, distiller: Any) -> None:
        """Writes the state of the best student, where it is to be gone back to."""
        if self._kept is not None and self._writes:
            self._kept.save(State(distiller.step, checkpoints.values(distiller), {}))

    def after(
        self, before: Mapping, now: Mapping, best: Mapping, distiller: Any
    ) -> dict[str, Any] | None:
        """The validation to report as the last if overfitting begins with `now`; None if not.

        That of the student before, with `overfitted_in`: the training ends. Or that of the best,
        whose weights the student then has.
        """
        back = self._kept is not None and len(self.restarted_in) < RESTARTS
        begins = overfitting.begins(best, now, before.get("epoch"), back)
        said = SINGLE_STEP_KEY in before and overfitting.single_step_alone(before)
        if line := begins or ("" if said else overfitting.single_step_alone(now)):
            self._say(line)
        if not begins:
            return None
        if not back:
            return {**before, "overfitted_in": now["epoch"]}
        self.restarted_in.append(now["epoch"])
        self._go_back(distiller)
        return dict(best)

    def _go_back(self, distiller: Any) -> None:
        """Sets all variables to the best state but the counts of steps, so that schedules go on."""
        optimizers = distiller.optimizer, _inner(distiller)
        counts = [distiller.steps_done, *(optimizer._iterations for optimizer in optimizers)]
        now = [int(count.numpy()) for count in counts]
        state = self._kept.newest() if self._kept is not None else None
        if state is None:
            raise checkpoints.CheckpointError(
                "The state of the best student is damaged or gone, and the training cannot go back "
                "to it; train with Stage.on_overfitting = 'stop'."
            )
        checkpoints.restore(distiller, state.values)
        for count, value in zip(counts, now, strict=True):
            count.assign(value)


def watch(
    what: str, folder: pathlib.Path, say: Callable[[str], None], writes: bool
) -> Watch | None:
    """What `Stage.on_overfitting` asks for in a stage's folder; None where it is to be ignored."""
    best = Checkpoints(folder / "checkpoints" / checkpoints.BEST, keep=1)
    kept = best if what == "restart" else None
    return None if what == "ignore" else Watch(say, kept, writes)
