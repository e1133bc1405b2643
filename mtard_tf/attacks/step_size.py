"""An attack's step size as a schedule moves it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import tensorflow as tf

FIELD = "relative_step_size"


def with_step_scaled(attack: Callable, factor: float | tf.Tensor) -> Callable:
    """The same attack with `relative_step_size * factor`.

    Args:
      attack: one with that field, see `has_step_size`.
      factor: a scalar; a tensor where a schedule gives it.
    """
    scaled = copy.copy(attack)
    # Attacks are frozen and check their fields when they are made, which a tensor cannot pass.
    object.__setattr__(scaled, FIELD, getattr(attack, FIELD) * factor)
    return scaled


def has_step_size(attack: Callable | None) -> bool:
    """Whether `attack` has one step size, as a fraction of epsilon."""
    return hasattr(attack, FIELD)
