"""Extended defensive distillation (Papernot and McDaniel 2017, arXiv 1705.05264), experimental.

Experimental: the paper's formula for the labels could not be checked against the paper or a code of
its authors; what is here is the formula as it is commonly quoted. Do not compare with its tables.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import Split
from mtard_tf.distiller import Distiller, Models, Tensors, TrainingContext

_BATCH = 500
_SEED = "seed_generator_state"


class ExtendedDefensiveExperimental(Distiller):
    """The student has a class more, for outliers, and learns from it where the teacher is unsure.

        sigma(x) = root mean square over classes of the standard deviations of the teacher's logits
                   over `passes` passes with dropout on
        u(x) = alpha sigma(x) / max over the training images of sigma
        label = (1 - u) on the true class, u on the outlier class, 0 elsewhere
        loss = -sum_c label_c log softmax(s)_c

    No temperature. sigma is computed once, on the plain training images.

    The student needs `models.defensive_cnn.outlier_class = True`. An audit counts images in the
    outlier class as errors, attacked or not.

    Args:
      alpha: label that the least sure image gives to the outlier class, 0 to 1; 0 is `natural`.
      passes: with dropout on; at least 2.

    Raises:
      ValueError: alpha outside [0, 1], or less than 2 passes.
    """

    teacher_views = {"teacher": "clean"}
    extra_classes = 1

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 0.9,
        passes: int = 10,
    ) -> None:
        if not 0 <= alpha <= 1 or passes < 2:
            raise ValueError(
                f"ExtendedDefensiveExperimental has alpha {alpha} and {passes} passes; give an "
                "alpha between 0 and 1, and at least 2 passes."
            )
        super().__init__(student, teachers, context=context)
        self.teachers.label("cached")
        self.alpha, self.passes = alpha, passes
        self.table_settings = (passes, self.context.seed)

    def table(self, role: str, model: keras.Model, split: Split) -> np.ndarray:
        """sigma over its largest value for every image, float32 `[images, 1]`."""
        # A loaded net's Dropout has seeds that no file keeps.
        for i, variable in enumerate(v for v in model.variables if v.path.endswith(_SEED)):
            variable.assign([self.context.seed, i])
        dropped = tf.function(lambda images: model(images, training=True))
        sigmas = []
        for images, _, _ in evaluation_batches(split, _BATCH):
            logits = np.stack([dropped(images).numpy() for _ in range(self.passes)])
            sigmas.append(uncertainty(logits))
        sigma = np.concatenate(sigmas)
        return (sigma / max(sigma.max(), 1e-12)).astype(np.float32)[:, None]

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        logits = student["clean"]
        # Where no table is given (a plan, a dry run) every image counts as sure.
        unsure = teachers["teacher"][:, 0] if teachers["teacher"].shape[-1] == 1 else 0.0
        log_p = tf.nn.log_softmax(logits)
        true = tf.gather(log_p, labels, batch_dims=1)
        outlier = self.alpha * unsure
        return {"soft_cross_entropy": -(1 - outlier) * true - outlier * log_p[:, -1]}


def uncertainty(logits: np.ndarray) -> np.ndarray:
    """Root mean square over classes of the standard deviation over passes.

    Args:
      logits: `[passes, images, classes]`.

    Returns:
      `[images]`.
    """
    return np.sqrt(np.mean(np.var(logits, axis=0), axis=1))
