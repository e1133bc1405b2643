"""Norms, steps and projections per image, shared by the attacks."""

from __future__ import annotations

import tensorflow as tf

from mtard_tf.attacks import seeds as random
from mtard_tf.threat import ThreatModel


def spread(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """`[batch]` values shaped `[batch, 1, ...]`, to be combined with `images`."""
    return tf.reshape(values, [-1] + [1] * (images.shape.rank - 1))


def per_image_sum(values: tf.Tensor) -> tf.Tensor:
    """Sum over everything but the batch, `[batch]`."""
    return tf.reduce_sum(values, axis=list(range(1, values.shape.rank)))


def size(deltas: tf.Tensor, norm: str) -> tf.Tensor:
    """Norm ("linf" or "l2") of each image's perturbation, `[batch]`."""
    if norm == "linf":
        return tf.reduce_max(tf.abs(deltas), axis=list(range(1, deltas.shape.rank)))
    return tf.sqrt(per_image_sum(tf.square(deltas)))


def unit(deltas: tf.Tensor, norm: str) -> tf.Tensor:
    """Each perturbation divided by its own norm; 0 stays 0."""
    # By the greatest entry first, so that squares of tiny gradients do not vanish in float32.
    deltas = tf.math.divide_no_nan(deltas, spread(size(deltas, "linf"), deltas))
    if norm == "linf":
        return deltas
    return tf.math.divide_no_nan(deltas, spread(size(deltas, norm), deltas))


def steepest(gradients: tf.Tensor, norm: str) -> tf.Tensor:
    """Unit step of steepest ascent: the sign for Linf, the unit gradient for L2."""
    return tf.sign(gradients) if norm == "linf" else unit(gradients, "l2")


def boundary_noise(seeds: tf.Tensor, shape: tf.TensorShape, norm: str) -> tf.Tensor:
    """Random perturbations of size 1 in `norm`, `[batch, *shape]`: the starts of AutoAttack."""
    if norm == "linf":
        return unit(2.0 * random.uniform(seeds, shape) - 1.0, norm)
    return unit(random.normal(seeds, shape), norm)


def only_inside(perturbed: tf.Tensor, images: tf.Tensor, threat: ThreatModel) -> tf.Tensor:
    """`perturbed` where it lies in the ball and the box, the clean image elsewhere.

    For attacks that look for the smallest perturbation, whatever epsilon is.
    """
    valid = threat.violation(perturbed, images) <= 0
    return tf.where(spread(valid, images), perturbed, images)


def to_hyperplane(
    points: tf.Tensor, normals: tf.Tensor, offsets: tf.Tensor, threat: ThreatModel
) -> tf.Tensor:
    """Smallest step from each point to a hyperplane, within the box.

        min |d|  such that  <normal, point + d> = offset  and  minimum <= point + d <= maximum

    The solution moves every coordinate at its own rate r (Linf: 1, L2: |normal|) until it meets
    the box: d = sign * min(t r, room). The way covered, f(t) = sum |normal| min(t r, room), is
    concave, increasing and piecewise linear, so Newton's iteration from t = 0 climbs to the
    solution in finitely many steps and needs no sorting. A plane that the box does not reach
    gives the corner of the box that comes nearest.

    Args:
      points: `[batch, ...]`, inside the box.
      normals: `[batch, ...]`.
      offsets: `[batch]`.
      threat: gives the norm and the box; epsilon is not used.

    Returns:
      d, shaped like `points`.

    Source: Croce and Hein, Minimally distorted adversarial examples with a fast adaptive boundary
    attack (ICML 2020, arXiv 1907.02044), section 3.1.
    """
    missing = offsets - per_image_sum(normals * points)
    direction = spread(tf.sign(missing), points) * tf.sign(normals)
    weight = tf.abs(normals)
    room = tf.where(direction > 0, threat.maximum - points, points - threat.minimum)
    room = tf.maximum(room, 0.0)
    rate = tf.ones_like(weight) if threat.norm == "linf" else weight
    time = _time_to_cover(tf.abs(missing), weight, rate, room)
    return direction * tf.minimum(spread(time, points) * rate, room)


def _time_to_cover(
    missing: tf.Tensor, weight: tf.Tensor, rate: tf.Tensor, room: tf.Tensor
) -> tf.Tensor:
    """The t of `to_hyperplane`, `[batch]`: f(t) = missing, or as far as the box allows."""
    wall, slope = tf.where(weight > 0, weight * room, 0.0), weight * rate

    def newton(_: tf.Tensor, time: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at_wall = spread(time, room) * rate >= room
        covered = per_image_sum(tf.where(at_wall, wall, 0.0))
        free = per_image_sum(tf.where(at_wall, 0.0, slope))
        ahead = tf.math.divide_no_nan(missing - covered, free)
        # With nothing free the plane is out of reach: let every coordinate run to its wall.
        return time, tf.where(free > 0, tf.maximum(ahead, time), _FAR)

    start = tf.zeros_like(missing)
    _, time = tf.while_loop(
        lambda before, time: tf.reduce_any(time > before * (1 + 1e-6)),
        newton,
        newton(start, start),
        maximum_iterations=64,
        parallel_iterations=1,
    )
    return time


_FAR = 1e30
