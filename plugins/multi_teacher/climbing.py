"""Teachers' weights that climb W-Robust on validation, in place of the loss balance."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from mtard_tf.plugins.multi_teacher import balance


def climbed_weights(
    weights: np.ndarray,
    robust: np.ndarray,
    *,
    step: float,
    score: float,
    last_score: float,
    bound: float = 0.05,
) -> tuple[np.ndarray, float]:
    """Weights that follow W-Robust on validation, one step at a time (ours).

        step <- -step / 2 if score < last_score else step
        w_robust <- clip(w_robust + step, bound, 1 - bound),    w_clean <- 1 - w_robust

    The direction is kept while the score rises; where it falls, turned and halved. Teachers of one
    view share its weight as before. Two scores differ by chance, too: with few validation images
    the weights wander.

    Args:
      weights: `[teachers]`, summing to 1.
      robust: bool `[teachers]`, those that see adversarial images; some do and some do not.
      step: the last step of the adversarial view's weight, signed.
      score: W-Robust on validation, in [0, 1].
      last_score: of the validation before; NaN for none.
      bound: least weight of a view.

    Returns:
      `[teachers]`, and the step taken.
    """
    step = -step / 2 if score < last_score else step
    share = weights[robust].sum()
    goal = float(np.clip(share + step, bound, 1 - bound))
    return weights * np.where(robust, goal / share, (1 - goal) / (1 - share)), step


class Climb:
    """`climbed_weights` after each validation, for the `balance_weights` of a distiller.

    Args:
      owner: the distiller, which keeps the last step and score in a checkpoint.
      step: the first step.

    Raises:
      ValueError: one of the two views has no weight.
    """

    def __init__(self, owner: keras.Model, step: float) -> None:
        self._weights: keras.Variable = owner.balance_weights
        self._robust = np.array([v == "adversarial" for v in owner.teacher_views.values()])
        share = float(self._weights.numpy()[self._robust].sum())
        if not 0 < share < 1:
            raise ValueError(
                f"balance_target is 'w_robust', but adversarial images have weight {share:g}; give "
                "teachers of both views a weight."
            )
        self._state = balance.state(owner, "climb", [step, float("nan")])

    def follow(self, measured: Mapping[str, float]) -> None:
        """Takes a step after a validation; `measured` has its `validation_w_robust`."""
        step, last = (float(number) for number in self._state.numpy())
        score = measured["validation_w_robust"]
        weights, step = climbed_weights(
            self._weights.numpy(), self._robust, step=step, score=score, last_score=last
        )
        self._weights.assign(weights)
        self._state.assign([step, score])


def chosen(owner: keras.Model, target: str, step: float) -> Climb | None:
    """What moves the weights of `owner` between epochs: nothing for "pace", else "w_robust"."""
    if target not in ("pace", "w_robust"):
        raise ValueError(f"balance_target is {target!r}; give 'pace' or 'w_robust'.")
    return Climb(owner, step) if target == "w_robust" else None
