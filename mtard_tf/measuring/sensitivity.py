"""Sensitivity: how fast a model's outputs change with its input, at the clean image."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from mtard_tf.attacks import gradients, jacobian
from mtard_tf.attacks.attack import ModelFn, Problem
from mtard_tf.measuring.measure import Measure


def sum_of_logits_gradient(model_fn: ModelFn, images: tf.Tensor) -> tf.Tensor:
    """Mean absolute gradient of the sum of the logits, `[batch]`, in logits per unit of a pixel.

        mean_j |d(sum_c z_c) / dx_j|

    No softmax and no temperature. The classes cancel: it is 0 for a model whose logits always sum
    to the same number, however steep each is. Adding one function of the image to every logit
    changes it, and neither probabilities nor predictions.

    Args:
      model_fn: images -> logits.
      images: float32 `[batch, ...]`.

    Source: the authors' code of arXiv 2305.08076 (mandal-cv/defensive-distillation-TA),
    `nn_robust_attacks-master/save_model_grads.py:44-55`.
    """
    slope = gradients.slope(model_fn, images, lambda _, logits: tf.reduce_sum(logits, axis=-1))
    gradient = slope.unscaled()
    return tf.reduce_mean(tf.abs(gradient), axis=list(range(1, images.shape.rank)))


def logit_jacobian_norm(model_fn: ModelFn, images: tf.Tensor) -> tf.Tensor:
    """Frobenius norm of the Jacobian of the logits, `[batch]`, in logits per unit of a pixel.

        sqrt(sum_c sum_j (dz_c / dx_j)^2)

    Nothing cancels, but it grows with the scale of the logits, which a net that was trained at a
    temperature T has about T times larger.

    Args:
      model_fn: images -> logits.
      images: float32 `[batch, ...]`.
    """
    return _frobenius(_flat_jacobian(model_fn, images)[1])


def log10_softmax_jacobian_norm(
    logits: tf.Tensor, jacobian: tf.Tensor, temperature: float = 1.0
) -> tf.Tensor:
    """log10 of the Frobenius norm of d softmax(z / T) / dx, `[batch]`, per unit of a pixel.

        dp_i/dx = p_i / T sum_k p_k (dz_i/dx - dz_k/dx),   p = softmax(z / T)

    As written, float32 gives exactly 0 once the largest logit leads by about 104 T (by 87 T where
    denormals are flushed), and the row of the prediction y, which is p_y (1 - p_y) for two
    classes, is gone from a lead of 17 T on, where p_y rounds to 1. Here nothing is subtracted from
    1, and no small p is formed. With h_k = dz_k/dx - dz_y/dx, log p_2 the greatest of
    the other classes' and e_k = p_k / p_2, at most 1, every row has the factor p_2 exactly:

        dp_y/dx = -p_2 p_y u / T,   dp_i/dx = p_2 e_i (h_i - p_2 u) / T,   u = sum_{k != y} e_k h_k

    so that log10 |J| = log10 p_2 + log10 |rows without p_2| - log10 T, right at any lead.

    Args:
      logits: `[batch, classes]`.
      jacobian: dz/dx, `[batch, classes, features]`.
      temperature: divides the logits.

    Returns:
      -inf where the Jacobian is 0 (and not only too small for a float).

    Source: the Jacobian of Papernot et al. (arXiv 1511.04508); the factoring is ours.
    """
    logits = tf.cast(logits, tf.float32) / temperature
    own = tf.argmax(logits, axis=-1, output_type=tf.int32)
    is_own = tf.one_hot(own, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    log_p = tf.nn.log_softmax(logits)
    log_second = tf.reduce_max(tf.where(is_own, -float("inf"), log_p), axis=-1)
    p_own, p_second = tf.exp(tf.gather(log_p, own, batch_dims=1)), tf.exp(log_second)
    # 0 for the prediction itself, which has a row of its own.
    share = tf.where(is_own, 0.0, tf.exp(tf.minimum(log_p - log_second[:, None], 0.0)))
    ahead = jacobian - tf.gather(jacobian, own, batch_dims=1)[:, None]
    common = tf.einsum("bk,bkj->bj", share, ahead)
    rows = share[..., None] * (ahead - p_second[:, None, None] * common[:, None])
    rows = tf.concat([rows, (-p_own[:, None] * common)[:, None]], axis=1)
    return (log_second + tf.math.log(_frobenius(rows) / temperature)) / math.log(10)


@dataclasses.dataclass(frozen=True)
class SumOfLogitsGradient(Measure):
    """`sum_of_logits_gradient` as a measure: the "sensitivity" of arXiv 2305.08076's code."""

    columns: ClassVar[dict[str, str]] = {
        "value": "mean over pixels of abs(d(sum of logits)/dx); classes cancel"
    }

    def run(self, problem: Problem, temperature: float) -> dict[str, tf.Tensor]:
        return {"value": sum_of_logits_gradient(problem.model_fn, problem.images)}


@dataclasses.dataclass(frozen=True)
class LogitJacobian(Measure):
    """`logit_jacobian_norm` as a measure."""

    columns: ClassVar[dict[str, str]] = {"value": "Frobenius norm of the Jacobian of the logits"}

    def run(self, problem: Problem, temperature: float) -> dict[str, tf.Tensor]:
        return {"value": logit_jacobian_norm(problem.model_fn, problem.images)}


@dataclasses.dataclass(frozen=True)
class SoftmaxJacobian(Measure):
    """`log10_softmax_jacobian_norm` as a measure, at temperature 1 and at the training's."""

    columns: ClassVar[dict[str, str]] = {
        "value": "log10 of the Frobenius norm of the Jacobian of softmax(z)",
        "at_training_temperature": "the same of softmax(z / T), T the temperature of the training",
    }
    logarithmic: ClassVar[tuple[str, ...]] = ("value", "at_training_temperature")

    def run(self, problem: Problem, temperature: float) -> dict[str, tf.Tensor]:
        logits, rows = _flat_jacobian(problem.model_fn, problem.images)
        return {
            "value": log10_softmax_jacobian_norm(logits, rows),
            "at_training_temperature": log10_softmax_jacobian_norm(logits, rows, temperature),
        }


def _flat_jacobian(model_fn: ModelFn, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits `[batch, classes]` and their gradients `[batch, classes, features]`."""
    logits, rows = jacobian.logits_and_jacobian(model_fn, images)
    return logits, tf.reshape(rows, [-1, logits.shape[-1], images.shape[1:].num_elements()])


def _frobenius(rows: tf.Tensor) -> tf.Tensor:
    """Norm over all but the batch; the greatest entry first, so that no square vanishes."""
    greatest = tf.reduce_max(tf.abs(rows), axis=[1, 2])
    scaled = tf.math.divide_no_nan(rows, greatest[:, None, None])
    return greatest * tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=[1, 2]))
