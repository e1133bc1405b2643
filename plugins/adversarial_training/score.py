"""SCORE: Self-COnsistent Robust Error (Pang et al., ICML 2022, arXiv 2202.10103)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack


class SCORE(Distiller):
    """TRADES with squared distances between probabilities in place of divergences.

        loss = |p(x) - q|^2 + beta |p(x') - p(x)|^2
        q = (1 - s classes / (classes - 1)) onehot(y) + s / (classes - 1)
        x' = PGD-10 on |p(x') - p(x)|^2 from a uniform start

    with squares summed over classes, and the gradient through both sides of the second.

    Departures of the official code from this, with `official_quirks`: the attack, and p(x) in it,
    run on the batch's statistics of BatchNorm, whose running ones stay. Its smoothing is written
    for 10 classes; the formula above is that one for any number.

    Args:
      beta: weight of the robust term; 4 in the README's commands, 3 for the released nets.
      label_smoothing: s: the true class has 1 - s and each other s / (classes - 1), as the code has
        it (elsewhere s is shared by all classes); 0 in the README's commands.
      attack: default PGD-10, step epsilon / 4, uniform start.
      official_quirks: what the code does.

    Source: `P2333/SCORE:core/utils/trades.py:91-134`.
    """

    student_views = ("clean", "adversarial")

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        beta: float = 4.0,
        attack: Attack | None = None,
        attack_batch_norm: str | None = None,
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        attack = attack or default_attack("uniform")
        mode = attack_batch_norm or ("batch" if official_quirks else "inference")
        super().__init__(student, teachers, context, attack, mode, label_smoothing)
        self.beta = beta

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        clean = tf.nn.softmax(tf.stop_gradient(self.attacked_fn()(images)))

        def objective(_: tf.Tensor, logits: tf.Tensor, rows: slice) -> tf.Tensor:
            return _squared_distance(tf.nn.softmax(logits), clean[rows])

        return self.run_attack(images, labels, seeds, objective)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        clean = tf.nn.softmax(student["clean"])
        others = self.label_smoothing / (clean.shape[-1] - 1)
        targets = tf.one_hot(labels, clean.shape[-1], 1 - self.label_smoothing, others)
        return {
            "squared_error": _squared_distance(clean, targets),
            "consistency": _squared_distance(tf.nn.softmax(student["adversarial"]), clean),
        }

    @property
    def term_weights(self) -> dict[str, float]:
        return {"consistency": self.beta}


def _squared_distance(ours: tf.Tensor, theirs: tf.Tensor) -> tf.Tensor:
    """Squared, summed over classes: `[batch, classes]` twice to `[batch]`."""
    return tf.reduce_sum(tf.math.squared_difference(ours, theirs), axis=-1)
