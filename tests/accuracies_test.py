"""The numbers of a report: trade-offs, intervals, classes, worst case."""

from __future__ import annotations

import numpy as np
import pytest

from mtard_tf.auditing import accuracies


def _bits(text: str) -> np.ndarray:
    return np.array([digit == "1" for digit in text])


OUTCOMES = {
    "clean": _bits("1111111100"),
    "first": _bits("1111000000"),
    "second": _bits("0111100000"),
}


def test_w_robust_and_nrr_of_the_papers() -> None:
    # The B-MTARD ResNet-18 row: clean 88.20, PGD-sat 51.68.
    assert accuracies.w_robust(88.20, 51.68) == pytest.approx(69.94)
    # 2 * 0.8 * 0.4 / 1.2
    assert accuracies.nrr(0.8, 0.4) == pytest.approx(0.533333333)
    assert accuracies.nrr(0.0, 0.0) == 0


def test_worst_case_is_what_stands_under_every_attack() -> None:
    np.testing.assert_array_equal(accuracies.worst_case(OUTCOMES), _bits("0111000000"))


def test_summary() -> None:
    report = accuracies.summarise(OUTCOMES)
    assert report["examples"] == 10
    assert report["clean"] == pytest.approx(0.8)
    assert list(report["attacks"]) == ["first", "second"]
    first = report["attacks"]["first"]
    assert first["robust_accuracy"] == pytest.approx(0.4)
    assert first["w_robust"] == pytest.approx(0.6)
    assert first["nrr"] == pytest.approx(0.64 / 1.2)
    assert report["worst_case"]["robust_accuracy"] == pytest.approx(0.3)
    assert report["worst_case"]["w_robust"] == pytest.approx(0.55)


def test_intervals_are_those_of_the_binomial() -> None:
    outcome = np.arange(1_000) < 700
    report = accuracies.summarise({"clean": np.ones(1_000, bool), "attack": outcome})
    low, high = report["attacks"]["attack"]["robust_accuracy_interval"]
    # 1.96 sqrt(0.7 * 0.3 / 1000) = 0.0284
    assert low == pytest.approx(0.7 - 0.0284, abs=0.004)
    assert high == pytest.approx(0.7 + 0.0284, abs=0.004)
    # Clean is 1 in every draw, so W-Robust's interval is half as wide.
    low, high = report["attacks"]["attack"]["w_robust_interval"]
    assert high - low == pytest.approx(0.0284, abs=0.004)
    assert report["clean_interval"] == pytest.approx([1, 1])


def test_intervals_are_paired() -> None:
    # Robust exactly where clean: W-Robust varies like clean, not less as if they were independent.
    same = np.arange(400) < 200
    report = accuracies.summarise({"clean": same, "attack": same})
    entry = report["attacks"]["attack"]
    np.testing.assert_allclose(entry["w_robust_interval"], report["clean_interval"], rtol=1e-12)
    half_width = np.diff(report["clean_interval"])[0] / 2
    assert half_width == pytest.approx(1.96 * np.sqrt(0.5 * 0.5 / 400), rel=0.1)


def test_intervals_depend_on_the_seed_alone() -> None:
    assert accuracies.summarise(OUTCOMES, seed=3) == accuracies.summarise(OUTCOMES, seed=3)
    assert accuracies.summarise(OUTCOMES, seed=3) != accuracies.summarise(OUTCOMES, seed=4)


def test_classes() -> None:
    labels = np.array([0, 0, 0, 0, 0, 2, 2, 2, 2, 2])
    report = accuracies.by_class(OUTCOMES, labels, ("cat", "dog", "owl"))
    assert list(report["per_class"]) == ["cat", "owl"]  # there is no dog to be right about
    cat = {"examples": 5, "clean": 1.0, "first": 0.8, "second": 0.8, "worst_case": 0.6}
    assert report["per_class"]["cat"] == pytest.approx(cat)
    assert report["per_class"]["owl"]["clean"] == pytest.approx(0.6)
    assert report["worst_class"]["clean"] == {"class": "owl", "accuracy": pytest.approx(0.6)}
    assert report["worst_class"]["worst_case"] == {"class": "owl", "accuracy": pytest.approx(0.0)}
