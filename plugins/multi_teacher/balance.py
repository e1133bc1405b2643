"""The balance of several teachers: temperatures from entropies, weights from losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import tensorflow as tf

from mtard_tf.distribute.replicas import global_means, replicated_state
from mtard_tf.losses import kl_divergence

STARTS_AS_TEACHER = (
    "the student starts as a copy of its teacher {!r}, so its own L(0) is only a rounding error; "
    "the loss balance takes the losses of a student with equal logits as L(0) instead."
)


def balanced_temperatures(
    temperatures: tf.Tensor,
    entropies: tf.Tensor,
    *,
    rate: float | tf.Tensor,
    minimum: float = 1.0,
    maximum: float = 10.0,
) -> tf.Tensor:
    """Entropy-Based Balance: one step towards teachers that speak with the same entropy.

        tau_k <- clip(tau_k - rate * sign(H_k - mean_{j != k} H_j), minimum, maximum)

    The less certain teacher is sharpened, the more certain one softened. With two teachers this is
    the official rule for positive entropies, sign(H_k / H_other - 1), without its division; beyond
    two, each teacher is held against the mean of the others, and one alone keeps its temperature
    (ours; the paper has two).

    Args:
      temperatures: `[teachers]`, those with which the entropies were taken.
      entropies: `[teachers]`, mean entropy over the *global* batch; positive, any scale.
      rate: step in temperature.
      minimum: lower bound.
      maximum: upper bound.

    Returns:
      `[teachers]`; a teacher whose entropy is NaN keeps its temperature.

    Source: B-MTARD (arXiv 2306.16170), `MTARD-extension/resnet18_mtard_cifar10.py:128-134`.
    """
    difference = entropies - _mean_of_others(entropies)
    step = tf.where(tf.math.is_nan(difference), 0.0, tf.sign(difference))
    return tf.clip_by_value(temperatures - rate * step, minimum, maximum)


def balanced_weights(
    weights: tf.Tensor,
    losses: tf.Tensor,
    first_losses: tf.Tensor,
    *,
    rate: float | tf.Tensor,
    exponent: float = 1.0,
) -> tf.Tensor:
    """Normalization Loss Balance: the term that has fallen less since the first batch gains weight.

        l_k = losses_k / first_losses_k
        target_k = l_k^exponent / sum_j l_j^exponent
        w_k <- w_k + rate * (target_k - w_k)

    Weights that sum to 1 keep summing to 1 for any number of teachers; with two this is the
    official rule, whose clipping and renormalisation change nothing.

    Args:
      weights: `[teachers]`, summing to 1.
      losses: `[teachers]`, this step's losses, means over the *global* batch.
      first_losses: `[teachers]`, the losses of the run's first batch.
      rate: share of the way to the target, in [0, 1].
      exponent: "alpha" in the paper; 1 in the official code.

    Returns:
      `[teachers]`; the old weights where no target exists (all relative losses 0).

    Source: MTARD (ECCV 2022), `mtard/mtard_resnet18_cifar10.py:82-100`.
    """
    relative = tf.math.divide_no_nan(losses, first_losses) ** exponent
    total = tf.reduce_sum(relative)
    target = tf.where(total > 0, tf.math.divide_no_nan(relative, total), weights)
    return weights + rate * (target - weights)


def divergences(
    teachers: Sequence[tf.Tensor],
    student: Sequence[tf.Tensor],
    temperatures: tf.Tensor,
    log_offset: float,
) -> list[tf.Tensor]:
    """KL(softmax(T_k / tau_k) || softmax(S_k)) / 10 of each teacher, `[batch]`; see `MTARD`.

    Args:
      teachers: logits of each teacher, `[batch, classes]`.
      student: logits of the student on what that teacher saw, `[batch, classes]`.
      temperatures: `[teachers]`, of the teachers' logits alone.
      log_offset: see `kl_divergence`.
    """
    return [
        kl_divergence(t, s, teacher_temperature=temperatures[i], log_offset=log_offset) / 10.0
        for i, (t, s) in enumerate(zip(teachers, student, strict=True))
    ]


def first_losses(
    losses: tf.Tensor, losses_of_uniform: tf.Tensor, rounding: float = 1e-3
) -> tf.Tensor:
    """L(0), by which the loss balance normalises, from the losses of the first batch.

    A student that starts as a copy of one of its teachers has a first loss of 0 there, or what an
    offset inside a logarithm leaves of it, and what is divided by that decides everything. Where a
    first loss is below `rounding` of what a student would have that calls all classes equally
    likely, as an untrained one does, that student's losses stand in for all first losses. Else they
    are `losses`, to the bit. (Ours; the papers' students are untrained.)

    Args:
      losses: `[teachers]`, of the first batch, means over the *global* batch.
      losses_of_uniform: `[teachers]`, those of a student with equal logits.
      rounding: share below which a first loss measures nothing.

    Returns:
      `[teachers]`.
    """
    measured = tf.reduce_all(losses >= rounding * losses_of_uniform)
    return tf.where(measured, losses, losses_of_uniform)


def first_losses_once(
    kept: tf.Tensor, losses: tf.Tensor, of_uniform: Callable[[], Iterable[tf.Tensor]]
) -> tf.Tensor:
    """L(0) of each teacher: `first_losses` of the first step, and what is kept from then on.

    Args:
      kept: `[teachers]`, NaN before the first step.
      losses: `[teachers]`, of this step, means over the *global* batch.
      of_uniform: makes the losses of a student with equal logits, `[batch]` for each teacher;
        computed in the first step only.

    Returns:
      `[teachers]`.
    """
    unknown = tf.math.is_nan(kept)
    uniform = tf.cond(
        tf.reduce_any(unknown),
        lambda: tf.stack(list(of_uniform())),
        lambda: tf.zeros([kept.shape[0], 1]),
    )
    # Outside of the condition: replicas may not meet in one.
    means = global_means(tf.unstack(uniform))
    return tf.where(unknown, first_losses(losses, means), kept)


def state(owner: keras.Model, name: str, values: Sequence[float]) -> keras.Variable:
    """A variable of `owner` with a value per teacher, the same on all replicas."""
    return replicated_state(
        owner, name, (len(values),), lambda shape, dtype: tf.constant(list(values), dtype)
    )


def start_weights(given: Mapping[str, float] | None, roles: Sequence[str]) -> list[float]:
    """The weights of the first step in the order of the roles, equal where none are given.

    Raises:
      ValueError: other roles, or weights that do not sum to 1.
    """
    start = given or {role: 1 / len(roles) for role in roles}
    if set(start) != set(roles) or abs(sum(start.values()) - 1) > 1e-6:
        raise ValueError(
            f"initial_weights is {dict(start)}; give one weight for each of {', '.join(roles)}, "
            "summing to 1."
        )
    return [start[role] for role in roles]


def start_temperatures(
    given: Mapping[str, float] | None, roles: Sequence[str], minimum: float, maximum: float
) -> list[float]:
    """The temperatures of the first step in the order of the roles, 1 where none is given.

    Raises:
      ValueError: another role, or a temperature outside [minimum, maximum].
    """
    start = dict(given or {})
    if set(start) - set(roles) or not all(minimum <= t <= maximum for t in start.values()):
        raise ValueError(
            f"initial_temperatures is {start}; give numbers from {minimum:g} to {maximum:g} (the "
            f"bounds) for {', '.join(roles)}."
        )
    return [float(start.get(role, 1.0)) for role in roles]


def seen_views(teacher_views: Mapping[str, str], views: Sequence[str]) -> tuple[str, ...]:
    """Those of `views` that some teacher sees: a view without a teacher has no term.

    Raises:
      ValueError: no teacher, or one that sees another view.
    """
    seen = set(teacher_views.values())
    if not seen or seen - set(views):
        raise ValueError(
            f"teacher_views is {dict(teacher_views)}; give at least one role, each with one of the "
            f"views {', '.join(views)}."
        )
    return tuple(view for view in views if view in seen)


def _mean_of_others(values: tf.Tensor) -> tf.Tensor:
    teachers = tf.convert_to_tensor(values).shape[0]
    if teachers <= 2:
        return tf.reverse(values, [0])  # exact: (a + b) - a is not always b in floating point
    return (tf.reduce_sum(values) - values) / (teachers - 1)
