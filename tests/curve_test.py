"""Height above a trade-off curve, against values by hand and a bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest

from mtard_tf.comparing import curve
from mtard_tf.comparing.audits import Audited, ComparisonError

LINE = np.array([[0.8, 0.3], [0.6, 0.5], [0.7, 0.45]])  # in no order


@pytest.mark.parametrize(
    ("point", "height"),
    [
        ((0.65, 0.475), 0.0),  # half way between the two of least clean accuracy
        ((0.75, 0.40), 0.025),
        ((0.70, 0.40), -0.05),
        ((0.60, 0.52), 0.02),
        ((0.90, 0.31), 0.01),  # flat beyond the ends
        ((0.50, 0.49), -0.01),
    ],
)
def test_height_is_robust_accuracy_above_the_line_at_equal_clean_accuracy(point, height):
    assert curve.height(LINE, np.array(point)) == pytest.approx(height)


def test_of_two_points_of_one_clean_accuracy_neither_breaks_the_line():
    twice = np.array([[0.7, 0.5], [0.7, 0.4], [0.8, 0.3]])
    assert curve.height(twice, np.array([0.75, 0.4])) == pytest.approx(0.0)


def _row(name: str, clean: float, robust: float, examples: int = 400) -> Audited:
    """A net whose first images are right, and fewer of them under attack."""
    places = (np.arange(examples) * 37) % examples / examples  # spread over the images
    correct = {"clean": places < clean, "pgd": places < robust}
    return Audited({"stage": name}, {"attacks": {"pgd": {}}}, correct, None)


ROWS = [
    _row("low_s0", 0.60, 0.50),
    _row("low_s1", 0.62, 0.48),
    _row("high", 0.80, 0.30),
    _row("between", 0.70, 0.45),
    _row("below", 0.75, 0.20),
    _row("beyond", 0.90, 0.40),
]


def test_rows_are_measured_from_the_curve_and_those_beyond_it_are_named():
    found = curve.above(ROWS, ["high", "low"], "worst_case", ["pgd"])
    assert found["curve"] == ["low", "high"] and found["attack"] == "worst_case"
    assert found["outside"] == ["beyond"]
    assert list(found["heights"]) == ["between", "below"]
    # The line runs from (0.61, 0.49) to (0.80, 0.30), down by one point for each point.
    between, below = found["heights"].values()
    assert between["height"] == pytest.approx(0.45 - 0.40)
    assert below["height"] == pytest.approx(0.20 - 0.35)
    assert between["excludes_zero"] and between["interval"][0] > 0
    assert below["excludes_zero"] and below["interval"][1] < 0


def test_a_row_that_is_on_the_curve_has_no_height_in_any_draw():
    twin = _row("twin", 0.80, 0.30)
    found = curve.above([*ROWS[:3], twin], ["low", "high"], "pgd", [])["heights"]["twin"]
    # Beside it in every draw: the same images are drawn for all rows.
    assert found == {"height": 0.0, "interval": [0.0, 0.0], "excludes_zero": False}


def test_the_interval_is_that_of_a_bootstrap_written_out():
    found = curve.above(ROWS, ["low", "high"], "pgd", [], draws=4000)["heights"]["between"]
    random, heights = np.random.default_rng(1), []
    for _ in range(4000):
        images = random.integers(400, size=400)
        drawn = [ROWS[i] for i in (*random.integers(2, size=2), 2, 3)]
        means = np.array(
            [[one.correct[k][images].mean() for k in ("clean", "pgd")] for one in drawn]
        )
        line = np.stack([means[:2].mean(axis=0), means[2]])
        heights.append(curve.height(line, means[3]))
    expected = np.percentile(heights, [2.5, 97.5])
    assert found["interval"] == pytest.approx(expected, abs=0.003)


def test_a_curve_must_have_two_audited_rows():
    names = ["low_s0", "low_s1", "high"]
    curve.check(names, [])
    curve.check(names, ["low", "high"])
    with pytest.raises(ComparisonError, match="^A curve through low alone is a point; give --cu"):
        curve.check(names, ["low", "low"])
    with pytest.raises(ComparisonError, match="^Unknown row 'hihg'; did you mean 'high'?"):
        curve.check(names, ["low", "hihg"])
    with pytest.raises(
        ComparisonError,
        match="^The curve goes through high, which has no audit with pgd; audit it, or leave it",
    ):
        curve.above(ROWS[:2], ["low", "high"], "pgd", [])
