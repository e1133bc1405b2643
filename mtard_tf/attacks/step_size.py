"""The attack of a training: whether it fits, and its step size as a schedule moves it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import tensorflow as tf

FIELD = "relative_step_size"


def with_step_scaled(attack: Callable, factor: float | tf.Tensor) -> Callable:
    """The same attack with `relative_step_size * factor`.

    Args:
      attack: one with that field, see `check_attack`.
      factor: a scalar; a tensor where a schedule gives it.
    """
    scaled = copy.copy(attack)
    # Attacks are frozen and check their fields when they are made, which a tensor cannot pass.
    object.__setattr__(scaled, FIELD, getattr(attack, FIELD) * factor)
    return scaled


def check_attack(name: str, attack: Callable | None, needed: bool, scheduled: bool) -> None:
    """Refuses an attack that a distiller cannot train with.

    Args:
      name: of the distiller, for the message.
      attack: None for none.
      needed: whether it trains on adversarial images.
      scheduled: whether the step size has a schedule.

    Raises:
      ValueError: none is given, or one without a step size.
    """
    if attack is None and needed:
        raise ValueError(
            f"{name} trains on adversarial images; give it an attack, such as @attacks.pgd()."
        )
    if attack is not None and scheduled and not hasattr(attack, FIELD):
        raise ValueError(
            f"{name}'s attack has no {FIELD} for Stage.step_size_schedule to scale; take one like "
            "@attacks.pgd()."
        )
