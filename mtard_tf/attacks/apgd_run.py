"""One round of Auto-PGD, on a batch from which misclassified images are dropped."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, gradients, shrinking_batches
from mtard_tf.attacks.attack import Problem


def checkpoints(num_steps: int) -> list[int]:
    """Steps after which APGD reconsiders its step size: 22, 41, 57, 70, 80, 87, 93, 99 of 100."""
    window, shrink, least = _windows(num_steps)
    steps, at = [], window
    while at <= num_steps:
        steps.append(at)
        window = max(window - shrink, least)
        at += window
    return steps


def _windows(num_steps: int) -> tuple[int, int, int]:
    """First window between checkpoints, its shrinkage, and its least length, in steps."""
    first, shrink, least = (max(int(share * num_steps), 1) for share in (0.22, 0.03, 0.06))
    return first, shrink, least


class _Rows(NamedTuple):
    """What one run knows of each image that is still in its batch."""

    row: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    targets: tf.Tensor
    current: tf.Tensor
    previous: tf.Tensor
    gradient: tf.Tensor
    loss: tf.Tensor
    margin: tf.Tensor
    step: tf.Tensor
    best: tf.Tensor
    best_gradient: tf.Tensor
    best_loss: tf.Tensor
    best_margin: tf.Tensor
    rises: tf.Tensor
    checked_loss: tf.Tensor
    halved: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Run:
    """One round of APGD on one (compacted) batch; the fields but the first are those of `APGD`."""

    problem: Problem
    loss: str
    num_steps: int
    rho: float
    eot_samples: int

    def __call__(
        self, images: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor, seeds: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Best (or broken) images and their margins."""
        window, shrink, least = _windows(self.num_steps)
        rows = self._begin(images, labels, targets, seeds)
        found, margins, rows = self._drop(rows.best, rows.best_margin, rows)

        def step(i: tf.Tensor, at: tf.Tensor, window: tf.Tensor, *state: Any) -> tuple:
            found, margins, rows = state
            rows = self._move(rows, tf.where(i > 0, 0.75, 1.0))
            check = tf.equal(i + 1, at)
            rows = tf.cond(check, lambda: self._checkpoint(rows, window), lambda: rows)
            window = tf.where(check, tf.maximum(window - shrink, least), window)
            at = tf.where(check, at + window, at)
            return (at, window, *self._drop(found, margins, rows))

        *_, found, margins, rows = shrinking_batches.loop(
            self.num_steps,
            step,
            (window, window, found, margins, rows),
            going=lambda *state: tf.size(state[-1].row) > 0,
        )
        left = rows.best, rows.best_margin
        return shrinking_batches.scatter((found, margins), rows.row, left)

    def _begin(
        self, images: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor, seeds: tf.Tensor
    ) -> _Rows:
        threat = self.problem.threat
        offset = geometry.boundary_noise(seeds, images.shape[1:], threat.norm)
        start = threat.project(images + threat.epsilon * offset, images)
        loss, margin, gradient = self._evaluate(start, labels, targets)
        count = tf.shape(labels)[0]
        return _Rows(
            row=tf.range(count), clean=images, labels=labels, targets=targets,
            current=start, previous=start, gradient=gradient, loss=loss, margin=margin,
            step=tf.fill([count], 2.0 * threat.epsilon),
            best=start, best_gradient=gradient, best_loss=loss, best_margin=margin,
            rises=tf.zeros([count], tf.int32), checked_loss=loss, halved=tf.fill([count], True),
        )  # fmt: skip

    def _evaluate(
        self, images: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Loss, margin and direction of the gradient, averaged over `eot_samples` model calls."""

        def sample() -> gradients.Slope:
            return gradients.slope(
                self.problem.model_fn,
                images,
                lambda x, logits: self._objective(x, logits, labels, targets),
            )

        def add(i: tf.Tensor, *totals: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return i + 1, *_added(gradients.Slope(*totals), sample())

        samples, total = self.eot_samples, sample()
        if samples > 1:
            _, *totals = tf.while_loop(
                lambda i, *_: i < samples, add, (1, *total), parallel_iterations=1
            )
            total = gradients.Slope(*totals)
        margin = losses.margin(total.logits / samples, labels)
        return total.loss / samples, margin, total.gradient

    def _objective(
        self, images: tf.Tensor, logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
    ) -> tf.Tensor:
        if self.problem.objective is not None:
            return self.problem.objective(images, logits)
        if self.loss == "ce":
            return losses.cross_entropy(logits, labels)
        if self.loss == "margin":
            return -losses.margin(logits, labels)
        if self.loss == "dlr":
            return losses.dlr(logits, labels)
        return losses.dlr_targeted(logits, labels, targets)

    def _move(self, rows: _Rows, momentum: tf.Tensor) -> _Rows:
        threat, x = self.problem.threat, rows.current
        project, ahead = threat.project, geometry.steepest(rows.gradient, threat.norm)
        ahead = project(x + geometry.spread(rows.step, x) * ahead, rows.clean)
        drift = (1 - momentum) * (x - rows.previous)
        moved = project(x + momentum * (ahead - x) + drift, rows.clean)
        loss, margin, gradient = self._evaluate(moved, rows.labels, rows.targets)
        better = loss > rows.best_loss
        wide = geometry.spread(better, x)
        return rows._replace(
            current=moved, previous=x, gradient=gradient, loss=loss, margin=margin,
            best=tf.where(wide, moved, rows.best),
            best_gradient=tf.where(wide, gradient, rows.best_gradient),
            best_loss=tf.where(better, loss, rows.best_loss),
            best_margin=tf.where(better, margin, rows.best_margin),
            rises=rows.rises + tf.cast(loss > rows.loss, tf.int32),
        )  # fmt: skip

    def _checkpoint(self, rows: _Rows, window: tf.Tensor) -> _Rows:
        limit = self.rho * tf.cast(window, tf.float32)
        oscillates = tf.cast(rows.rises, tf.float32) <= limit
        stuck = tf.logical_and(~rows.halved, rows.checked_loss >= rows.best_loss)
        halve = tf.logical_or(oscillates, stuck)
        wide = geometry.spread(halve, rows.current)
        return rows._replace(
            step=tf.where(halve, rows.step / 2, rows.step),
            current=tf.where(wide, rows.best, rows.current),
            gradient=tf.where(wide, rows.best_gradient, rows.gradient),
            rises=tf.zeros_like(rows.rises), checked_loss=rows.best_loss, halved=halve,
        )  # fmt: skip

    def _drop(
        self, found: tf.Tensor, margins: tf.Tensor, rows: _Rows
    ) -> tuple[tf.Tensor, tf.Tensor, _Rows]:
        """Keeps what the last step broke in `found` and takes it out of the batch."""
        if self.problem.objective is not None:
            return found, margins, rows
        broken = ~(rows.margin >= 0)
        values = rows.current, rows.margin
        return shrinking_batches.drop(broken, (found, margins), values, rows)


def _added(one: gradients.Slope, other: gradients.Slope) -> gradients.Slope:
    """Sums of two samples; their gradients are brought to the smaller scale first."""
    scale = tf.minimum(one.scale, other.scale)
    ours, theirs = (
        sample.gradient * geometry.spread(scale / sample.scale, sample.gradient)
        for sample in (one, other)
    )
    return gradients.Slope(one.loss + other.loss, one.logits + other.logits, ours + theirs, scale)
