"""An attack on softened logits, for models whose softmax has no gradient left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from mtard_tf.attacks import gradients
from mtard_tf.attacks.attack import Attack, Problem
from mtard_tf.attacks.pgd import PGD


@dataclasses.dataclass(frozen=True)
class AtTemperature(Attack):
    """An attack that sees logits / temperature, which changes no prediction.

    A net that was trained at a temperature T has logits about T times larger; its softmax at 1 is
    one-hot in float32, and the cross-entropy has no gradient. At T it has the training's own.

    Attributes:
      attack: what sees the softened logits.
      temperature: above 1 softens. None is the one at which the model was trained, which an audit
        knows and fills in; elsewhere it is 1.

    Raises:
      ValueError: a temperature that is not above 0.
    """

    attack: Callable = PGD(num_steps=20, relative_step_size=0.25)
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(
                f"AtTemperature.temperature is {self.temperature}; give a number above 0, or None "
                "for the training's."
            )

    @property
    def stops_early(self) -> bool:  # type: ignore[override]
        """As the attack does."""
        return getattr(self.attack, "stops_early", False)

    def run(self, problem: Problem) -> tf.Tensor:
        temperature = 1.0 if self.temperature is None else self.temperature

        def softened(x: tf.Tensor) -> tf.Tensor:
            return tf.cast(problem.model_fn(x), tf.float32) / temperature

        mixes = gradients.mixes_images(problem.model_fn)
        softened.mixes_images = mixes  # type: ignore[attr-defined]
        return problem._replace(model_fn=softened).solved_by(self.attack)
