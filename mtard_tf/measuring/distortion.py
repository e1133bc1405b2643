"""Distortion: how much of an image must change until the prediction does (or is a target class)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, gradients
from mtard_tf.attacks.attack import ModelFn, Problem
from mtard_tf.attacks.carlini_wagner import CWL2
from mtard_tf.attacks.deepfool import DeepFool
from mtard_tf.attacks.jsma import JSMA, changed_fraction
from mtard_tf.measuring.measure import Measure

_REACHED = "share of the targets that were reached"


def every_target(images: tf.Tensor, labels: tf.Tensor, classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Each image once for every class but its own, in the order of the classes.

    Args:
      images: float32 `[batch, ...]`.
      labels: integer class ids, `[batch]`.
      classes: how many there are.

    Returns:
      Images `[batch * (classes - 1), ...]`, and their targets, int32.
    """
    labels = tf.cast(labels, tf.int32)
    targets = tf.range(classes - 1)[None]
    targets = targets + tf.cast(targets >= labels[:, None], tf.int32)
    return tf.repeat(images, classes - 1, axis=0), tf.reshape(targets, [-1])


def smallest_constants(model_fn: ModelFn, images: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The least c for which C&W's loss reaches the target, were the model linear, `[batch]`.

        |d|^2 + c max(m - <g, d>, 0) is least at d = c g / 2, until <g, d> = m:   c = 2 m / |g|^2

    with m = max other - z_target, g its gradient. For logits that are T times larger it is T times
    smaller, and needs no temperature to be known.
    """
    slope = gradients.slope(model_fn, images, lambda _, logits: -losses.margin(logits, targets))
    missing, steepness = slope.loss, geometry.per_image_sum(tf.square(slope.unscaled()))
    # A flat or broken image gives 0 or infinity; the search needs a number above 0.
    return tf.clip_by_value(tf.math.divide_no_nan(2 * missing, steepness), 1e-8, 1e8)


@dataclasses.dataclass(frozen=True)
class CWDistortion(Measure):
    """Targeted C&W-L2 distance, mean over the wrong classes: "robustness" of arXiv 2305.08076.

        mean over t != label of |x_t - x|_2,   x_t the nearest image of class t that CWL2 finds

    Every image counts, right or wrong when clean; the targets are all classes but the true one, and
    one that is predicted already has distance 0. A target that is not reached is left out of the
    mean and lowers the success rate: below 1, the mean is of the easier targets. Distances are
    those of [0, 1] pixels, and no smaller than the true ones.

    Source: the authors' code (mandal-cv/defensive-distillation-TA), `test_attack_ta.py:69-93`, with
    `CWL2` of Carlini and Wagner: 9 constants from 1e-3, 1,000 steps, learning rate 0.01.
    Departures: none by default but a success that is checked on the final image.

    Attributes:
      num_steps: of CWL2.
      search_steps: of CWL2.
      learning_rate: of CWL2, in tanh space: the steps times it is how far a pixel can go, and from
        black or white to visible it is about 5.
      initial_constant: first c; None begins each image and target at twice `smallest_constants`,
        so that a few search steps are enough at any scale of the logits.
    """

    num_steps: int = 1000
    search_steps: int = 9
    learning_rate: float = 0.01
    initial_constant: float | None = 0.001
    columns: ClassVar[dict[str, str]] = {
        "value": "L2 distance of the targeted C&W attack, [0, 1] pixels, mean over wrong classes",
        "success_rate": _REACHED,
    }

    def __post_init__(self) -> None:
        self.attack()  # CWL2 checks its fields

    def attack(self) -> CWL2:
        """The attack with which each target is sought."""
        return CWL2(
            self.num_steps,
            self.search_steps,
            self.learning_rate,
            0.001 if self.initial_constant is None else self.initial_constant,
            targeted=True,
        )

    def run(self, problem: Problem, temperature: float) -> dict[str, tf.Tensor]:
        model_fn, images, labels, *_ = problem
        classes = model_fn(images).shape[-1]
        tiled, targets = every_target(images, labels, classes)
        constants = None
        if self.initial_constant is None:
            constants = 2 * smallest_constants(model_fn, tiled, targets)
        every = problem._replace(images=tiled, labels=targets)
        found = self.attack().minimal(every, constants)
        distances = geometry.size(found - tiled, "l2")
        return _over_targets(distances, _predicted(model_fn, found, targets), classes)


@dataclasses.dataclass(frozen=True)
class JSMAFeatures(Measure):
    """Papernot's robustness: the share of the pixels that targeted JSMA changes, mean over targets.

    Every image counts, and the targets are all classes but the true one, as in `CWDistortion`. One
    that is not reached counts as the greatest share allowed: were it left out, the better model
    would have the lower number. So the mean is a lower bound wherever the success rate is below 1.

    Source: Papernot et al. (arXiv 1511.04508); JSMA of arXiv 1511.07528 on the
    gradients of the logits, with at most 112 of 784 pixels (14.3 %).

    Attributes:
      theta: change of each chosen pixel; of JSMA.
      max_fraction: greatest share of the pixels that may change; of JSMA.
    """

    theta: float = 1.0
    max_fraction: float = 0.145
    columns: ClassVar[dict[str, str]] = {
        "value": "share of pixels changed by targeted JSMA, the limit where it fails, mean over "
        "wrong classes",
        "success_rate": _REACHED,
    }

    def __post_init__(self) -> None:
        self.attack()  # JSMA checks its fields

    def attack(self) -> JSMA:
        """The attack with which each target is sought."""
        return JSMA(self.theta, self.max_fraction, targeted=True)

    def run(self, problem: Problem, temperature: float) -> dict[str, tf.Tensor]:
        model_fn, images, labels, *_ = problem
        classes = model_fn(images).shape[-1]
        tiled, targets = every_target(images, labels, classes)
        found = self.attack().minimal(problem._replace(images=tiled, labels=targets))
        reached = _predicted(model_fn, found, targets)
        pixels = images.shape[1:].num_elements()
        limit = 2 * int(self.max_fraction * pixels / 2) / pixels
        shares = tf.where(reached, changed_fraction(found, tiled), limit)
        rates = _over_targets(shares, reached, classes)["success_rate"]
        mean = tf.reduce_mean(tf.reshape(shares, [-1, classes - 1]), axis=1)
        return {"value": mean, "success_rate": rates}


@dataclasses.dataclass(frozen=True)
class DeepFoolRobustness(Measure):
    """Empirical robustness rho_adv: the L2 size of DeepFool's change, relative to the image's.

        rho_adv = mean over x of |r(x)|_2 / |x|_2

    Of images that are right when clean; NaN for the others, and where DeepFool finds nothing.

    Source: Moosavi-Dezfooli et al. (CVPR 2016, arXiv 1511.04599). Departure: r is the
    whole change, with the overshoot and cut to the box.

    Attributes:
      num_steps: of DeepFool.
      overshoot: of DeepFool.
    """

    num_steps: int = 50
    overshoot: float = 0.02
    columns: ClassVar[dict[str, str]] = {
        "value": "L2 size of DeepFool's change over the image's, images right when clean",
        "success_rate": "share of these images that DeepFool broke",
    }

    def __post_init__(self) -> None:
        self.attack()  # DeepFool checks its fields

    def attack(self) -> DeepFool:
        """The attack with which the change is sought."""
        return DeepFool(self.num_steps, self.overshoot)

    def run(self, problem: Problem, temperature: float) -> dict[str, tf.Tensor]:
        model_fn, images, labels, *_ = problem
        right = _predicted(model_fn, images, labels)
        threat = dataclasses.replace(problem.threat, norm="l2")
        found = self.attack().minimal(problem._replace(threat=threat))
        broken = ~_predicted(model_fn, found, labels)
        relative = geometry.size(found - images, "l2") / geometry.size(images, "l2")
        return {
            "value": tf.where(right & broken, relative, float("nan")),
            "success_rate": tf.where(right, tf.cast(broken, tf.float32), float("nan")),
        }


def _predicted(model_fn: ModelFn, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Which images are given these classes, bool `[batch]`."""
    found = tf.argmax(model_fn(images), axis=-1, output_type=tf.int32)
    return tf.equal(found, tf.cast(classes, tf.int32))


def _over_targets(values: tf.Tensor, reached: tf.Tensor, classes: int) -> dict[str, tf.Tensor]:
    """Mean of the values that were reached (NaN if none), and their share, each `[batch]`."""
    values = tf.reshape(values, [-1, classes - 1])
    counts = tf.reshape(tf.cast(reached, tf.float32), [-1, classes - 1])
    total = tf.reduce_sum(counts, axis=1)
    mean = tf.reduce_sum(values * counts, axis=1) / total
    return {"value": mean, "success_rate": total / (classes - 1)}
