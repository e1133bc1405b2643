"""Catastrophic overfitting of fast adversarial training, detected from two validations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtard_tf.attacks.pgd import FGSM

# What `begins` compares with the validation's attack, and the name of its accuracy.
SINGLE_STEP = FGSM()
SINGLE_STEP_KEY = "validation_single_step"
_DROP = 0.2  # the official rule of FGSM-RS (`train_fgsm.py:125-138`)


def begins(
    best: Mapping[str, Any],
    now: Mapping[str, Any],
    last: int | None = None,
    goes_back: bool = False,
) -> str:
    """What to say of catastrophic overfitting that a validation shows; "" without.

    Fast adversarial training fails so within a few epochs: accuracy under the validation's attack
    falls by over 0.2 from the best and that under FGSM does not. The official rule looks at the
    first alone, from epoch to epoch, on a batch of the training set. At a large epsilon there are
    no 0.2 to lose: there, a fall to less than half counts where the student then withstands a
    single step alone.

    Args:
      best: of the best validation, with `validation_robust` and that of `SINGLE_STEP`.
      now: of this one.
      last: the epoch of the validation before; None: that of the best.
      goes_back: the training resumes from the best student; else it stops.
    """
    names = ("validation_robust", SINGLE_STEP_KEY)
    if SINGLE_STEP_KEY not in best:
        return ""
    rises = [now[name] - best[name] for name in names]
    halved = now[names[0]] < best[names[0]] / 2 and bool(single_step_alone(now))
    if rises[1] < 0 or not (rises[0] < -_DROP or halved):
        return ""
    robust, single = (f"from {best[name]:.1%} to {now[name]:.1%}" for name in names)
    does, then = "stops", f"the last student is that of epoch {last or best['epoch']}"
    if goes_back:
        does, then = "goes back", f"the student is that of epoch {best['epoch']} again, the best"
    return (
        f"{does} after epoch {now['epoch']}: catastrophic overfitting, for accuracy went {robust} "
        f"under the validation's attack and {single} under FGSM; {then}. Take a smaller attack "
        "step, fewer epochs, or @distillers.n_fgsm."
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
