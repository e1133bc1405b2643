"""Numbers and choices of a stage that mean nothing, refused in one line."""

from __future__ import annotations

import inspect
import math
from typing import Any

from mtard_tf.averaging import RULES
from mtard_tf.models.precision import POLICIES

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
    ("precision", POLICIES),
)


def check(stage: Any) -> None:
    """Raises ValueError, which names the binding, for the first field that means nothing.

    Args:
      stage: a `stage.Stage`.
    """
    for field in _COUNTS:
        if not _whole(getattr(stage, field), 1):
            _refuse(stage, field, "give a whole number, at least 1.")
    if stage.patience is not None and not _whole(stage.patience, 1):
        _refuse(stage, "patience", "give a whole number of validations, at least 1, or None.")
    gamma = stage.weight_perturbation
    if not (isinstance(gamma, (int, float)) and math.isfinite(gamma) and gamma >= 0):
        _refuse(stage, "weight_perturbation", "give a share of a layer's norm (0.005), or 0.")
    if not _whole(stage.weight_perturbation_start, 0):
        _refuse(stage, "weight_perturbation_start", "give a whole number of epochs, at least 0.")
    if stage.weight_perturbation and stage.weight_perturbation_start >= stage.epochs:
        _refuse(stage, "weight_perturbation_start", _too_late(stage))
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
    for field, choices in _CHOICES:
        if getattr(stage, field) not in choices:
            _refuse(stage, field, f"use {' or '.join(map(repr, choices))}.")


def _too_late(stage: Any) -> str:
    return f"the stage ends after {stage.epochs} epochs, before it begins: start earlier."


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and value >= least


def _refuse(stage: Any, field: str, wanted: str) -> None:
    raise ValueError(f"{stage.scope}/Stage.{field} is {getattr(stage, field)!r}; {wanted}")
