"""Per-example losses as pure functions of logits: divergence, entropy, cross-entropy, margins.

Every function returns one value per example, `[batch]`, and the caller reduces over the batch: the
methods differ in how. Everything is computed in float32, whatever the dtype of the logits.
"""

from __future__ import annotations

from typing import TypeAlias

import tensorflow as tf

_Scale: TypeAlias = float | tf.Tensor


def kl_divergence(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    *,
    teacher_temperature: _Scale = 1.0,
    student_temperature: _Scale = 1.0,
    log_offset: float = 0.0,
) -> tf.Tensor:
    """KL(teacher || student), summed over classes.

        q = softmax(teacher_logits / teacher_temperature)
        KL = sum_c q log(q + log_offset) - q log_softmax(student_logits / student_temperature)

    The gradient flows into both arguments; stop it outside where a method detaches its target.

    Args:
      teacher_logits: raw logits of the target distribution, `[batch, classes]`.
      student_logits: raw logits of the trained distribution, `[batch, classes]`.
      teacher_temperature: divides the teacher's logits only.
      student_temperature: divides the student's logits only.
      log_offset: added inside the target's logarithm. The official MTARD code uses 1e-5, which
        changes the value by a constant and not the student's gradient; 0 is the exact divergence.

    Returns:
      `[batch]`, in nats. No temperature-squared factor is applied.

    Source: MTARD (ECCV 2022), `mtard/mtard_resnet18_cifar10.py:51-53`, which takes the mean over
    classes as well; here it is the sum.
    """
    log_q = tf.nn.log_softmax(tf.cast(teacher_logits, tf.float32) / teacher_temperature)
    log_p = tf.nn.log_softmax(tf.cast(student_logits, tf.float32) / student_temperature)
    q = tf.exp(log_q)
    target = tf.math.log(q + log_offset) if log_offset else log_q
    return tf.reduce_sum(q * (target - log_p), axis=-1)


def entropy(logits: tf.Tensor, *, temperature: _Scale = 1.0, log_offset: float = 0.0) -> tf.Tensor:
    """Shannon entropy of softmax(logits / temperature), summed over classes.

        p = softmax(logits / temperature);  H = -sum_c p log(p + log_offset)

    Args:
      logits: raw logits, `[batch, classes]`.
      temperature: divides the logits.
      log_offset: 0 gives the exact entropy. The official B-MTARD code uses 1e-5, with which a very
        sure teacher (logit gap above about 17) gets a slightly *negative* entropy.

    Returns:
      `[batch]`, in nats, between 0 and log(classes) when `log_offset` is 0.

    Source: B-MTARD (arXiv 2306.16170), `MTARD-extension/resnet18_mtard_cifar10.py:59-62`, which
    takes the mean over classes and leaves out the minus sign.
    """
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float32) / temperature)
    p = tf.exp(log_p)
    return -tf.reduce_sum(p * (tf.math.log(p + log_offset) if log_offset else log_p), axis=-1)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, *, smoothing: float = 0.0) -> tf.Tensor:
    """-log softmax(logits)[label], or with smoothed labels:

        -sum_c y_c log softmax(logits)_c,   y = (1 - smoothing) onehot(label) + smoothing / classes

    Args:
      logits: raw logits, `[batch, classes]`.
      labels: integer class ids, `[batch]`.
      smoothing: weight of the uniform distribution in the target, in [0, 1).

    Returns:
      `[batch]`, in nats.

    Source of the smoothing: Szegedy et al. (CVPR 2016, arXiv 1512.00567), section 7.
    """
    logits = tf.cast(logits, tf.float32)
    hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    if not smoothing:
        return hard
    uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
    return (1.0 - smoothing) * hard + smoothing * uniform


def soft_cross_entropy(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    *,
    teacher_temperature: _Scale = 1.0,
    student_temperature: _Scale = 1.0,
) -> tf.Tensor:
    """-sum_c softmax(teacher_logits / T_t)_c log_softmax(student_logits / T_s)_c.

    Equal to `kl_divergence` plus the target's entropy, so that the student's gradient is the same;
    for a one-hot teacher it is `cross_entropy`. Arguments as in `kl_divergence`.

    Returns:
      `[batch]`, in nats.
    """
    q = tf.nn.softmax(tf.cast(teacher_logits, tf.float32) / teacher_temperature)
    log_p = tf.nn.log_softmax(tf.cast(student_logits, tf.float32) / student_temperature)
    return -tf.reduce_sum(q * log_p, axis=-1)


