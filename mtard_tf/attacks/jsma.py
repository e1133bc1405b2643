"""Jacobian saliency map attack: few pixels, moved all the way (L0)."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import gradients, shrinking_batches
from mtard_tf.attacks.attack import MinimalAttack, ModelFn, Problem


@dataclasses.dataclass(frozen=True)
class JSMA(MinimalAttack):
    """Papernot et al. (EuroS&P 2016, arXiv 1511.07528), algorithm 3, on pairs of pixels.

        (p, q) = argmax -a b,   a = sum over p, q of dZ_target/dx > 0,
                                b = sum over p, q and j != target of dZ_j/dx < 0

    Each step moves the best pair by `theta` and a pixel at the end of its range is never used
    again. The number of pixels is bounded, not their change: give a threat model whose ball holds
    whole pixels (Linf with epsilon 1); what leaves the ball comes back unchanged. An image leaves
    the batch at the step that breaks it.

    Attributes:
      theta: change of each chosen pixel, in [0, 1] pixel units; negative darkens.
      max_fraction: greatest share of the pixels (of all channels) that may change.
      targeted: the labels are classes to reach. Otherwise they are the true classes, and the
        target is the likeliest wrong class of the clean image.
      temperature: None for gradients of the logits. A number takes those of softmax(logits /
        temperature) instead: the fix that breaks defensive distillation at its own temperature.

    Raises:
      ValueError: theta outside [-1, 1] or 0, a share outside (0, 1], a temperature not above 0.
    """

    fixed_loss = "JSMA follows its saliency map"

    theta: float = 1.0
    max_fraction: float = 0.145
    targeted: bool = False
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not 0 < abs(self.theta) <= 1:
            raise ValueError(f"JSMA.theta is {self.theta}; give a change in [-1, 1], not 0.")
        if not 0 < self.max_fraction <= 1:
            raise ValueError(f"JSMA.max_fraction is {self.max_fraction}; give a share in (0, 1].")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(
                f"JSMA.temperature is {self.temperature}; give a number above 0 or None."
            )

    def minimal(self, problem: Problem) -> tf.Tensor:
        model_fn, images, labels, threat, *_ = problem
        logits = model_fn(images)
        targets = labels if self.targeted else shrinking_batches.wrong_classes(logits, labels)[:, 0]
        targets = tf.cast(targets, tf.int32)
        steps = int(self.max_fraction * images.shape[1:].num_elements() / 2)

        def scores(logits: tf.Tensor, own: tf.Tensor) -> tf.Tensor:  # < 0 once broken
            margin = losses.margin(logits, own)
            return -margin if self.targeted else margin

        def step(_: tf.Tensor, perturbed: tf.Tensor, domain: tf.Tensor, left: tf.Tensor) -> tuple:
            rows = shrinking_batches.rows_where(left >= 0)
            x, free, own, aims = shrinking_batches.take((perturbed, domain, labels, targets), rows)
            x, free, moved = self._move_pair(problem, x, free, aims)
            # Without a pair that helps, the search is over for this image.
            reached = tf.where(moved, scores(model_fn(x), own), -1.0)
            before, after = (perturbed, domain, left), (x, free, reached)
            return shrinking_batches.scatter(before, rows, after)

        domain = images < threat.maximum if self.theta > 0 else images > threat.minimum
        left = scores(logits, labels)
        perturbed, *_ = shrinking_batches.loop(
            steps, step, (images, domain, left), going=lambda *state: tf.reduce_any(state[-1] >= 0)
        )
        return perturbed

    def _move_pair(
        self, problem: Problem, x: tf.Tensor, domain: tf.Tensor, targets: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Images with their best pair moved, the pixels still free, and whether there was one."""
        towards, away = self._saliency(problem.model_fn, x, targets)
        if self.theta < 0:
            towards, away = -towards, -away
        threat, shape, count = problem.threat, tf.shape(x), x.shape[1:].num_elements()
        flat = [tf.reshape(t, [-1, count]) for t in (towards, away, domain)]
        # One image at a time: the table of all pairs is as large as the square of the image.
        pairs, found = tf.map_fn(
            _best_pair,
            tuple(flat),
            fn_output_signature=(tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.bool)),
        )
        chosen = tf.reduce_any(
            tf.one_hot(pairs, count, on_value=True, off_value=False, dtype=tf.bool), axis=1
        )
        chosen = tf.reshape(tf.logical_and(chosen, found[:, None]), shape)
        x = tf.where(chosen, tf.clip_by_value(x + self.theta, threat.minimum, threat.maximum), x)
        free = x < threat.maximum if self.theta > 0 else x > threat.minimum
        return x, tf.logical_and(domain, free), found

    def _saliency(
        self, model_fn: ModelFn, x: tf.Tensor, targets: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Gradients of the target's output and of the sum of the others, scaled alike."""

        def outputs(logits: tf.Tensor) -> tf.Tensor:
            return logits if self.temperature is None else tf.nn.softmax(logits / self.temperature)

        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = tf.cast(model_fn(x), tf.float32)
            values = outputs(logits)
            own = tf.gather(values, targets, batch_dims=1)
            others = tf.reduce_sum(values, axis=1) - own
        scale = gradients.scale_of(tape.gradient(own, logits))
        towards, away = (
            tape.gradient(score, x, scale, tf.UnconnectedGradients.ZERO) for score in (own, others)
        )
        return towards, away


def _best_pair(saliency: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The pair of free pixels with the greatest -a b, and whether there is one."""
    towards, away, free = saliency
    count = tf.shape(towards)[0]
    # The table is large, so each pass over it counts: a pair is worth 0 unless a > 0 and b < 0.
    towards = tf.where(free, towards, -float("inf"))
    a = tf.nn.relu(towards[:, None] + towards[None])
    b = tf.nn.relu(-away[:, None] - away[None])
    worth = tf.reshape(tf.linalg.set_diag(a * b, tf.zeros([count])), [-1])
    place = tf.argmax(worth, output_type=tf.int32)
    return tf.stack([place // count, place % count]), worth[place] > 0


def changed_fraction(perturbed: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Share of the pixels (of all channels) that differ: Papernot's distortion, `[batch]`."""
    axes = list(range(1, images.shape.rank))
    return tf.reduce_mean(tf.cast(perturbed != images, tf.float32), axis=axes)
