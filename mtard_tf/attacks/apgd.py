"""Auto-PGD: projected gradient descent that sets its own step size, Linf and L2."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, standing
from mtard_tf.attacks import seeds as random
from mtard_tf.threat import ThreatModel

ModelFn = Callable[[tf.Tensor], tf.Tensor]
Objective = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

LOSSES = ("ce", "dlr", "dlr_targeted")


@dataclasses.dataclass(frozen=True)
class APGD:
    """Auto-PGD (Croce and Hein, ICML 2020, arXiv 2003.01690, algorithm 1).

        z = project(x_k + step * direction(grad))
        x_(k+1) = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_(k-1)))

    The step starts at 2 epsilon. At each checkpoint it is halved, and the image goes back to its
    best point, if fewer than `rho` of the steps since the last one raised the loss, or if neither
    the step nor the best loss changed. The start lies on the boundary of the ball. An image leaves
    the batch at the step that breaks it.

    Attributes:
      loss: "ce", "dlr" or "dlr_targeted" (one round for each of the `num_targets` likeliest wrong
        classes, or all of them if there are fewer).
      num_steps: gradient steps of each round.
      restarts: rounds (for each target class), each on what still stands.
      num_targets: target classes of "dlr_targeted".
      rho: share of rising steps below which the step is halved.
      eot_samples: model calls whose gradients and logits are averaged at each step, for models
        that draw random numbers (expectation over transformation).

    Raises:
      ValueError: an unknown loss or a number below 1; when called, fewer classes than the loss
        needs.
    """

    loss: str = "ce"
    num_steps: int = 100
    restarts: int = 1
    num_targets: int = 9
    rho: float = 0.75
    eot_samples: int = 1

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.loss not in LOSSES:
            raise ValueError(f"{name}.loss is {self.loss!r}; use one of {', '.join(LOSSES)}.")
        for field in ("num_steps", "restarts", "num_targets", "eot_samples"):
            if getattr(self, field) < 1:
                raise ValueError(f"{name}.{field} is {getattr(self, field)}; give at least 1.")

    def __call__(
        self,
        model_fn: ModelFn,
        images: tf.Tensor,
        labels: tf.Tensor,
        *,
        threat: ThreatModel,
        seeds: tf.Tensor,
        objective: Objective | None = None,
    ) -> tf.Tensor:
        """Perturbed images, float32, shaped like `images`; see the package docstring.

        With an `objective` every image stays in the batch, which the objective may be bound to.
        """
        targeted = self.loss == "dlr_targeted" and objective is None
        if targeted:
            likely = standing.wrong_classes(model_fn(images), labels)
            targets = standing.count_targets(self.num_targets, likely.shape[1] + 1)
        else:
            likely, targets = tf.zeros([tf.shape(labels)[0], 1], tf.int32), 1

        def single(i, images, labels, seeds, ranking):
            return _Run(self, model_fn, threat, objective)(
                images, labels, ranking[:, i % targets], seeds
            )

        return standing.attack_standing(
            single,
            model_fn,
            images,
            labels,
            seeds,
            rounds=self.restarts * targets,
            extra=likely,
            drop=objective is None,
        )


class APGDCrossEntropy(APGD):
    """APGD on the cross-entropy: `apgd_ce`."""

    def __init__(self, num_steps: int = 100, restarts: int = 1, eot_samples: int = 1) -> None:
        super().__init__("ce", num_steps, restarts, eot_samples=eot_samples)


class APGDDLR(APGD):
    """APGD on the untargeted difference of logits ratio: `apgd_dlr`."""

    def __init__(self, num_steps: int = 100, restarts: int = 1, eot_samples: int = 1) -> None:
        super().__init__("dlr", num_steps, restarts, eot_samples=eot_samples)


class APGDTargeted(APGD):
    """APGD on the targeted difference of logits ratio, target by target: `apgd_t`."""

    def __init__(self, num_steps: int = 100, restarts: int = 1, num_targets: int = 9) -> None:
        super().__init__("dlr_targeted", num_steps, restarts, num_targets)


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
    return tuple(max(int(share * num_steps), 1) for share in (0.22, 0.03, 0.06))


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


class _Run:
    """One round of APGD on one (compacted) batch."""

    def __init__(
        self, attack: APGD, model_fn: ModelFn, threat: ThreatModel, objective: Objective | None
    ) -> None:
        self.attack, self.model_fn, self.threat = attack, model_fn, threat
        self.objective = objective

    def __call__(
        self, images: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor, seeds: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Best (or broken) images and their margins."""
        window, shrink, least = _windows(self.attack.num_steps)
        rows = self._begin(images, labels, targets, seeds)
        found, margins, rows = self._drop(rows.best, rows.best_margin, rows)

        def step(i, at, window, found, margins, rows):
            rows = self._move(rows, tf.where(i > 0, 0.75, 1.0))
            check = tf.equal(i + 1, at)
            rows = tf.cond(check, lambda: self._checkpoint(rows, window), lambda: rows)
            window = tf.where(check, tf.maximum(window - shrink, least), window)
            at = tf.where(check, at + window, at)
            return (i + 1, at, window, *self._drop(found, margins, rows))

        scalar = tf.TensorShape([])
        *_, found, margins, rows = tf.while_loop(
            lambda i, at, window, found, margins, rows: tf.logical_and(
                i < self.attack.num_steps, tf.size(rows.row) > 0
            ),
            step,
            (0, window, window, found, margins, rows),
            shape_invariants=(
                scalar, scalar, scalar, found.shape, margins.shape, standing.any_batch(rows)
            ),
            parallel_iterations=1,
        )
        found = standing.scatter(found, rows.row, rows.best)
        return found, standing.scatter(margins, rows.row, rows.best_margin)

    def _begin(
        self, images: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor, seeds: tf.Tensor
    ) -> _Rows:
        linf = self.threat.norm == "linf"
        draw = random.uniform if linf else random.normal
        noise = draw(seeds, images.shape[1:])
        offset = geometry.unit(2 * noise - 1 if linf else noise, self.threat.norm)
        start = self.threat.project(images + self.threat.epsilon * offset, images)
        loss, margin, gradient = self._evaluate(start, labels, targets)
        count = tf.shape(labels)[0]
        return _Rows(
            row=tf.range(count), clean=images, labels=labels, targets=targets,
            current=start, previous=start, gradient=gradient, loss=loss, margin=margin,
            step=tf.fill([count], 2.0 * self.threat.epsilon),
            best=start, best_gradient=gradient, best_loss=loss, best_margin=margin,
            rises=tf.zeros([count], tf.int32), checked_loss=loss, halved=tf.fill([count], True),
        )  # fmt: skip

    def _evaluate(self, images, labels, targets):
        """Loss, margin and input gradient, averaged over `eot_samples` model calls."""

        def sample():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                logits = self.model_fn(images)
                loss = self._loss(images, logits, labels, targets)
            return loss, logits, tape.gradient(loss, images)

        totals = sample()
        samples = self.attack.eot_samples
        if samples > 1:
            *totals, _ = tf.while_loop(
                lambda *state: state[-1] < samples,
                lambda a, b, c, i: (*(x + y for x, y in zip((a, b, c), sample(), strict=True)), i + 1),
                (*totals, 1),
                parallel_iterations=1,
            )
        loss, logits, gradient = totals
        return loss / samples, losses.margin(logits / samples, labels), gradient

    def _loss(self, images, logits, labels, targets):
        if self.objective is not None:
            return self.objective(images, logits)
        if self.attack.loss == "ce":
            return losses.cross_entropy(logits, labels)
        if self.attack.loss == "dlr":
            return losses.dlr(logits, labels)
        return losses.dlr_targeted(logits, labels, targets)

    def _move(self, rows: _Rows, momentum: tf.Tensor) -> _Rows:
        project, x = self.threat.project, rows.current
        ahead = geometry.steepest(rows.gradient, self.threat.norm)
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
        limit = self.attack.rho * tf.cast(window, tf.float32)
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

    def _drop(self, found: tf.Tensor, margins: tf.Tensor, rows: _Rows):
        """Writes what fell in the last step to `found` and takes it out of the batch."""
        if self.objective is not None:
            return found, margins, rows
        fell = ~(rows.margin >= 0)

        def drop():
            gone, left = standing.rows_where(fell), standing.rows_where(~fell)
            row, current, margin = standing.take((rows.row, rows.current, rows.margin), gone)
            return (
                standing.scatter(found, row, current),
                standing.scatter(margins, row, margin),
                standing.take(rows, left),
            )

        return tf.cond(tf.reduce_any(fell), drop, lambda: (found, margins, rows))
