"""Transfer: adversarial images crafted on a surrogate, for the papers' black-box columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from mtard_tf.attacks.attack import Attack, ModelFn, Problem
from mtard_tf.attacks.pgd import PGD


@dataclasses.dataclass(frozen=True)
class Transfer(Attack):
    """Runs an attack on another model than the one under test.

    Attributes:
      surrogate: images -> logits; the papers take the robust teacher.
      attack: what crafts the images. Attacks that stop at the first success transfer badly; the
        papers use PGD-20 with step 0.003 at 8/255 (the default) and CW-Linf.

    Raises:
      ValueError: the surrogate cannot be called.
    """

    kind = "black_box"

    surrogate: ModelFn
    attack: Callable[..., tf.Tensor] = dataclasses.field(
        default_factory=lambda: PGD(num_steps=20, relative_step_size=0.095625)
    )

    def __post_init__(self) -> None:
        if not callable(self.surrogate):
            raise ValueError(
                f"Transfer.surrogate is {self.surrogate!r}; give a function of images that returns "
                "raw logits."
            )

    def run(self, problem: Problem) -> tf.Tensor:
        """Perturbed images for the caller to try on `problem.model_fn`, which is not called."""
        return problem._replace(model_fn=self.surrogate).solved_by(self.attack)
