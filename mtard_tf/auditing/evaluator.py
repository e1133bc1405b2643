"""Accuracy on clean and attacked images. The caller of an attack checks what it returns."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.auditing.compiled import CompiledModel
from mtard_tf.data.batches import evaluation_batches, to_float
from mtard_tf.data.image_data import Split
from mtard_tf.distribute import spreading
from mtard_tf.models import twins
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.threat import ThreatModel

# Rounding of a float32 sum near 1 is below 1e-7; more is an attack that left its threat model.
TOLERANCE = 1e-6
BATCH_SIZE = 250


class NonFiniteLogits(EvaluationError):
    """Logits that are not finite numbers."""


class Evaluator:
    """Runs attacks on one model and counts the images that are still classified correctly.

    Args:
      model: from images to logits; its weights are read at each call.
      threat: ball and box that every attacked image must stay in.
      batch_size: images at a time; memory depends on it and not on the number of images.
      seed: of the attacks' random starts; per image, so batching does not change a result.
      strategy: under whose scope the model was made; `clean` and `attacked` share the batches among
        its workers and devices, and every worker gets the whole result.
    """

    def __init__(
        self,
        model: keras.Model,
        threat: ThreatModel,
        *,
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self.compiled = CompiledModel(model, threat, seed)
        self.threat = threat
        self.batch_size = batch_size
        self._strategy = strategy or tf.distribute.get_strategy()

    @property
    def model(self) -> keras.Model:
        """What is evaluated."""
        return self.compiled.model

    def logits(self, images: tf.Tensor) -> np.ndarray:
        """The model's logits on a batch of float32 images, `[batch, classes]`."""
        return self.compiled.logits(images)

    def blind(self, split: Split) -> bool:
        """Whether no gradient reaches the images, so that attacks along it cannot move them."""
        return self.compiled.blind(to_float(split.images[: twins.PROBED]))

    def clean(self, split: Split, examples: int | None = None) -> np.ndarray:
        """Which of the first `examples` images are classified correctly, bool `[examples]`."""
        return self._over(lambda images, labels, _: self.correct(images, labels), split, examples)

    def attacked(self, attack: Callable, split: Split, examples: int | None = None) -> np.ndarray:
        """Which images are still classified correctly after `attack`, bool `[examples]`.

        An image that is misclassified when clean counts as wrong and is not attacked.

        Raises:
          EvaluationError: the attack returned an image outside the ball or the box.
        """

        def survives(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> np.ndarray:
            known, clean = np.asarray(labels), self.predictions(images)
            return self.attacked_predictions(attack, images, labels, ids, clean) == known

        return self._over(survives, split, examples)

    def _over(self, compute: Callable, split: Split, examples: int | None) -> np.ndarray:
        batches = evaluation_batches(split, self.batch_size, examples)
        count = min(examples or len(split), len(split))
        return spreading.over_batches(compute, batches, count, self._strategy)

    def attacked_predictions(
        self,
        attack: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        clean: np.ndarray,
        epsilon: float | None = None,
    ) -> np.ndarray:
        """Predictions on one batch after `attack`, int64 `[batch]`.

        Args:
          attack: see `mtard_tf.attacks`.
          images: float32 in the box, `[batch, height, width, channels]`.
          labels: int32 `[batch]`.
          ids: int64 `[batch]`, which fix each image's random numbers.
          clean: predictions on the clean images, `[batch]`; images whose prediction is wrong are
            not attacked and keep it.
          epsilon: another radius than the threat model's (sweeps).
        """
        result = clean.astype(np.int64)
        chosen = np.flatnonzero(clean == np.asarray(labels))
        if len(chosen) and (self.threat.epsilon if epsilon is None else epsilon) != 0:
            images, labels, ids = (tf.gather(tensor, chosen) for tensor in (images, labels, ids))
            perturbed = self.perturb(attack, images, labels, ids, epsilon)
            result[chosen] = self.predictions(perturbed)
        return result

    def perturb(
        self,
        attack: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        epsilon: float | None = None,
    ) -> tf.Tensor:
        """Attacked images of one batch, checked; arguments as of `attacked_predictions`.

        Raises:
          EvaluationError: images outside the box, a failed attack, or one that left ball or box.
        """
        threat = self.threat
        low, high = float(tf.reduce_min(images)), float(tf.reduce_max(images))
        if not threat.minimum <= low <= high <= threat.maximum:
            raise EvaluationError(
                f"The images run from {low:.3g} to {high:.3g}; give float32 in "
                f"[{threat.minimum:g}, {threat.maximum:g}] (uint8 divided by 255)."
            )
        perturbed, violation = self.compiled.attacked(attack, images, labels, ids, epsilon)
        worst = float(np.max(violation))
        if not worst <= TOLERANCE:  # so that NaN is refused as well
            count = int(np.sum(~(violation <= TOLERANCE)))
            radius = threat.epsilon if epsilon is None else epsilon
            raise EvaluationError(
                f"{attack!r} left the threat model ({threat.norm}, epsilon {radius:.6g}, box "
                f"[{threat.minimum:g}, {threat.maximum:g}]) on {count} of "
                f"{len(violation)} images, by up to {worst:.3g}; its result is not counted."
            )
        return perturbed

    def correct(self, images: tf.Tensor, labels: tf.Tensor) -> np.ndarray:
        """Which images of a batch are classified correctly, bool `[batch]`."""
        return self.predictions(images) == np.asarray(labels)

    def predictions(self, images: tf.Tensor) -> np.ndarray:
        """The class of the largest logit, int64 `[batch]`.

        Raises:
          NonFiniteLogits: a logit is not finite.
        """
        logits = self.logits(images)
        if not np.isfinite(logits).all():
            raise NonFiniteLogits(
                f"{self.model.name} returned logits that are not finite on "
                f"{int((~np.isfinite(logits)).any(axis=1).sum())} of {len(logits)} images; nothing "
                "can be counted. Look at its weights and at its input scale."
            )
        return logits.argmax(axis=1)
