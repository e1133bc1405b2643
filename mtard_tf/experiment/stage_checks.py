"""Checks of a stage's fields; each refusal is one line that names the binding."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.data.image_data import AUGMENTATIONS, ImageData, check_augmentation
from mtard_tf.distiller.averaging import RULES
from mtard_tf.models.precision import AUTO, POLICIES
from mtard_tf.schedules import ScheduledRate
from mtard_tf.threat import radius

_COUNTS = (
    "epochs",
    "batch_size",
    "validate_every",
    "gradient_accumulation_steps",
    "steps_per_execution",
    "checkpoint_every",
    "keep_checkpoints",
)
_SCHEDULES = ("learning_rate_schedule", "rate_schedule", "epsilon_schedule", "step_size_schedule")
_CHOICES = (
    ("select", ("best", "last")),
    ("on_non_finite", ("stop", "skip")),
    ("on_overfitting", ("ignore", "stop", "restart")),
    ("precision", (*POLICIES, AUTO)),
    ("attack_precision", (None, *POLICIES, AUTO)),
    ("quantization", (None, "int8")),
    ("jit_compile", (None, False, True)),
)


def check(stage: Any) -> None:
    """Raises ValueError, which names the binding, for the first field outside its range.

    Args:
      stage: a `stage.Stage`.
    """
    _check_parts(stage)
    for field in _COUNTS:
        if not _whole(getattr(stage, field), 1):
            _refuse(stage, field, "give a whole number, at least 1.")
    if not (_number(stage.learning_rate) and stage.learning_rate > 0):
        _refuse(stage, "learning_rate", "give a number above 0, without quotes.")
    if stage.epsilon is not None:
        # Whether the norm allows it is for the experiment to say.
        radius(stage.epsilon, f"{stage.scope}/Stage.epsilon", "l2")
    if stage.validation_examples is not None and not _whole(stage.validation_examples, 1):
        _refuse(stage, "validation_examples", "give a whole number, at least 1, or None for all.")
    if stage.attack_shards is not None and not _whole(stage.attack_shards, 1):
        _refuse(stage, "attack_shards", "give a whole number, at least 1, or None.")
    if stage.patience is not None and not _whole(stage.patience, 1):
        _refuse(stage, "patience", "give a whole number of validations, at least 1, or None.")
    if not (_number(stage.weight_perturbation) and stage.weight_perturbation >= 0):
        _refuse(stage, "weight_perturbation", "give a share of a layer's norm (0.005), or 0.")
    if not _whole(stage.weight_perturbation_start, 0):
        _refuse(stage, "weight_perturbation_start", "give a whole number of epochs, at least 0.")
    if stage.weight_perturbation and stage.weight_perturbation_start >= stage.epochs:
        _refuse(stage, "weight_perturbation_start", _too_late(stage))
    if not (_number(stage.gradient_matching) and stage.gradient_matching >= 0):
        _refuse(stage, "gradient_matching", "give a weight (1 in the paper's run), or 0.")
    if not (stage.averaging is None or isinstance(stage.averaging, RULES)):
        _refuse(stage, "averaging", "give @averaging.EMA() or @averaging.SWA(), with (), or None.")
    if stage.averaging is not None and stage.averaging.start >= stage.epochs:
        _refuse(stage, "averaging", _too_late(stage))
    for field in _SCHEDULES:
        value = getattr(stage, field)
        if isinstance(value, type) or inspect.isfunction(value):
            raise ValueError(
                f"{stage.scope}/Stage.{field} is a factory; write ... = @schedules.Name(), with ()."
            )
        if not callable(value) and not (value is None and field == "rate_schedule"):
            _refuse(stage, field, "give a schedule, such as @schedules.Constant().")
    for field, choices in _CHOICES:
        if getattr(stage, field) not in choices:
            _refuse(stage, field, f"use {' or '.join(map(repr, choices))}.")
    if stage.on_overfitting != "ignore" and stage.validation_attack is None:
        _refuse(stage, "on_overfitting", "set Stage.validation_attack, under which it shows.")
    _check_augmentation(stage)
    _check_extra(stage)
    if not isinstance(stage.synchronized_batch_norm, bool):
        _refuse(stage, "synchronized_batch_norm", "give True or False.")


def check_devices(stage: Any) -> None:
    """Refuses, with ValueError, what needs one device under the strategy of the scope."""
    if not tf.distribute.has_strategy():
        return
    if stage.gradient_accumulation_steps > 1:
        wanted = "Keras accumulates on one device only: set 1, more devices need it less."
        _refuse(stage, "gradient_accumulation_steps", wanted)
    if stage.jit_compile:
        _refuse(stage, "jit_compile", "XLA compiles the step of one device only: leave it out.")


def check_data(stage: Any, data: ImageData) -> None:
    """Raises DataError, which names the binding, for an augmentation that images do not suit."""
    for name in _augmentations(stage).values():
        check_augmentation(name, data.image_shape[-1], f"{stage.scope}/Stage.augmentation")


def check_rate(stage: Any, rate: ScheduledRate) -> None:
    """Refuses a schedule that makes the learning rate negative, or leaves it at 0."""
    some = range(0, stage.epochs, -(-stage.epochs // 32))  # at most 32 epochs
    values = {epoch: float(rate(epoch * rate.steps_per_epoch + 1)) for epoch in some}
    worst = next((e for e, v in values.items() if not 0 <= v < float("inf")), None)
    if worst is not None or not any(values.values()):
        found = "0 throughout" if worst is None else f"{values[worst]:.3g} in epoch {worst + 1}"
        raise ValueError(
            f"{stage.scope}/Stage.learning_rate_schedule is {stage.learning_rate_schedule!r}, "
            f"and the learning rate {found}; give factors of at least 0, not all 0."
        )


def check_optimizer(stage: Any, optimizer: keras.optimizers.Optimizer, batches: int) -> None:
    """Refuses batches that would make no update, and averages that are Keras' own."""
    left = batches % stage.gradient_accumulation_steps
    if left:
        raise ValueError(
            f"{stage.scope}/Stage.gradient_accumulation_steps is "
            f"{stage.gradient_accumulation_steps}; of the stage's {batches:,} batches "
            f"({stage.epochs:,} epochs), the last {left:,} would make no update: give a divisor "
            f"of {batches:,}, or epochs that are a multiple of "
            f"{stage.gradient_accumulation_steps}."
        )
    if optimizer.use_ema:
        raise ValueError(
            f"{stage.scope}/Stage.optimizer has use_ema, which would replace the weights at the "
            "end of each epoch; leave it out, and set Stage.averaging = @averaging.EMA()."
        )


