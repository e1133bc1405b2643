"""What holds for every attack: the contract, more of ball and box, seeds, graph size."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mtard_tf.attacks.apgd import APGDDLR, APGDCrossEntropy, APGDTargeted
from mtard_tf.attacks.autoattack import AutoAttack
from mtard_tf.attacks.carlini_wagner import CWL2
from mtard_tf.attacks.deepfool import DeepFool
from mtard_tf.attacks.fab import FAB, FABTargeted
from mtard_tf.attacks.jsma import JSMA
from mtard_tf.attacks.margin import MIM, CWInf
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.spsa import SPSA
from mtard_tf.attacks.square import Square
from mtard_tf.attacks.transfer import Transfer
from mtard_tf.testing import AttackContract
from mtard_tf.testing.attack_contract import CLASSES, SHAPE, net
from mtard_tf.threat import ThreatModel

ATTACKS = {
    "fgsm": FGSM(),
    "pgd": PGD(4),
    "mim": MIM(4),
    "cw_inf": CWInf(4),
    "apgd_ce": APGDCrossEntropy(6, restarts=2),
    "apgd_dlr": APGDDLR(6),
    "apgd_t": APGDTargeted(6),
    "fab": FAB(num_steps=5, restarts=2),
    "fab_t": FABTargeted(5),
    "square": Square(15),
    "autoattack": AutoAttack(num_steps=3, num_queries=5),
    "cw_l2": CWL2(num_steps=10, search_steps=3, initial_constant=1.0),
    "jsma": JSMA(),
    "deepfool": DeepFool(5),
    "spsa": SPSA(num_steps=3, num_samples=8, chunk=8),
    "transfer": Transfer(lambda images: -net(images)),
}


class TestBuiltIns(AttackContract):
    attacks = ATTACKS


compiled = TestBuiltIns.compiled
EVERY = pytest.mark.parametrize("name", list(ATTACKS))
NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
IMAGES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4)).map(lambda n: (*n, *SHAPE)),
    elements=st.floats(0, 1, width=32),
    fill=st.sampled_from([np.float32(0), np.float32(1)]),
)


@EVERY
@NORMS
@settings(max_examples=5)
@given(
    images=IMAGES, epsilon=st.floats(0, 2, width=32), seed=st.integers(0, 9), wrong=st.booleans()
)
def test_never_leaves_ball_or_box(name, norm, images, epsilon, seed, wrong) -> None:
    labels = (tf.argmax(net(images), axis=1, output_type=tf.int32) + int(wrong)) % CLASSES
    seeds = image_seeds(seed, tf.range(len(images)))
    epsilon = epsilon if norm == "l2" else epsilon / 2  # linf: at most 1
    x = compiled(name, norm)(images, labels, seeds, epsilon)
    assert x.shape == images.shape and x.dtype == tf.float32
    np.testing.assert_allclose(ThreatModel(norm, epsilon).violation(x, images), 0, atol=1e-6)


@pytest.mark.parametrize("name", ["pgd", "apgd_ce", "apgd_t", "square", "spsa"])
def test_other_seeds_other_images(name) -> None:
    images, labels = TestBuiltIns.problem()
    run = compiled(name, "linf")
    one, two = (run(images, labels, image_seeds(s, tf.range(5)), 0.03) for s in (0, 1))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    "make",
    [
        PGD,
        MIM,
        CWInf,
        APGDCrossEntropy,
        APGDTargeted,
        lambda n: FABTargeted(n),
        lambda n: FAB(num_steps=n),
        lambda n: Square(num_queries=n),
        lambda n: CWL2(num_steps=n),
        lambda n: DeepFool(n),
        lambda n: JSMA(max_fraction=n / 100),
        lambda n: SPSA(num_steps=n),
    ],
)
def test_graph_size_does_not_depend_on_the_number_of_steps(make) -> None:
    def size(steps):
        attack, threat = make(steps), ThreatModel("linf", 0.1)
        graph = tf.function(
            lambda x, y, s: attack(net, x, y, threat=threat, seeds=s), autograph=False
        ).get_concrete_function(
            tf.TensorSpec([None, *SHAPE]), tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, 2], tf.int32),
        ).graph  # fmt: skip
        definition = graph.as_graph_def()
        return len(definition.node) + sum(len(f.node_def) for f in definition.library.function)

    assert size(10) == size(100)


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_worst_case_over_a_nested_sweep_never_rises(seed) -> None:
    # What breaks an image at a smaller epsilon breaks it at a greater one: the worst case over the
    # attacks, carried along the sweep, can only fall.
    images = tf.random.stateless_uniform([16, *SHAPE], seed=[seed, 7])
    labels = tf.argmax(net(images), axis=1, output_type=tf.int32)
    seeds, standing, before = image_seeds(seed, tf.range(16)), np.full(16, True), 17
    for epsilon in (0.0, 0.01, 0.03, 0.1):
        for name in ("pgd", "apgd_t", "fab_t", "square"):
            x = compiled(name, "linf")(images, labels, seeds, epsilon)
            np.testing.assert_allclose(ThreatModel("linf", 0.1).violation(x, images), 0, atol=1e-6)
            standing &= np.argmax(net(x), axis=1) == labels.numpy()
        assert standing.sum() <= before
        before = standing.sum()
    assert before < 16
