"""What ends a training early: values that are not finite, no updates, catastrophic overfitting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from mtard_tf.attacks.pgd import FGSM
from mtard_tf.auditing.evaluator import NonFiniteLogits

# One batch that cannot be learned from is an accident, this many in a row are not.
SKIPS_IN_A_ROW = 20
# Loss scaling begins at 2^15 and halves: after 30 it is at 2^-15, and what overflows there is no
# matter of scale.
OVERFLOWS_IN_A_ROW = 30
# What `overfitted` compares with the validation's attack, and the name of its accuracy.
SINGLE_STEP = FGSM()
SINGLE_STEP_KEY = "validation_single_step"
_DROP = 0.2  # the official rule of FGSM-RS (`train_fgsm.py:125-138`)
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
                f"{self._stage}: loss scaling left {self.left_out} steps in a row out, up to "
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
                    "not kept. Lower the learning rate or warm up epsilon; the same command "
                    "resumes from the last checkpoint."
                )

    def check_end(self, distiller: Any) -> None:
        """Raises NothingTrained if fewer than half of a stage's steps reached the weights."""
        step, taken = distiller.step, _batches_taken(distiller)
        if 2 * taken >= step:
            return
        cause = "skipped, as their loss or gradient is not finite"
        if not distiller.context.skip_non_finite:
            cause = "left out by loss scaling, as their gradients overflow in mixed_float16"
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
    optimizer = distiller.optimizer
    # `iterations` counts updates where gradients are accumulated.
    return int(getattr(optimizer, "inner_optimizer", optimizer)._iterations.numpy())


def _advice(distiller: Any) -> str:
    largest = np.max([np.abs(v.numpy()).max() for v in distiller.student.trainable_variables])
    if largest < _LARGE:
        return (
            f"the largest weight is {largest:.1e}, so look at the teachers and at Stage.precision"
        )
    return f"the largest weight is {largest:.1e}, so lower the learning rate or warm up epsilon"


def _scalar(value: Any) -> float:
    return float(np.ravel(value)[0])


def overfitted(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What to say of catastrophic overfitting that begins with a validation; "" without.

    Fast adversarial training fails so within an epoch or two: accuracy under the validation's
    attack falls by over 0.2 and that under FGSM does not. The official rule looks at the first
    alone, on a batch of the training set.

    Args:
      before: of the validation before, with `validation_robust` and that of `SINGLE_STEP`.
      now: of this one.
    """
    names = ("validation_robust", SINGLE_STEP_KEY)
    if SINGLE_STEP_KEY not in before:
        return ""
    rises = [now[name] - before[name] for name in names]
    if rises[0] >= -_DROP or rises[1] < 0:
        return ""
    robust, single = (f"from {before[name]:.1%} to {now[name]:.1%}" for name in names)
    return (
        f"stops after epoch {now['epoch']}: catastrophic overfitting, for accuracy went {robust} "
        f"under the validation's attack and {single} under FGSM; the last student is that of epoch "
        f"{before['epoch']}. Take a smaller attack step, fewer epochs, or @distillers.n_fgsm."
    )


def single_step_alone(now: Mapping[str, Any]) -> str:
    """A warning where accuracy under FGSM is three times that under the validation's attack."""
    robust, single = now["validation_robust"], now[SINGLE_STEP_KEY]
    if single - robust <= _DROP or single < 3 * robust:
        return ""
    return (
        f"after epoch {now['epoch']} accuracy is {robust:.1%} under the validation's attack and "
        f"{single:.1%} under FGSM: the student withstands a single step alone. Take a smaller "
        "attack step, warm up epsilon, or @distillers.n_fgsm."
    )