def _check_parts(stage: Any) -> None:
    """Checks the factories, validation attack, names of teachers and `initial`, and precision."""
    for field in ("model", "distiller", "optimizer"):
        registry.check_factory(f"{stage.scope}/Stage.{field}", getattr(stage, field), f"{field}s")
    attack = stage.validation_attack
    made_by = registry.selector(attack)
    if attack is not None and (made_by or isinstance(attack, type) or not callable(attack)):
        given = f"@{made_by}" if made_by else repr(attack)
        raise ValueError(
            f"{stage.scope}/Stage.validation_attack is {given}; give an attack, such as "
            "@attacks.pgd() with its brackets, or None."
        )
    teachers = stage.teachers
    if not isinstance(teachers, Mapping) or not all(
        isinstance(name, str) for name in [*teachers, *teachers.values()]
    ):
        meant = teachers if isinstance(teachers, str) else "NAME"
        _refuse(stage, "teachers", f"give each its role: {{'robust': {meant!r}}}.")
    if not (stage.initial is None or isinstance(stage.initial, str)):
        _refuse(stage, "initial", "give the name of an earlier stage, or a path, in quotes.")
    if stage.quantization and (stage.precision, stage.attack_precision) != ("float32", None):
        _refuse(stage, "quantization", "leave precision at 'float32' and attack_precision out.")


def _check_augmentation(stage: Any) -> None:
    by_epoch = _augmentations(stage)
    if stage.augmentation is None:
        return
    names = [name for name in by_epoch.values() if name in AUGMENTATIONS]
    starts = [start for start in by_epoch if _whole(start, 0)]
    if len(names) < len(by_epoch) or len(starts) < len(by_epoch) or 0 not in starts:
        wanted = (
            f"give one of {', '.join(AUGMENTATIONS)}, or those by the epoch from which they hold: "
            "{0: 'crop_flip', 30: 'idbh_strong'}."
        )
        _refuse(stage, "augmentation", wanted)
    if max(starts) >= stage.epochs:
        _refuse(stage, "augmentation", _too_late(stage))


def _check_extra(stage: Any) -> None:
    if stage.extra is not None:
        registry.check_factory(f"{stage.scope}/Stage.extra", stage.extra, "datasets")
    if not (_number(stage.extra_share) and 0 < stage.extra_share < 1):
        _refuse(stage, "extra_share", "give a share of the batch, above 0 and below 1.")
    if stage.extra_labels is None:
        return
    if stage.extra is None:
        _refuse(
            stage, "extra_labels", "there is no Stage.extra to label: give it, or leave both out."
        )
    if stage.extra_labels not in stage.teachers:
        roles = ", ".join(map(repr, stage.teachers)) or "none"
        _refuse(stage, "extra_labels", f"give the role of a teacher ({roles}), or None.")


def _augmentations(stage: Any) -> Mapping[int, str]:
    """Epoch from which it holds -> augmentation; empty for the data set's own."""
    given = stage.augmentation
    return given if isinstance(given, Mapping) else {} if given is None else {0: given}


def check_context(distiller: Any) -> None:
    """Refuses, with ValueError, a distiller that keeps the stage's context to itself."""
    if distiller.context.steps_per_epoch is None:  # a stage always gives it
        raise ValueError(
            f"{type(distiller).__name__} does not pass its context on, and would train with "
            "another threat model; write super().__init__(student, teachers, context=context, ...)."
        )


def check_follows(stage: Any, distiller: Any) -> None:
    """Refuses, with ValueError, to leave out the accuracy that the distiller follows."""
    if getattr(distiller, "follows_validation", False) and stage.validation_attack is None:
        _refuse(stage, "validation_attack", "set one: the distiller follows accuracy under it.")


def _too_late(stage: Any) -> str:
    return f"the stage ends after {stage.epochs} epochs, before it begins: start earlier."


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value)  # type: ignore[arg-type]


def _refuse(stage: Any, field: str, wanted: str) -> None:
    raise ValueError(f"{stage.scope}/Stage.{field} is {getattr(stage, field)!r}; {wanted}")
