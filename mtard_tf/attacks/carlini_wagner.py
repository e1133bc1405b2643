"""Carlini and Wagner's L2 attack: the smallest L2 perturbation, by a search over the constant."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, gradients, shrinking_batches
from mtard_tf.attacks.attack import MinimalAttack, Problem, require_above_zero
from mtard_tf.attacks.spsa import adam

_NO_UPPER = 1e10
# tanh reaches the ends of the box only at infinity.
_SQUEEZE = 0.999999


@dataclasses.dataclass(frozen=True)
class CWL2(MinimalAttack):
    """Carlini and Wagner (IEEE S&P 2017, arXiv 1608.04644), section VI.A.

        minimise |x' - x|_2^2 + c max(m(x') + confidence, 0),   x' = box(tanh(w))

    with m = z_label - max other (`targeted`: max other - z_label), Adam over w, and a binary
    search over c for each image. Minimises the distance, whatever epsilon is; what is not broken
    within epsilon comes back unchanged. Every image has its own constant, bounds, Adam state and
    best point, and stops a search step alone when its loss no longer falls.

    Attributes:
      num_steps: Adam steps for each constant. Below 1,000 the distances are not the smallest.
      search_steps: constants tried.
      learning_rate: of Adam, in tanh space.
      initial_constant: first c.
      confidence: kappa, the margin by which the wrong class must win.
      targeted: the labels are classes to reach, not to leave.
      abort_early: stop where the loss fell by less than 0.01 % over a tenth of the steps.

    Raises:
      ValueError: a confidence below 0, or another number that is not above 0.
    """

    fixed_loss = "CWL2 brings its own loss"

    num_steps: int = 1000
    search_steps: int = 9
    learning_rate: float = 0.01
    initial_constant: float = 0.001
    confidence: float = 0.0
    targeted: bool = False
    abort_early: bool = True

    def __post_init__(self) -> None:
        require_above_zero(self, "num_steps", "search_steps", "learning_rate", "initial_constant")
        if not self.confidence >= 0:
            raise ValueError(f"CWL2.confidence is {self.confidence}; give a number >= 0.")

    def minimal(self, problem: Problem, constants: tf.Tensor | None = None) -> tf.Tensor:
        """The same without the ball: of the threat model, only the box is used.

        An image that is never broken comes back unchanged, and so does one that is broken
        (`targeted`: in its target class) when clean. `constants`, float32 `[batch]`, are each
        image's own first c, instead of `initial_constant`.
        """
        model_fn, images, labels, *_ = problem
        if constants is None:
            constants = tf.fill([tf.shape(images)[0]], float(self.initial_constant))
        rows = shrinking_batches.rows_where(self._shortfall(model_fn(images), labels) > 0)
        clean, own, constants = shrinking_batches.take((images, labels, constants), rows)
        count = tf.size(rows)
        search = _Search(self, problem)

        def step(i: tf.Tensor, *state: tf.Tensor) -> tuple:
            constant, lower, upper, best, distance = state
            # A long search ends on the best constant that is known, as the authors' does.
            last = tf.logical_and(self.search_steps >= 10, tf.equal(i, self.search_steps - 1))
            constant = tf.where(tf.logical_and(last, upper < _NO_UPPER), upper, constant)
            best, distance, hit = search(clean, own, constant, best, distance)
            upper = tf.where(hit, tf.minimum(upper, constant), upper)
            lower = tf.where(hit, lower, tf.maximum(lower, constant))
            bounded = upper < _NO_UPPER
            constant = tf.where(bounded, (lower + upper) / 2, constant * 10)
            return constant, lower, upper, best, distance

        lower, upper = tf.zeros([count]), tf.fill([count], _NO_UPPER)
        *_, best, _ = shrinking_batches.loop(
            self.search_steps,
            step,
            (constants, lower, upper, clean, tf.fill([count], float("inf"))),
            going=lambda *_: count > 0,
        )
        return shrinking_batches.scatter(images, rows, best)

    def _shortfall(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """What is missing to success with `confidence`; 0 or less once there."""
        margin = losses.margin(logits, labels)
        return (-margin if self.targeted else margin) + self.confidence


class _Rows(NamedTuple):
    """Optimisation state of each image that is still in the batch of one search step."""

    row: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    constant: tf.Tensor
    w: tf.Tensor
    first: tf.Tensor
    second: tf.Tensor
    checked: tf.Tensor


class _Search:
    """Adam for one constant by image, on a batch that images leave as they converge."""

    def __init__(self, attack: CWL2, problem: Problem) -> None:
        self.attack, self.model_fn, threat = attack, problem.model_fn, problem.threat
        self.middle = (threat.maximum + threat.minimum) / 2
        self.half = (threat.maximum - threat.minimum) / 2

    def __call__(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        constant: tf.Tensor,
        best: tf.Tensor,
        distance: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Best images so far, their distances, and which images this constant broke."""
        w = tf.atanh((images - self.middle) / self.half * _SQUEEZE)
        count = tf.shape(labels)[0]
        rows = _Rows(
            tf.range(count), images, labels, constant, w, tf.zeros_like(w), tf.zeros_like(w),
            tf.fill([count], float("inf")),
        )  # fmt: skip
        every = max(self.attack.num_steps // 10, 1)

        def step(
            i: tf.Tensor, best: tf.Tensor, distance: tf.Tensor, hit: tf.Tensor, rows: _Rows
        ) -> tuple:
            candidates, squared, won, loss, rows = self._descend(i, rows)
            better = tf.logical_and(won, squared < tf.gather(distance, rows.row))
            row, new, new_squared = shrinking_batches.take(
                (rows.row, candidates, squared), shrinking_batches.rows_where(better)
            )
            hits = tf.gather(rows.row, shrinking_batches.rows_where(won))
            hit = shrinking_batches.scatter(hit, hits, tf.fill([tf.size(hits)], True))
            rows = self._leave(tf.equal((i + 1) % every, 0), rows, loss)
            better = shrinking_batches.scatter((best, distance), row, (new, new_squared))
            return (*better, hit, rows)

        hit = tf.fill([count], False)
        best, distance, hit, _ = shrinking_batches.loop(
            self.attack.num_steps,
            step,
            (best, distance, hit, rows),
            going=lambda *state: tf.size(state[-1].row) > 0,
        )
        return best, distance, hit

    def _descend(
        self, i: tf.Tensor, rows: _Rows
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, _Rows]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows.w)
            candidates = self.middle + self.half * tf.tanh(rows.w)
        apart = candidates - rows.clean

        def hinge(_: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
            return rows.constant * tf.nn.relu(self.attack._shortfall(logits, rows.labels))

        slope = gradients.slope(self.model_fn, candidates, hinge)
        shortfall = self.attack._shortfall(slope.logits, rows.labels)
        squared = geometry.per_image_sum(tf.square(apart))
        loss = squared + slope.loss
        gradient = tape.gradient(
            candidates, rows.w, output_gradients=2.0 * apart + slope.unscaled()
        )
        move, first, second = adam(gradient, rows.first, rows.second, i, self.attack.learning_rate)
        rows = rows._replace(w=rows.w - move, first=first, second=second)
        confident = shortfall <= 0 if self.attack.confidence else shortfall < 0
        return candidates, squared, confident, loss, rows

    def _leave(self, check: tf.Tensor, rows: _Rows, loss: tf.Tensor) -> _Rows:
        if not self.attack.abort_early:
            return rows
        falling = loss <= 0.9999 * rows.checked

        def leave() -> _Rows:
            return shrinking_batches.take(
                rows._replace(checked=loss), shrinking_batches.rows_where(falling)
            )

        return tf.cond(check, leave, lambda: rows)
