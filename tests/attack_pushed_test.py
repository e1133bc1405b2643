"""Whole levels: never outside of the ball, counted in integers; the push: never a higher margin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mtard_tf import losses
from mtard_tf.attacks import levels
from mtard_tf.attacks.apgd import APGDCrossEntropy
from mtard_tf.attacks.attack import Problem
from mtard_tf.attacks.autoattack import AutoAttack
from mtard_tf.attacks.carlini_wagner import CWL2
from mtard_tf.attacks.deepfool import DeepFool
from mtard_tf.attacks.fab import FABTargeted
from mtard_tf.attacks.jsma import JSMA
from mtard_tf.attacks.margin import MIM, CWInf
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.pushed import Pushed, beyond, push
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.spsa import SPSA
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.tempered import AtTemperature
from mtard_tf.attacks.transfer import Transfer
from mtard_tf.auditing.suite import Suite
from mtard_tf.testing import AttackContract
from mtard_tf.testing.attack_contract import SHAPE, net
from mtard_tf.threat import ThreatModel

BALLS = [("linf", 8 / 255), ("linf", 0.1), ("l2", 0.5), ("l2", 128 / 255), ("l2", 1.5)]


class TestPushed(AttackContract):
    attacks = {"pushed": Pushed(APGDCrossEntropy(4), 3)}


def test_the_levels_of_a_radius() -> None:
    k = np.arange(256)
    for norm, expected in (("linf", k), ("l2", k**2)):
        found = [levels.whole(ThreatModel(norm, float(e))) for e in k / 255]
        np.testing.assert_array_equal(found, expected)
    given = ["0.1", 0.0313725, "8/255", 25.999 / 255, 0]
    found = [levels.whole(ThreatModel("linf", e)) for e in given]
    np.testing.assert_array_equal(found, [25, 8, 8, 25, 0])
    assert levels.whole(ThreatModel("l2", 0.5)) == 16256  # 127.5^2 = 16256.25
    with pytest.raises(ValueError, match="need an epsilon that is a number; it is a tensor"):
        levels.whole(ThreatModel("linf", tf.constant(0.1)))


def _nearest(change: np.ndarray, budget: int) -> np.ndarray:
    """One image's changes as whole numbers within an L2 budget: `levels.inside`, one by one."""
    change = change.astype(np.float64).ravel()
    size = np.sqrt((change**2).sum())
    change = change * min(1.0, math.sqrt(budget) / size) if size else change
    amount = np.floor(np.abs(change))
    left = budget - (amount**2).sum()
    part = np.abs(change) - amount
    for place in np.argsort(-part, kind="stable"):
        left -= 2 * amount[place] + 1
        if left < 0 or part[place] < 0.5:
            break
        amount[place] += 1
    return np.sign(change) * amount


@pytest.mark.parametrize(("norm", "epsilon"), BALLS)
@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), reach=st.sampled_from([0.3, 1.0, 1.0001, 3.0]))
def test_no_rounded_image_leaves_the_ball(norm, epsilon, seed, reach) -> None:
    random = np.random.RandomState(seed)
    clean = random.choice([0, 1, 127, 254, 255, random.randint(256)], [6, *SHAPE]).astype(np.uint8)
    threat = ThreatModel(norm, epsilon)
    images = (clean / np.float32(255)).astype(np.float32)
    noise = random.standard_t(2, clean.shape).astype(np.float32)
    size = np.abs(noise).max() if norm == "linf" else 1.0
    wide = dict(axis=(1, 2, 3), keepdims=True)
    if norm == "l2":
        size = np.sqrt((noise**2).sum(**wide))
    perturbed = np.clip(images + reach * epsilon * noise / size, 0, 1).astype(np.float32)
    found = levels.inside(tf.constant(perturbed), tf.constant(images), threat).numpy()
    np.testing.assert_array_equal(found, np.clip(np.rint(found), 0, 255))
    change = found.astype(np.int64) - clean.astype(np.int64)
    if norm == "linf":
        np.testing.assert_array_less(np.abs(change), math.floor(255 * epsilon + 1e-9) + 1)
        nearest = np.rint(np.float32(255) * perturbed) - clean
        limit = math.floor(255 * epsilon + 1e-9)
        np.testing.assert_array_equal(change, np.clip(nearest, -limit, limit))
    else:
        np.testing.assert_array_less((change**2).sum((1, 2, 3)), (255 * epsilon) ** 2 + 1e-6)
        exact = np.float32(255) * perturbed - clean
        for one, whole in zip(exact, change, strict=True):
            np.testing.assert_array_equal(_nearest(one, levels.whole(threat)), whole.ravel())
    assert not levels.outside(found.astype(np.uint8), clean, threat).any()


@pytest.mark.parametrize(("norm", "epsilon"), BALLS)
def test_an_image_of_levels_stays_and_one_level_more_is_seen(norm, epsilon) -> None:
    threat, clean = ThreatModel(norm, epsilon), np.full((2, *SHAPE), 100, np.uint8)
    edge = clean.copy()
    reach = levels.whole(threat) if norm == "linf" else math.isqrt(levels.whole(threat))
    edge[0, 0, 0] += min(reach, 155)
    images, given = (tf.constant(x / np.float32(255)) for x in (clean, edge))
    np.testing.assert_array_equal(levels.inside(given, images, threat), edge)
    assert not levels.outside(edge, clean, threat).any()
    if reach < 155:
        edge[0, 0, 0] += 1
        np.testing.assert_array_equal(levels.outside(edge, clean, threat), [True, False])


