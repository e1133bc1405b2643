"""Accuracy on clean and attacked images. The caller of an attack checks what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import Split
from mtard_tf.models.folding import FoldedInference
from mtard_tf.threat import ThreatModel

# Rounding of a float32 sum near 1 is below 1e-7; more is an attack that left its threat model.
TOLERANCE = 1e-6


class EvaluationError(ValueError):
    """A result that must not be counted. The message is one line."""


def paper_attacks() -> dict[str, Callable]:
    """FGSM, PGD-sat (20 steps of 2/255 at 8/255) and PGD-trades (20 of 0.003) at any epsilon.

    Source: `CIARD2025/CIARD`, `attack_eval.py:71-143`, the one public copy of MTARD's evaluation.
    """
    return {
        "fgsm": FGSM(),
        "pgd_sat": PGD(num_steps=20, relative_step_size=0.25),
        "pgd_trades": PGD(num_steps=20, relative_step_size=0.003 / (8 / 255)),
    }


def w_robust(clean: float, robust: float) -> float:
    """Weighted robust accuracy of the MTARD papers, (clean + robust) / 2, per attack."""
    return (clean + robust) / 2


class Evaluator:
    """Runs attacks on one model and counts what they leave.

    The functions are compiled once per attack and read the model's weights at each call, so that
    one evaluator serves a student through its training.

    Args:
      model: from images to logits.
      threat: ball and box that every attacked image must stay in.
      batch_size: images at a time; memory depends on it and not on the number of images.
      seed: of the attacks' random starts; per image, so batching does not change a result.
    """

    def __init__(
        self, model: keras.Model, threat: ThreatModel, *, batch_size: int = 250, seed: int = 0
    ) -> None:
        self.model = model
        self.threat = threat
        self.batch_size = batch_size
        self.seed = seed
        self._inference = FoldedInference(model)
        self._attacks: dict[int, Callable] = {}
        self._predict = tf.function(
            lambda images: self.model(images, training=False),
            input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)],
        )

    def logits(self, images: tf.Tensor) -> np.ndarray:
        """The model's logits on a batch of float32 images, `[batch, classes]`."""
        return self._predict(images).numpy()

    def clean(self, split: Split, examples: int | None = None) -> np.ndarray:
        """Which of the first `examples` images are classified rightly, bool `[examples]`."""
        return np.concatenate(
            [
                self._correct(images, labels)
                for images, labels, _ in evaluation_batches(split, self.batch_size, examples)
            ]
        )

    def attacked(
        self, attack: Callable, split: Split, examples: int | None = None
    ) -> np.ndarray:
        """Which images are still classified rightly after `attack`, bool `[examples]`.

        An image that the model gets wrong anyway counts as wrong and is not attacked.

        Raises:
          EvaluationError: the attack returned an image outside the ball or the box.
        """
        outcomes = []
        for images, labels, ids in evaluation_batches(split, self.batch_size, examples):
            standing = self._correct(images, labels)
            if standing.any():
                chosen = np.flatnonzero(standing)
                perturbed = self.perturb(
                    attack, tf.gather(images, chosen), tf.gather(labels, chosen), tf.gather(ids, chosen)
                )
                standing[chosen] = self._correct(perturbed, tf.gather(labels, chosen))
            outcomes.append(standing)
        return np.concatenate(outcomes)

    def perturb(
        self, attack: Callable, images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor
    ) -> tf.Tensor:
        """Attacked images of one batch, checked against ball and box."""
        perturbed, violation = self._compiled(attack)(images, labels, ids)
        worst = float(np.max(violation))
        if not worst <= TOLERANCE:  # so that NaN is refused as well
            count = int(np.sum(~(violation.numpy() <= TOLERANCE)))
            raise EvaluationError(
                f"{attack!r} left the threat model ({self.threat.norm}, epsilon "
                f"{self.threat.epsilon:.6g}, box [{self.threat.minimum:g}, {self.threat.maximum:g}]) on "
                f"{count} of {len(violation)} images, by up to {worst:.3g}; its result is not counted."
            )
        return perturbed

    def _correct(self, images: tf.Tensor, labels: tf.Tensor) -> np.ndarray:
        logits = self.logits(images)
        if not np.isfinite(logits).all():
            raise EvaluationError(
                f"{self.model.name} returned logits that are not finite; nothing can be counted."
            )
        return logits.argmax(axis=1) == np.asarray(labels)

    def _compiled(self, attack: Callable) -> Callable:
        if id(attack) not in self._attacks:
            shape = (None, *self.model.input_shape[1:])

            def run(images, labels, ids):
                perturbed = attack(
                    self._inference(),
                    images,
                    labels,
                    threat=self.threat,
                    seeds=image_seeds(self.seed, ids),
                )
                return perturbed, self.threat.violation(perturbed, images)

            self._attacks[id(attack)] = tf.function(
                run,
                input_signature=[
                    tf.TensorSpec(shape, tf.float32),
                    tf.TensorSpec([None], tf.int32),
                    tf.TensorSpec([None], tf.int64),
                ],
            )
        return self._attacks[id(attack)]


def audit(
    evaluator: Evaluator,
    split: Split,
    attacks: Mapping[str, Callable],
    examples: int | None = None,
    progress: Callable[[str, float], None] = lambda name, accuracy: None,
) -> dict[str, np.ndarray]:
    """The outcome of every attack on every example: name -> bool `[examples]`, "clean" first."""
    outcomes = {"clean": evaluator.clean(split, examples)}
    progress("clean", float(outcomes["clean"].mean()))
    for name, attack in attacks.items():
        outcomes[name] = evaluator.attacked(attack, split, examples)
        progress(name, float(outcomes[name].mean()))
    return outcomes


def summarise(stage: str, model: keras.Model, outcomes: Mapping[str, np.ndarray]) -> dict:
    """The `report.json` of one stage, from the outcomes of `audit`."""
    clean = float(outcomes["clean"].mean())
    return {
        "stage": stage,
        "examples": len(outcomes["clean"]),
        "parameters": int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        "clean": clean,
        "attacks": {
            name: {
                "robust_accuracy": float(outcome.mean()),
                "w_robust": w_robust(clean, float(outcome.mean())),
            }
            for name, outcome in outcomes.items()
            if name != "clean"
        },
    }
