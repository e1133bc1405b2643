"""Proposals of the Square attack in an L2 ball: bumps that move mass between two windows."""

from __future__ import annotations

import tensorflow as tf

from mtard_tf.attacks import geometry, windows
from mtard_tf.attacks import seeds as random
from mtard_tf.threat import ThreatModel


class Patches:
    """L2 proposals (Andriushchenko et al., ECCV 2020, arXiv 1912.00049, section 4.2).

    A pair of bumps of opposite sign is added to one window; the budget freed by emptying a second
    window, and what the ball leaves unused, goes into the first.
    """

    draws = 6

    def __init__(self, images: tf.Tensor, threat: ThreatModel, *, inclusive: bool) -> None:
        self.images, self.threat, self.inclusive = images, threat, inclusive

    def start(self, seeds: tf.Tensor) -> tf.Tensor:
        """A five by five grid of bump pairs, one sign for each tile and channel."""
        height, width, channels = self.images.shape[1:]
        tile = max(min(height, width) // 5, 1)
        rows, columns = height // tile, width // tile
        draws = random.uniform(seeds, [rows, columns, channels + 1])
        flip = draws[..., :1] > 0.5
        tiles = tf.range(tile)
        bump = pair(tiles[:, None], tiles[None], tf.constant(tile))
        bump = bump / tf.norm(bump)
        bump = tf.where(flip[..., None], tf.transpose(bump), bump)  # [n, rows, columns, tile, tile]
        sign = tf.where(draws[..., 1:] < 0.5, -1.0, 1.0)
        grid = bump[..., None] * sign[..., None, None, :]
        grid = tf.transpose(grid, [0, 1, 3, 2, 4, 5])
        grid = tf.reshape(grid, [-1, rows * tile, columns * tile, channels])
        top, left = (height - rows * tile) // 2, (width - columns * tile) // 2
        padded = tf.image.pad_to_bounding_box(grid, top, left, height, width)
        return self._onto_sphere(padded, self.images)

    def _onto_sphere(self, deltas: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        scaled = self.threat.epsilon * geometry.unit(deltas, "l2")
        return self.threat.project(images + scaled, images)

    def propose(
        self, now: tf.Tensor, rows: tf.Tensor, side: tf.Tensor, draw: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Candidates, and which of them differ from `now`."""
        images = tf.gather(self.images, rows)
        height, width, channels = now.shape[1:]
        side = tf.maximum(side, 3)
        side = tf.minimum(side + tf.cast(side % 2 == 0, tf.int32), min(height, width))
        tops = [windows.corner(draw[:, k], height, side, self.inclusive) for k in (0, 2)]
        lefts = [windows.corner(draw[:, k], width, side, self.inclusive) for k in (1, 3)]
        target, source = (
            _window(height, width, top, left, side) for top, left in zip(tops, lefts, strict=True)
        )
        delta = now - images
        inside = tf.where(target, delta, 0.0)
        sums = {"axis": [1, 2], "keepdims": True}
        used = tf.reduce_sum(tf.square(inside), **sums)
        freed = tf.reduce_sum(tf.square(tf.where(target | source, delta, 0.0)), [1, 2, 3])
        spare = tf.maximum(self.threat.epsilon**2 - tf.square(geometry.size(delta, "l2")), 0.0)
        budget = geometry.spread(tf.sqrt(spare / channels + freed), now)
        bump = self._bump(draw, tops[0], lefts[0], side, target)
        new = bump + tf.math.divide_no_nan(inside, tf.sqrt(used))
        new = tf.math.divide_no_nan(new, tf.sqrt(tf.reduce_sum(tf.square(new), **sums))) * budget
        moved = tf.where(target, new, tf.where(source, 0.0, delta))
        candidates = self._onto_sphere(moved, images)
        return candidates, tf.reduce_any(candidates != now, axis=[1, 2, 3])

    def _bump(
        self, draw: tf.Tensor, top: tf.Tensor, left: tf.Tensor, side: tf.Tensor, target: tf.Tensor
    ) -> tf.Tensor:
        """A unit bump pair in the window, standing or lying, one sign by channel."""
        height, width = target.shape[1:3]
        down = tf.range(height)[None, :, None] - top[:, None, None]
        across = tf.range(width)[None, None] - left[:, None, None]
        flip = (draw[:, 5] > 0.5)[:, None, None]
        bump = pair(tf.where(flip, across, down), tf.where(flip, down, across), side)
        bump = tf.where(target, bump[..., None], 0.0)
        bump = geometry.unit(bump, "l2")
        return bump * windows.signs(draw[:, 4], self.images.shape[3])[:, None, None]


def pair(first: tf.Tensor, second: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Two pyramids of opposite sign, each of unit norm, stacked along `first` in `side` pixels.

    A pyramid at Chebyshev distance d from its centre has height sum_{c >= d} 1 / (c + 1)^2.
    """
    half = side // 2
    upper = _pyramid(first, second, half, side)
    lower = _pyramid(first - half, second, side - half, side)
    return tf.where(first < half, upper, -lower)


def _pyramid(first: tf.Tensor, second: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    middle_row, middle_column = height // 2, width // 2
    levels = tf.maximum(middle_row, middle_column) + 1

    def heights(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        distance = tf.maximum(tf.abs(rows - middle_row), tf.abs(columns - middle_column))
        return tf.maximum(total - tf.gather(below, tf.minimum(distance, levels)), 0.0)

    steps = 1.0 / tf.square(tf.cast(tf.range(levels) + 1, tf.float32))
    below = tf.concat([[0.0], tf.cumsum(steps)], axis=0)
    total = below[-1]
    grid = heights(tf.range(height)[:, None], tf.range(width)[None])
    return heights(first, second) / tf.maximum(tf.norm(grid), 1e-12)


def _window(height: int, width: int, top: tf.Tensor, left: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    rows = windows.inside(height, top, side)[:, :, None, None]
    return tf.logical_and(rows, windows.inside(width, left, side)[:, None, :, None])
