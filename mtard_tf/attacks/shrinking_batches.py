"""Work only on what still stands: rounds of an attack on ever smaller batches.

A round (a restart, or a target class) runs on the images that no earlier round has broken; they
are gathered into a smaller batch and scattered back, so cost follows what is still standing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import seeds as random

# (round, images, labels, seeds, extra) -> (perturbed images, their margins)
Round = Callable[..., tuple[tf.Tensor, tf.Tensor]]


def scatter(base: tf.Tensor, rows: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`base` with `base[rows[i]] = values[i]`."""
    return tf.tensor_scatter_nd_update(base, rows[:, tf.newaxis], values)


def rows_where(mask: tf.Tensor) -> tf.Tensor:
    """Indices of the true rows of `mask`, int32 `[count]`."""
    return tf.cast(tf.where(mask)[:, 0], tf.int32)


def take(state: Any, rows: tf.Tensor) -> Any:
    """Row selection of every tensor in a nest of batched tensors."""
    return tf.nest.map_structure(lambda t: tf.gather(t, rows), state)


def any_batch(state: Any) -> Any:
    """Shape invariants that leave the batch of every tensor in a nest free."""
    return tf.nest.map_structure(lambda t: tf.TensorShape([None]).concatenate(t.shape[1:]), state)


def attack_standing(
    single: Round,
    logits: tf.Tensor,
    images: tf.Tensor,
    labels: tf.Tensor,
    seeds: tf.Tensor,
    *,
    rounds: int,
    extra: tf.Tensor | None = None,
    drop: bool = True,
) -> tf.Tensor:
    """Runs `single` for `rounds` rounds, each on the images that are still classified right.

    Args:
      single: one round; its margins (z_label - best other logit) are below 0 for what fell.
      logits: of the clean images, `[batch, classes]`.
      images: float32 `[batch, height, width, channels]`.
      labels: integer class ids, `[batch]`.
      seeds: int32 `[batch, 2]`; each round gets its own stream.
      rounds: how many.
      extra: one more tensor by image for `single`, `[batch, ...]`; nothing if None.
      drop: False keeps every image in every round (an objective that is bound to the batch).

    Returns:
      The perturbed image with the lowest margin over the rounds. Images that the model gets wrong
      to begin with come back as they are.
    """
    margins = losses.margin(logits, labels)

    def standing(margins):
        return margins >= 0 if drop else tf.ones_like(margins, tf.bool)

    def body(i, best, margins):
        rows = rows_where(standing(margins))
        more = () if extra is None else (extra,)
        picked = take((images, labels, random.fold(seeds, i), *more), rows)
        perturbed, reached = single(i, *picked)
        better = tf.logical_or(reached < tf.gather(margins, rows), tf.equal(i, 0))
        rows, perturbed, reached = take((rows, perturbed, reached), rows_where(better))
        return i + 1, scatter(best, rows, perturbed), scatter(margins, rows, reached)

    _, best, _ = tf.while_loop(
        lambda i, _, margins: tf.logical_and(i < rounds, tf.reduce_any(standing(margins))),
        body,
        (0, images, margins),
        shape_invariants=(tf.TensorShape([]), images.shape, margins.shape),
        parallel_iterations=1,
    )
    return tf.stop_gradient(best)


def wrong_classes(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """All classes but the label, the likeliest first: int32 `[batch, classes - 1]`."""
    own = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.where(own, -float("inf"), tf.cast(logits, tf.float32))
    return tf.math.top_k(others, k=logits.shape[-1] - 1).indices


def count_targets(wanted: int, classes: int) -> int:
    """How many target classes to try: `wanted`, or all wrong ones if there are fewer."""
    return min(wanted, classes - 1)


def refuse(why: str, objective: object) -> None:
    """Raises `ValueError` if the caller gave an objective to an attack that has none to replace."""
    if objective is not None:
        raise ValueError(f"{why}; give no objective (PGD and APGD take one).")
