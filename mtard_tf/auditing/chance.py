"""Whether a net is better than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# A net that has seen fewer batches may just need more.
_FEW_STEPS = 100
LEVEL = 1e-3  # how improbable it must be that a guess gets so few right


def commonest(classes: np.ndarray) -> tuple[int, float]:
    """The commonest of these class ids, integer `[examples]`, at least one; and its share."""
    found, counts = np.unique(classes, return_counts=True)
    return int(found[counts.argmax()]), float(counts.max() / len(classes))


def largest_share(labels: np.ndarray) -> float:
    """Share of the largest class, which a net that always names it gets right."""
    return commonest(labels)[1]


def at_chance(right: int, examples: int, share: float) -> bool:
    """Whether an accuracy is within two standard errors of `share`, or below it."""
    noise = math.sqrt(share * (1 - share) / examples)
    return right / examples <= share + 2 * noise


def below_chance(right: int, examples: int, classes: int) -> bool:
    """Whether a guess among `classes` gets at most `right` with a probability below `LEVEL`.

    That takes knowledge: of the classes in another order, say.
    """
    chance = 1 / classes
    probability = sum(
        math.comb(examples, i) * chance**i * (1 - chance) ** (examples - i)
        for i in range(right + 1)
    )
    return probability < LEVEL


def advice(distiller: Any, weak_teachers: Sequence[str] = ()) -> str:
    """What may help a student that is at chance: the likeliest cause that is known.

    Args:
      distiller: of the student, in training.
      weak_teachers: roles of teachers that are at chance themselves.
    """
    if weak_teachers:
        return f"its teacher {weak_teachers[0]!r} is at chance too: name another in Stage.teachers"
    if distiller.step < _FEW_STEPS:
        return (
            f"{distiller.step} steps are few: give more Stage.epochs, or a smaller Stage.batch_size"
        )
    if distiller.inner_attack is not None:
        return (
            f"epsilon {distiller.context.threat.epsilon:.3g} may be too large for it: try a longer "
            "warm-up (Stage.epsilon_schedule = @schedules.Warmup()), a smaller Stage.epsilon, a "
            "larger net or @optimizers.adam"
        )
    return "try another Stage.learning_rate, or @optimizers.adam"
