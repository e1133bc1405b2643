"""Loops and rounds of an attack, on ever smaller batches of the images that are not broken yet.

A round (a restart, or a target class) runs on the images that no earlier round has broken; they
are gathered into a smaller batch and scattered back, so cost follows the number of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import seeds as random
from mtard_tf.attacks.attack import Problem

# (round, images, labels, seeds, extra) -> (perturbed images, their margins)
Round = Callable[..., tuple[tf.Tensor, tf.Tensor]]


def scatter(base: Any, rows: tf.Tensor, values: Any) -> Any:
    """`base` with `base[rows[i]] = values[i]`, for every tensor in a nest of batched tensors."""
    return tf.nest.map_structure(
        lambda b, v: tf.tensor_scatter_nd_update(b, rows[:, tf.newaxis], v), base, values
    )


def rows_where(mask: tf.Tensor) -> tf.Tensor:
    """Indices of the true rows of `mask`, int32 `[count]`."""
    return tf.cast(tf.where(mask)[:, 0], tf.int32)


def take(state: Any, rows: tf.Tensor) -> Any:
    """Row selection of every tensor in a nest of batched tensors."""
    return tf.nest.map_structure(lambda t: tf.gather(t, rows), state)


def any_batch(state: Any) -> Any:
    """Shape invariants that leave the batch of every tensor in a nest free."""
    return tf.nest.map_structure(lambda t: tf.TensorShape([None]).concatenate(t.shape[1:]), state)


def drop(leaving: tf.Tensor, found: tuple, values: tuple, rows: Any) -> tuple:
    """Takes images out of a batch, and keeps what was found of them.

    Args:
      leaving: bool `[rows]`, which images leave.
      found: tensors of the whole batch.
      values: what becomes of each of `found` for the images that leave, `[rows, ...]`.
      rows: a named tuple of the batch's state, whose `row` are places in the whole batch.

    Returns:
      The new `found`, and the rows that stay.
    """

    def split() -> tuple:
        row, leave = take((rows.row, values), rows_where(leaving))
        return (*scatter(found, row, leave), take(rows, rows_where(~leaving)))

    return tf.cond(tf.reduce_any(leaving), split, lambda: (*found, rows))


def loop(
    steps: int,
    step: Callable[..., Sequence],
    state: Sequence,
    going: Callable[..., tf.Tensor] | None = None,
) -> list:
    """A `tf.while_loop` of `state = step(i, *state)`, for i from 0 to `steps` - 1.

    Args:
      steps: at most this many.
      step: (i, *state) -> the next state.
      state: tensors, which keep their shape, and tuples of batched tensors, whose batch may change.
      going: *state -> bool scalar; the loop ends early where it is False.

    Returns:
      The last state.
    """

    def proceeds(i: tf.Tensor, *state: tf.Tensor) -> tf.Tensor:
        return i < steps if going is None else tf.logical_and(i < steps, going(*state))

    parts = [part if isinstance(part, tuple) else tf.convert_to_tensor(part) for part in state]
    shapes = [any_batch(part) if isinstance(part, tuple) else part.shape for part in parts]
    _, *parts = tf.while_loop(
        proceeds,
        lambda i, *state: (i + 1, *step(i, *state)),
        (0, *parts),
        shape_invariants=(tf.TensorShape([]), *shapes),
        parallel_iterations=1,
    )
    return parts


def run_rounds(
    single: Round,
    problem: Problem,
    logits: tf.Tensor,
    *,
    rounds: int,
    extra: tf.Tensor | None = None,
) -> tf.Tensor:
    """Runs `single` for `rounds` rounds, each on the images that are still classified correctly.

    With an objective, which may be bound to the batch, each round runs on all images.

    Args:
      single: one round; its margins (z_label - best other logit) are below 0 for broken images.
      problem: of the attack.
      logits: of the clean images, `[batch, classes]`.
      rounds: at most this many; each gets its own random numbers.
      extra: one more tensor by image for `single`, `[batch, ...]`; nothing if None.

    Returns:
      The perturbed image with the lowest margin over the rounds. Images that the model gets wrong
      when clean come back unchanged.
    """
    more = () if extra is None else (extra,)

    def unbroken(margins: tf.Tensor) -> tf.Tensor:
        return margins >= 0 if problem.objective is None else tf.ones_like(margins, tf.bool)

    def one_round(i: tf.Tensor, best: tf.Tensor, margins: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = rows_where(unbroken(margins))
        seeds = random.fold(problem.seeds, i)
        perturbed, reached = single(i, *take((problem.images, problem.labels, seeds, *more), rows))
        better = tf.logical_or(reached < tf.gather(margins, rows), tf.equal(i, 0))
        rows, perturbed, reached = take((rows, perturbed, reached), rows_where(better))
        return scatter((best, margins), rows, (perturbed, reached))

    best, _ = loop(
        rounds,
        one_round,
        (problem.images, losses.margin(logits, problem.labels)),
        going=lambda _, margins: tf.reduce_any(unbroken(margins)),
    )
    return best


def wrong_classes(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """All classes but the label, the likeliest first: int32 `[batch, classes - 1]`."""
    own = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.where(own, -float("inf"), tf.cast(logits, tf.float32))
    return tf.math.top_k(others, k=logits.shape[-1] - 1).indices
