"""Square attack: black-box random search over square patches, Linf and L2."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import seeds as random
from mtard_tf.attacks import shrinking_batches, square_l2, windows
from mtard_tf.attacks.attack import Attack, Problem, require_at_least_one
from mtard_tf.threat import ThreatModel

# Queries (of a budget of 10,000) after which the patch is halved in area again.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_BUDGET = 10_000


@dataclasses.dataclass(frozen=True)
class Square(Attack):
    """Square attack (Andriushchenko et al., ECCV 2020, arXiv 1912.00049).

    Starts from vertical stripes of +-epsilon. Each query moves one square patch to an edge of the
    ball, one sign for each channel, and keeps it if the margin z_label - max other falls. Only
    model outputs are used. A candidate that equals the present image cannot be kept and is not
    sent to the model; it still counts as a query.

    Attributes:
      num_queries: model queries for each image and restart.
      initial_share: share of the image that the first patches cover.
      restarts: each on the images that are not broken yet.
      rescale_schedule: stretch the schedule of patch sizes, made for 10,000 queries, to
        `num_queries`. AutoAttack does not; do it for budgets far from 5,000.
      shared_window: one patch and one sign for the whole batch in each query, and the last row
        and column left out, as in the official AutoAttack: results then depend on the batch.

    Raises:
      ValueError: a number below 1 or a share outside (0, 1].
    """

    fixed_loss = "Square searches on the margin"
    kind = "black_box"
    stops_early = True

    num_queries: int = 5000
    initial_share: float = 0.8
    restarts: int = 1
    rescale_schedule: bool = False
    shared_window: bool = False

    def __post_init__(self) -> None:
        require_at_least_one(self, "num_queries", "restarts")
        if not 0 < self.initial_share <= 1:
            raise ValueError(
                f"Square.initial_share is {self.initial_share}; give a share in (0, 1]."
            )

    def run(self, problem: Problem) -> tf.Tensor:
        def single(_: tf.Tensor, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor) -> tuple:
            left = problem._replace(images=images, labels=labels, seeds=seeds)
            return self._search(left)

        logits = problem.model_fn(problem.images)
        return shrinking_batches.run_rounds(single, problem, logits, rounds=self.restarts)

    def side(self, query: tf.Tensor, height: int, width: int) -> tf.Tensor:
        """Side of the patch of query 0, 1, ..., in pixels, int32."""
        if self.rescale_schedule:
            query = tf.cast(
                tf.floor(tf.cast(query, tf.float32) * (_BUDGET / self.num_queries)), tf.int32
            )
        halvings = tf.reduce_sum(tf.cast(query > tf.constant(HALVINGS), tf.int32))
        area = self.initial_share * height * width
        sides = [max(round((area / 2**k) ** 0.5), 1) for k in range(len(HALVINGS) + 1)]
        return tf.gather(tf.constant(sides), halvings)

    def _search(self, problem: Problem) -> tuple[tf.Tensor, tf.Tensor]:
        """Best images of one restart, and their margins."""
        model_fn, images, labels, threat, seeds, _ = problem
        proposal = _Patches if threat.norm == "linf" else square_l2.Patches
        draw_seeds = random.fold(seeds, 0)
        if self.shared_window:
            draw_seeds = draw_seeds[:1]
        draws = random.uniform(draw_seeds, [self.num_queries, proposal.draws])
        patches = proposal(images, threat, inclusive=not self.shared_window)
        best = patches.start(random.fold(seeds, 1))
        margins = losses.margin(model_fn(best), labels)

        def query(i: tf.Tensor, best: tf.Tensor, margins: tf.Tensor) -> tuple:
            rows = shrinking_batches.rows_where(margins >= 0)
            own = tf.zeros_like(rows) if self.shared_window else rows
            draw, now = tf.gather(draws[:, i], own), tf.gather(best, rows)
            side = self.side(i, images.shape[1], images.shape[2])
            candidates, changed = patches.propose(now, rows, side, draw)
            rows, candidates = shrinking_batches.take(
                (rows, candidates), shrinking_batches.rows_where(changed)
            )
            reached = losses.margin(model_fn(candidates), tf.gather(labels, rows))
            kept = shrinking_batches.rows_where(~(reached >= tf.gather(margins, rows)))
            rows, candidates, reached = shrinking_batches.take((rows, candidates, reached), kept)
            return shrinking_batches.scatter((best, margins), rows, (candidates, reached))

        return tuple(
            shrinking_batches.loop(
                self.num_queries,
                query,
                (best, margins),
                going=lambda _, margins: tf.reduce_any(margins >= 0),
            )
        )


class _Patches:
    """Linf proposals: a square set to an edge of the ball, one sign by channel."""

    draws = 3

    def __init__(self, images: tf.Tensor, threat: ThreatModel, *, inclusive: bool) -> None:
        self.low = tf.maximum(images - threat.epsilon, threat.minimum)
        self.high = tf.minimum(images + threat.epsilon, threat.maximum)
        self.inclusive = inclusive

    def start(self, seeds: tf.Tensor) -> tf.Tensor:
        """Vertical stripes: one sign for each column and channel."""
        stripes = random.uniform(seeds, [1, *self.low.shape[2:]])
        return tf.where(stripes < 0.5, self.low, self.high)

    def propose(
        self, now: tf.Tensor, rows: tf.Tensor, side: tf.Tensor, draw: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Candidates, and which of them differ from `now`."""
        height, width, channels = now.shape[1:]
        top = windows.corner(draw[:, 0], height, side, self.inclusive)
        left = windows.corner(draw[:, 1], width, side, self.inclusive)
        patch = tf.logical_and(
            windows.inside(height, top, side)[:, :, None],
            windows.inside(width, left, side)[:, None],
        )
        up = windows.signs(draw[:, 2], channels)[:, None, None] > 0
        # Any point of the ball, moved by 2 epsilon and clipped, lands on the edge.
        edge = tf.where(up, tf.gather(self.high, rows), tf.gather(self.low, rows))
        candidates = tf.where(patch[..., None], edge, now)
        return candidates, tf.reduce_any(candidates != now, axis=[1, 2, 3])