def test_plain_rounding_leaves_the_ball_at_a_tenth() -> None:
    clean = np.array([[[[100], [101]]]], np.uint8)  # 125.5 and 126.5 go to the even neighbour
    plain = np.rint(clean + 25.5).astype(np.uint8)
    np.testing.assert_array_equal(levels.outside(plain, clean, ThreatModel("linf", 0.1)), [True])
    assert plain[0, 0, 0, 0] - 100 == 26


def _problem(norm="linf", epsilon=0.1, count=12):
    clean = np.random.RandomState(3).randint(0, 256, [count, *SHAPE]).astype(np.uint8)
    images = tf.constant(clean / np.float32(255))
    labels = tf.argmax(net(images), axis=1, output_type=tf.int32)
    threat = ThreatModel(norm, epsilon)
    return Problem(net, images, labels, threat, image_seeds(0, tf.range(count))), clean


@pytest.mark.parametrize("on_levels", [False, True])
def test_the_push_reaches_the_corner_of_a_linear_net(on_levels) -> None:
    # Two classes, one hidden line: the lowest margin in the ball is in the corner against it.
    kernel = np.where(np.arange(25) % 3 == 0, 1.0, -0.5).astype(np.float32)

    def line(x):
        z = tf.linalg.matvec(tf.reshape(x, [-1, 25]), kernel)
        return tf.stack([z, -z], axis=1)

    clean = np.random.RandomState(1).randint(0, 256, [4, *SHAPE]).astype(np.uint8)
    images = tf.constant(clean / np.float32(255))
    problem = Problem(line, images, tf.zeros(4, tf.int32), ThreatModel("linf", 0.1), None)
    found = push(problem, images, on_levels=on_levels)
    reach = 25 if on_levels else 25.5
    corner = np.clip(clean - reach * np.sign(kernel).reshape(SHAPE), 0, 255)
    np.testing.assert_allclose(255 * found, corner, atol=1e-4)


@pytest.mark.parametrize(("norm", "epsilon"), BALLS[1:3])
@pytest.mark.parametrize("on_levels", [False, True])
def test_a_margin_never_rises_and_the_ball_holds(norm, epsilon, on_levels) -> None:
    problem, clean = _problem(norm, epsilon)
    found = problem.solved_by(PGD(2))
    start = push(problem, found, 0, on_levels=on_levels)
    before, after = (
        losses.margin(net(x), problem.labels).numpy()
        for x in (start, push(problem, found, on_levels=on_levels))
    )
    np.testing.assert_array_equal(np.maximum(before, after), before)
    assert (after < before).sum() >= 10
    pushed = push(problem, found, on_levels=on_levels)
    np.testing.assert_array_less(problem.threat.violation(pushed, problem.images), 1e-6)
    if on_levels:
        whole = np.rint(255 * pushed.numpy())
        np.testing.assert_allclose(255 * pushed, whole, atol=1e-4)
        assert not levels.outside(whole.astype(np.uint8), clean, problem.threat).any()


def test_without_steps_it_is_the_attack_itself() -> None:
    problem, _ = _problem()
    for attack in (PGD(2), Transfer(lambda x: -net(x))):
        plain, off = problem.solved_by(attack), problem.solved_by(Pushed(attack, 0))
        np.testing.assert_array_equal(plain, off)
    with pytest.raises(ValueError, match="Pushed.num_steps is -1; give at least 0."):
        Pushed(PGD(2), -1)


def test_what_stopped_at_the_boundary_comes_back_and_is_pushed_over_it() -> None:
    problem, clean = _problem(epsilon=15 / 255, count=100)
    found = problem.solved_by(FABTargeted(10))
    broken = (losses.margin(net(found), problem.labels) < 0).numpy()

    def standing(x):
        return (losses.margin(net(x), problem.labels) >= 0).numpy() & broken

    assert 3 <= standing(push(problem, found, 0, on_levels=True)).sum() <= 10 < broken.sum()
    pushed = push(problem, found, on_levels=True)
    assert standing(pushed).sum() == 0
    whole = np.rint(255 * pushed.numpy()).astype(np.uint8)
    assert not levels.outside(whole, clean, problem.threat).any()


def test_a_pushed_attack_on_another_net_goes_over_its_boundary() -> None:
    problem, _ = _problem(epsilon=0.06, count=20)
    plain = problem.solved_by(Transfer(net, FABTargeted(10)))
    pushed = problem.solved_by(Transfer(net, Pushed(FABTargeted(10))))
    before, after = (losses.margin(net(x), problem.labels).numpy() for x in (plain, pushed))
    np.testing.assert_array_equal(np.maximum(before, after), before)
    assert np.median(after[before < 0]) < 5 * np.median(before[before < 0]) < 0


def test_only_attacks_that_stop_early_are_pushed_for_a_transfer() -> None:
    early = [APGDCrossEntropy(), FABTargeted(), Square(), AutoAttack(), CWL2(), DeepFool(), JSMA()]
    assert [beyond(a) for a in early] == [Pushed(a) for a in early]
    for attack in (PGD(), FGSM(), CWInf(), MIM(), SPSA(), AtTemperature()):
        assert beyond(attack) is attack
        assert beyond(attack, on_levels=True) == Pushed(attack, 0, True)
    assert beyond(AtTemperature(early[0])) == Pushed(AtTemperature(early[0]))
    suite = Suite({"pgd": PGD()}, {"square": Square(5), "cw": CWInf()})
    crafted = suite.all_attacks(net)
    assert [crafted["square"], crafted["cw"]] == [
        Transfer(net, Pushed(Square(5))), Transfer(net, CWInf())
    ]  # fmt: skip
