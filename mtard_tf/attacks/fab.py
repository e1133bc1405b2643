"""Fast adaptive boundary attack: small perturbations by projection onto linearised boundaries."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, gradients, jacobian, shrinking_batches
from mtard_tf.attacks.attack import Attack, Problem, require_at_least_one


@dataclasses.dataclass(frozen=True)
class FAB(Attack):
    """Fast adaptive boundary attack (Croce and Hein, ICML 2020, arXiv 1907.02044).

        d, d0 = steps from x_k and from the clean x to the boundary of the linearised model
        alpha = min(|d| / (|d| + |d0|), 0.1)
        x_(k+1) = clip((1 - alpha) (x_k + 1.05 d) + alpha (x + 1.05 d0))

    A point that the model gets wrong is noted with its distance and pulled back towards the clean
    image: x + 0.9 (x_(k+1) - x). Minimises the distance, whatever epsilon is; an image leaves the
    batch once it is broken within epsilon, and comes back unchanged if it never is.

    Attributes:
      targeted: linearise towards one wrong class per round, the likeliest first (`fab_t`), instead
        of towards the nearest of all classes (`fab`), which takes a gradient for each class.
      num_steps: steps of each round.
      restarts: rounds (for each target class); all but the first start at random.
      num_targets: target classes when `targeted`, or all wrong ones if there are fewer.
      alpha_max: greatest pull towards the clean image.
      eta: overshoot behind the boundary.
      beta: share of the way from the clean image to a found point at which the search continues.

    Raises:
      ValueError: a number below 1.
    """

    fixed_loss = "FAB follows the decision boundary"
    stops_early = True

    targeted: bool = False
    num_steps: int = 100
    restarts: int = 1
    num_targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        require_at_least_one(self, "num_steps", "restarts", "num_targets")

    def run(self, problem: Problem) -> tf.Tensor:
        logits = problem.model_fn(problem.images)
        likely, targets = shrinking_batches.wrong_classes(logits, problem.labels), 1
        if self.targeted:
            targets = min(self.num_targets, logits.shape[-1] - 1)
        run = _Run(self, problem)

        def single(
            i: tf.Tensor, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, ranking: tf.Tensor
        ) -> tuple:
            return run(images, labels, ranking[:, i % targets], seeds, i >= targets)

        return shrinking_batches.run_rounds(
            single, problem, logits, rounds=self.restarts * targets, extra=likely
        )


class FABTargeted(FAB):
    """FAB target by target: `fab_t`."""

    def __init__(self, num_steps: int = 100, restarts: int = 1, num_targets: int = 9) -> None:
        super().__init__(True, num_steps, restarts, num_targets)


class _Rows(NamedTuple):
    """What one run knows of each image that is still in its batch."""

    row: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    targets: tf.Tensor
    current: tf.Tensor
    best: tf.Tensor
    distance: tf.Tensor


class _Run:
    """One round of FAB on one (compacted) batch."""

    def __init__(self, attack: FAB, problem: Problem) -> None:
        self.attack, self.model_fn, self.threat = attack, problem.model_fn, problem.threat

    def __call__(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        targets: tf.Tensor,
        seeds: tf.Tensor,
        random_start: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The images, or what broke them within epsilon; margin -1 of broken images, 0 else."""
        count = tf.shape(labels)[0]
        rows = _Rows(
            row=tf.range(count), clean=images, labels=labels, targets=targets,
            current=tf.cond(random_start, lambda: self._noisy(images, seeds), lambda: images),
            best=images, distance=tf.fill([count], float("inf")),
        )  # fmt: skip

        def step(_: tf.Tensor, found: tf.Tensor, margins: tf.Tensor, rows: _Rows) -> tuple:
            return self._drop(found, margins, self._pull_back(self._approach(rows)))

        found, margins, _ = shrinking_batches.loop(
            self.attack.num_steps,
            step,
            (images, tf.zeros([count]), rows),
            going=lambda *state: tf.size(state[-1].row) > 0,
        )
        return found, margins

    def _noisy(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        offset = geometry.boundary_noise(seeds, images.shape[1:], self.threat.norm)
        start = images + 0.5 * self.threat.epsilon * offset
        return tf.clip_by_value(start, self.threat.minimum, self.threat.maximum)

    def _approach(self, rows: _Rows) -> _Rows:
        """One step towards the linearised boundary, biased towards the clean image."""
        attack, threat, x = self.attack, self.threat, rows.current
        gap, normal = self._boundary(rows)
        offset = geometry.per_image_sum(normal * x) - gap
        both = tf.concat([x, rows.clean], axis=0)
        steps = geometry.to_hyperplane(
            both, tf.concat([normal, normal], axis=0), tf.concat([offset, offset], axis=0), threat
        )
        here, there = tf.split(steps, 2)
        sizes = [tf.maximum(geometry.size(d, threat.norm), 1e-8) for d in (here, there)]
        alpha = tf.minimum(sizes[0] / (sizes[0] + sizes[1]), attack.alpha_max)
        alpha = geometry.spread(alpha, x)
        moved = (1 - alpha) * (x + attack.eta * here) + alpha * (rows.clean + attack.eta * there)
        return rows._replace(current=tf.clip_by_value(moved, threat.minimum, threat.maximum))

    def _boundary(self, rows: _Rows) -> tuple[tf.Tensor, tf.Tensor]:
        """z_other - z_label and its gradient, for the target or the nearest other class."""
        if self.attack.targeted:

            def gap(_: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
                target, own = (
                    tf.gather(logits, ids, batch_dims=1) for ids in (rows.targets, rows.labels)
                )
                return target - own

            slope = gradients.slope(self.model_fn, rows.current, gap)
            return slope.loss, slope.unscaled()
        return jacobian.nearest_boundary(
            self.model_fn, rows.current, rows.labels, norm=self.threat.norm
        )

    def _pull_back(self, rows: _Rows) -> _Rows:
        """Notes the points that the model gets wrong and takes them closer to the clean image."""
        x = rows.current
        wrong = ~(losses.margin(self.model_fn(x), rows.labels) >= 0)
        distance = geometry.size(x - rows.clean, self.threat.norm)
        better = tf.logical_and(wrong, distance < rows.distance)
        closer = rows.clean + self.attack.beta * (x - rows.clean)
        return rows._replace(
            current=tf.where(geometry.spread(wrong, x), closer, x),
            best=tf.where(geometry.spread(better, x), x, rows.best),
            distance=tf.where(better, distance, rows.distance),
        )

    def _drop(
        self, found: tf.Tensor, margins: tf.Tensor, rows: _Rows
    ) -> tuple[tf.Tensor, tf.Tensor, _Rows]:
        """Keeps what is broken within epsilon in `found` and takes it out of the batch."""
        broken = rows.distance <= self.threat.epsilon
        values = rows.best, -tf.ones_like(rows.distance)
        return shrinking_batches.drop(broken, (found, margins), values, rows)
