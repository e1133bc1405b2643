"""Square: the schedule of its patches, its start, and what it spends."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks import square, square_l2
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.square import Square
from mtard_tf.losses import margin
from mtard_tf.threat import ThreatModel


def _linear(size, classes=4, channels=1):
    kernel = tf.random.stateless_normal([size * size * channels, classes], seed=[4, 1])
    return lambda images: tf.reshape(images, [-1, size * size * channels]) @ kernel


def test_sides_follow_the_official_schedule() -> None:
    # sqrt(0.8 / divisor * 28 * 28) for the divisors 1, 2, 4, ... 512, halved after these queries.
    attack = Square()
    last = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000, 10000]
    expected = [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]
    sides = [attack.side(tf.constant(q), 28, 28) for q in (0, *last)]
    np.testing.assert_array_equal(sides, [25, *expected])
    after = [attack.side(tf.constant(q + 1), 28, 28) for q in last[:-1]]
    np.testing.assert_array_equal(after, expected[1:])
    # Rescaled, it spends all sizes on a small budget.
    attack = Square(num_queries=1000, rescale_schedule=True)
    sides = [attack.side(tf.constant(q), 28, 28) for q in (1, 2, 5, 400, 999)]
    np.testing.assert_array_equal(sides, [25, 18, 18, 3, 1])


def test_starts_with_vertical_stripes_at_the_edge_of_the_ball() -> None:
    images = tf.fill([3, 6, 6, 3], 0.5)
    patches = square._Patches(images, ThreatModel("linf", 0.1), inclusive=True)
    delta = (patches.start(image_seeds(0, tf.range(3))) - images).numpy()
    np.testing.assert_allclose(np.abs(delta), 0.1, rtol=1e-5)
    np.testing.assert_array_equal(delta, np.repeat(delta[:, :1], 6, axis=1))
    assert len({row.tobytes() for row in delta}) == 3


def test_a_proposal_is_one_square_with_one_sign_by_channel() -> None:
    images = tf.fill([64, 8, 8, 3], 0.5)
    patches = square._Patches(images, ThreatModel("linf", 0.1), inclusive=True)
    draw = tf.random.stateless_uniform([64, 3], seed=[1, 1])
    candidates, changed = patches.propose(images, tf.range(64), tf.constant(3), draw)
    delta = (candidates - images).numpy()
    corners = set()
    assert bool(tf.reduce_all(changed))
    for one in delta:
        places = np.argwhere(one[..., 0])
        top, left = places.min(0)
        assert len(places) == 9
        np.testing.assert_array_equal(places.max(0) - places.min(0), [2, 2])
        for channel in range(3):
            values = one[top : top + 3, left : left + 3, channel]
            np.testing.assert_array_equal(values, values[0, 0])
            assert abs(values[0, 0]) == pytest.approx(0.1)
        corners.add((top, left))
    # Every place can be drawn, the last row and column too (the official code leaves them out).
    np.testing.assert_array_equal(np.max(list(corners), axis=0), [5, 5])
    signs = {tuple(np.sign(one.sum((0, 1)))) for one in delta}
    assert len(signs) == 8


def test_a_candidate_equal_to_the_image_costs_no_model_call() -> None:
    images = tf.fill([1, 8, 8, 1], 0.5)
    patches = square._Patches(images, ThreatModel("linf", 0.1), inclusive=True)
    up = tf.constant([[0.3, 0.3, 0.01]])
    candidates, changed = patches.propose(patches.high, tf.range(1), tf.constant(3), up)
    down = tf.constant([[0.3, 0.3, 0.99]])
    _, changed_down = patches.propose(patches.high, tf.range(1), tf.constant(3), down)
    assert sorted([bool(changed[0]), bool(changed_down[0])]) == [False, True]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_margins_never_rise_and_images_do_not_see_each_other(norm) -> None:
    model, threat = _linear(10), ThreatModel(norm, 0.05 if norm == "linf" else 0.4)
    images = tf.random.stateless_uniform([8, 10, 10, 1], seed=[1, 3])
    labels = tf.argmax(model(images), axis=1, output_type=tf.int32)
    seeds = image_seeds(5, tf.range(8))

    def run(queries, rows=slice(None), **settings):
        attack = tf.function(Square(queries, **settings), autograph=False)
        return attack(model, images[rows], labels[rows], threat=threat, seeds=seeds[rows])

    short, long = (margin(model(run(q)), labels).numpy() for q in (5, 60))
    np.testing.assert_array_less(-1e-7, margin(model(images), labels))
    np.testing.assert_array_less(long, np.where(short < 0, np.inf, np.nextafter(short, np.inf)))
    assert long.mean() < short.mean()
    np.testing.assert_allclose(run(30)[3:4], run(30, slice(3, 4)), atol=1e-6)
    # The official draw is shared: an image alone gets the windows of its own seed instead.
    shared = run(30, shared_window=True)
    assert not np.allclose(shared[3:4], run(30, slice(3, 4), shared_window=True))


def test_only_what_stands_is_sent_to_the_model() -> None:
    sent = []
    model = _linear(6)

    def model_fn(images):
        sent.append(int(images.shape[0]))
        return model(images)

    images = tf.random.stateless_uniform([32, 6, 6, 1], seed=[1, 3])
    labels = tf.argmax(model(images), axis=1, output_type=tf.int32)
    run = {"threat": ThreatModel("linf", 0.1), "seeds": image_seeds(0, tf.range(32))}
    Square(40)(model_fn, images, labels, **run)
    assert sent[0] == 32 and max(sent[2:]) < 32 and sent[-1] < sent[2]


def test_l2_bumps_are_pyramids_of_unit_norm() -> None:
    # Side 5: a 2 x 5 pyramid above a 3 x 5 one. Heights at distance d of the 3 x 5 pyramid, whose
    # centre is (1, 2): sum_{c >= d}^{2} 1 / (c + 1)^2 = 49/36, 13/36, 4/36.
    place = tf.range(5)
    bump = square_l2.pair(place[:, None], place[None], tf.constant(5)).numpy()
    raw = np.array([[4, 13, 13, 13, 4], [4, 13, 49, 13, 4], [4, 13, 13, 13, 4]]) / 36
    np.testing.assert_allclose(bump[2:], -raw / np.linalg.norm(raw), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(bump[:2]), 1.0, rtol=1e-5)


def test_l2_start_fills_the_ball() -> None:
    images = tf.fill([2, 12, 11, 3], 0.5)
    threat = ThreatModel("l2", 0.5)
    start = square_l2.Patches(images, threat, inclusive=True).start(image_seeds(0, tf.range(2)))
    np.testing.assert_allclose(tf.norm(tf.reshape(start - images, [2, -1]), axis=1), 0.5, rtol=1e-5)


def test_settings_and_objectives_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="Square.num_queries is 0; give at least 1"):
        Square(num_queries=0)
    with pytest.raises(ValueError, match=r"Square.initial_share is 1.5; give a share in \(0, 1\]"):
        Square(initial_share=1.5)
    with pytest.raises(ValueError, match="Square searches on the margin; give no objective"):
        Square()(None, None, None, threat=ThreatModel(), seeds=None, objective=lambda x, z: z)