def gradient_matching(
    teacher_plus: tf.Tensor,
    teacher_minus: tf.Tensor,
    student_plus: tf.Tensor,
    student_minus: tf.Tensor,
) -> tf.Tensor:
    """KL(softmax(T(x + d) - T(x - d)) || softmax(S(x + d) - S(x - d))), of raw logits.

    To first order in d these differences are 2 d times the gradients of the logits, so that the
    student learns the teacher's gradients. A constant added to a row of logits changes nothing.

    Args:
      teacher_plus: the teacher's logits at x + d, `[batch, classes]`.
      teacher_minus: at x - d.
      student_plus: the student's logits at x + d.
      student_minus: at x - d.

    Returns:
      `[batch]`, in nats. The gradient flows into all four.

    Source: IGDM (ICLR 2025, arXiv 2312.03286), `HongsinLee/saad:igdm.py:52-59`.
    """
    pairs = ((teacher_plus, teacher_minus), (student_plus, student_minus))
    return kl_divergence(*(tf.cast(a, tf.float32) - tf.cast(b, tf.float32) for a, b in pairs))


def margin(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """z_label - max_{j != label} z_j: negative exactly if `label` is not the prediction.

    Args:
      logits: raw logits, `[batch, classes]`, at least 2 classes.
      labels: integer class ids, `[batch]`.

    Returns:
      `[batch]`, in units of the logits; 0 on a tie.
    """
    logits = tf.cast(logits, tf.float32)
    own = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    z_own = tf.gather(logits, labels, batch_dims=1)
    # -inf, not a large constant, which logits of a distilled net could exceed.
    return z_own - tf.reduce_max(tf.where(own, -float("inf"), logits), axis=-1)


def cw_margin(logits: tf.Tensor, labels: tf.Tensor, *, confidence: float = 50.0) -> tf.Tensor:
    """Carlini-Wagner margin loss of an untargeted Linf attack, which maximises it.

        -max(z_label - max_{j != label} z_j + confidence, 0)

    Args:
      logits: raw logits, `[batch, classes]`.
      labels: integer ids of the true classes, `[batch]`.
      confidence: kappa, in units of the logits: the gradient is 0 once the margin is below -kappa.

    Returns:
      `[batch]`, at most 0.

    Source: CIARD `attack_eval.py:87-100`, IAD `attack_generator.py:5-16`, which subtract 10000 from
    the true class, which is wrong for larger logits; below that the values are equal.
    """
    return -tf.nn.relu(margin(logits, labels) + confidence)


def dlr(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Difference of logits ratio, untargeted; the attack maximises it.

        -(z_label - max_{j != label} z_j) / (z_(1) - z_(3) + 1e-12)

    with z_(k) the k-th largest logit: invariant to shifting and scaling the logits.

    Args:
      logits: raw logits, `[batch, classes]`, at least 3 classes.
      labels: integer ids of the true classes, `[batch]`.

    Returns:
      `[batch]`, above 0 exactly if `label` is not the prediction.

    Raises:
      ValueError: fewer than 3 classes.

    Source: Croce and Hein (ICML 2020, arXiv 2003.01690), equation 6.
    """
    require_classes("dlr", logits, 3)
    largest = tf.math.top_k(tf.cast(logits, tf.float32), k=3).values
    return -margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def dlr_targeted(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Difference of logits ratio towards a target class; the attack maximises it.

        -(z_label - z_target) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)

    Args:
      logits: raw logits, `[batch, classes]`, at least 4 classes.
      labels: integer ids of the true classes, `[batch]`.
      targets: integer ids of the classes to reach, `[batch]`.

    Returns:
      `[batch]`.

    Raises:
      ValueError: fewer than 4 classes.

    Source: Croce and Hein (ICML 2020, arXiv 2003.01690), equation 7.
    """
    require_classes("dlr_targeted", logits, 4)
    logits = tf.cast(logits, tf.float32)
    largest = tf.math.top_k(logits, k=4).values
    gap = tf.gather(logits, labels, batch_dims=1) - tf.gather(logits, targets, batch_dims=1)
    return -gap / (largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3]) + 1e-12)


def require_classes(name: str, logits: tf.Tensor, least: int) -> None:
    """Raises `ValueError` if `logits` `[batch, classes]` have fewer than `least` classes."""
    if logits.shape[-1] < least:
        raise ValueError(
            f"The {name} loss needs at least {least} classes and got {logits.shape[-1]}; use the "
            "cross-entropy (apgd_ce) or the margin (cw_inf) instead."
        )
