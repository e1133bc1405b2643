"""The 8-bit row: counts by hand, what comes back is pushed on, and the figures beside it stay."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mtard_tf.attacks import levels
from mtard_tf.attacks.pgd import FGSM
from mtard_tf.auditing import eight_bit, evidence, requirements
from mtard_tf.auditing.audit import Audit
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.auditing.gate import judge
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.reporting import notation, plots
from mtard_tf.threat import ThreatModel

TENTH = ThreatModel("linf", 0.1)


def _net() -> keras.Model:
    """Logits p and q of the two pixels p and q."""
    net = keras.Sequential(
        [keras.Input((1, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, use_bias=False)],
        name="pixels",
    )
    net.set_weights([np.eye(2, dtype=np.float32)])
    return net


def _batch(pixels):
    pixels = np.array(pixels, np.uint8).reshape(-1, 1, 2, 1)
    images = tf.constant(pixels / np.float32(255))
    return images, tf.zeros(len(pixels), tf.int32), tf.range(len(pixels), dtype=tf.int64), pixels


class Crossing:
    """Goes just over the boundary p = q and stops there, as APGD, FAB and Square do."""

    stops_early = True

    def __repr__(self) -> str:
        return "Crossing()"

    def __call__(self, model_fn, images, labels, *, threat, seeds, objective=None):
        gap = images[:, :, :1] - images[:, :, 1:]
        half = tf.minimum(gap / 2 + 0.0002, threat.epsilon)
        return images + tf.concat([-half, half], axis=2)


# Gaps p - q of 11, 50, 51 and 80 levels. Within 25.5 levels a pixel the first two fall; 51 is only
# brought to a tie, which goes to class 0. Within 25 the 50 is, too: truly robust there. Rounded,
# the 11 are 5.55 a pixel, so 6, over the boundary.
GAPS = [(111, 100), (150, 100), (151, 100), (180, 100), (100, 120)]


def test_counts_by_hand() -> None:
    images, labels, ids, _ = _batch(GAPS)
    evaluator = Evaluator(_net(), TENTH)
    clean = evaluator.predictions(images)
    both = eight_bit.outcomes(evaluator, Crossing(), images, labels, ids, clean)
    np.testing.assert_array_equal(both[:, 0], [False, False, True, True, False])
    np.testing.assert_array_equal(both[:, 1], [False, True, True, True, False])
    unattacked = Evaluator(_net(), ThreatModel("linf", 0.0))
    both = eight_bit.outcomes(unattacked, Crossing(), images, labels, ids, clean)
    np.testing.assert_array_equal(both, [[True] * 2] * 4 + [[False] * 2])


def test_what_comes_back_is_pushed_over_the_boundary_inside_the_ball() -> None:
    # 10 levels apart, crossed by 0.05 a pixel: rounded, both are 105 and tie, so class 0 stands.
    images, labels, ids, clean = _batch([(110, 100), (130, 100)])
    evaluator, broken = Evaluator(_net(), TENTH), np.array([True, True])
    found = Crossing()(None, images, labels, threat=TENTH, seeds=None)
    np.testing.assert_array_equal(evaluator.predictions(found), [1, 1])
    rounded = levels.inside(found, images, TENTH)
    np.testing.assert_array_equal(evaluator.predictions(rounded / 255.0), [0, 0])
    given = evaluator, found, images, labels, ids
    shown, right = eight_bit.on_levels(*given, broken)
    assert not right.any() and shown.dtype == np.uint8
    assert not levels.outside(shown, clean, TENTH).any()
    # What the attack did not break is not attacked further by the row.
    shown, right = eight_bit.on_levels(*given, np.array([True, False]))
    np.testing.assert_array_equal(right, [False, True])
    np.testing.assert_array_equal(shown[1], rounded[1])


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), radius=st.sampled_from([("linf", 8 / 255), ("linf", 0.1)]))
def test_no_image_of_the_row_is_outside_the_ball(seed, radius) -> None:
    threat = ThreatModel(*radius)
    random = np.random.RandomState(seed)
    images, labels, ids, clean = _batch(random.randint(0, 256, (16, 2)))
    evaluator = EVALUATORS.setdefault(radius, Evaluator(_net(), threat))
    found = threat.project(images + random.uniform(-0.2, 0.2, images.shape), images)
    broken = evaluator.predictions(found) == 1
    shown, right = eight_bit.on_levels(evaluator, found, images, labels, ids, broken)
    change = np.abs(shown.astype(int) - clean.astype(int))
    np.testing.assert_array_less(change, {8 / 255: 8, 0.1: 25}[radius[1]] + 1)
    np.testing.assert_array_equal(right, shown[:, 0, 0, 0] >= shown[:, 0, 1, 0])


EVALUATORS: dict = {}


def test_images_that_are_not_of_levels_are_refused() -> None:
    images, labels, ids, _ = _batch(GAPS)
    given = Evaluator(_net(), TENTH), images + 0.001, images + 0.001, labels, ids
    with pytest.raises(EvaluationError, match="not of 8 bits; give uint8 divided by 255"):
        eight_bit.on_levels(*given, np.zeros(5, bool))


def test_the_entry_of_a_report() -> None:
    clean = np.array([True] * 8 + [False] * 2)
    float_ = clean & (np.arange(10) > 2)  # 5 of 10
    rounded = clean & (np.arange(10) != 0) & (np.arange(10) != 7)  # 1, 2 come back, 7 falls
    found = eight_bit.entry(
        {"clean": clean, "a": float_}, {"clean": clean, "a": rounded}, TENTH, seed=0
    )
    assert [found[k] for k in ("robust_accuracy", "w_robust")] == pytest.approx([0.6, 0.7])
    assert (found["levels"], found["come_back"], found["fall_only_here"]) == (25, 2, 1)
    assert found["attacks"]["a"] == pytest.approx(
        {"robust_accuracy": 0.6, "come_back": 2, "fall_only_here": 1}
    )
    said = notation.eight_bit({"eight_bit": found})
    assert said == (
        "8 bits: the attacks' images on whole levels within 25/255, as the uint8 signature takes "
        "them; 2 that fell are right again and 1 falls only then."
    )
    round_ball = eight_bit.entry({"clean": clean}, {"clean": clean}, ThreatModel("l2", 0.5), 0)
    assert round_ball["levels"] is None
    assert "in the same ball" in notation.eight_bit({"eight_bit": round_ball})
    assert notation.eight_bit({}) == ""


def test_an_audit_has_the_row_and_the_other_figures_are_the_attacks_own(
    tmp_path, monkeypatch
) -> None:
    def gather(runner, suite, correct, names, blind, through=None):
        known, labels = correct["clean"], runner.split.labels
        said = evidence.Predictions(labels, labels, labels, names, len(names))
        return evidence.Evidence(
            *(known, np.ones(len(known)), known, known, known, known),
            *(1.0, known, ~known, {0.0: known}, 0.0, said),
        )

    monkeypatch.setattr(evidence, "gather", gather)
    monkeypatch.setattr(plots, "epsilon_curve", lambda *args: None)
    pixels = np.array(GAPS, np.uint8).reshape(-1, 1, 2, 1)
    split = Split(pixels, np.array([0, 0, 0, 0, 1], np.int32))
    data = ImageData("pairs", ("p", "q"), split, split, split)
    suite = Suite(
        {"crossing": Crossing(), "fgsm": FGSM()}, ensembles={"both": ("crossing", "fgsm")}
    )
    report = Audit(data, suite, TENTH, batch_size=3)(_net(), "pixels", tmp_path)
    plain = Evaluator(_net(), TENTH, batch_size=3)
    stored = np.load(tmp_path / "examples.npz")
    for name, attack in suite.attacks.items():
        np.testing.assert_array_equal(stored[name], plain.attacked(attack, split))
    np.testing.assert_array_equal(stored["eight_bit/both"], [False, True, True, True, False])
    assert report["worst_case"]["robust_accuracy"] == pytest.approx(0.4)
    assert report["eight_bit"]["robust_accuracy"] == pytest.approx(0.6)
    assert (report["eight_bit"]["come_back"], report["eight_bit"]["fall_only_here"]) == (1, 0)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "| **worst case, 8 bits** | 60.00% " in text and "1 that fell is right again" in text
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "worst case, 8 bits" in page and "within 25/255" in page
    met = judge(requirements.parse("eight_bit>=0.6"), report)
    assert met.met and met.found.startswith("60.0%")
    requirements.check([met.requirement], ["crossing"], ["pixels"])
    with pytest.raises(ValueError, match="'eight_bit' twice or it is reserved"):
        Suite({"eight_bit": FGSM()})
