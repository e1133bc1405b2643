"""The verdict on two trained nets: one adversarially trained, one defensively distilled."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.auditing.audit import Audit
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.named_sets import fashion_mini
from mtard_tf.threat import ThreatModel

REFERENCE = pathlib.Path(__file__).parent / "reference"
NETS = {
    "fashion_pgd_at": ((16, 16, 32, 32), 128, "same"),
    "fashion_defensive_t40": ((32, 32, 64, 64), 200, "valid"),
}


def _audit(name: str, out: pathlib.Path, examples: int) -> dict:
    widths, units, padding = NETS[name]
    x = images = keras.Input((28, 28, 1))
    for i, width in enumerate(widths):
        x = keras.layers.Conv2D(width, 3, padding=padding, activation="relu")(x)
        if i % 2:
            x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Dense(units, activation="relu")(keras.layers.Flatten()(x))
    model = keras.Model(images, keras.layers.Dense(10)(x), name=name)
    arrays = np.load(REFERENCE / f"{name}.npz")
    model.set_weights([arrays[f"arr_{i}"] for i in range(len(arrays.files))])
    probe = PGD(num_steps=20, relative_step_size=0.25)
    suite = Suite({"fgsm": FGSM(), "pgd": probe}, probe=probe, factors=(1.0, 2.0))
    audit = Audit(fashion_mini(), suite, ThreatModel("linf", 0.1), examples=examples)
    return audit(model, name, out)


def _values(report: dict) -> dict[str, dict]:
    return {finding["name"]: finding["values"] for finding in report["findings"]}


def _masked(report: dict) -> set[str]:
    return {f["name"] for f in report["findings"] if f["severity"] == "masked"}


def test_adversarial_training_is_believed(tmp_path) -> None:
    report = _audit("fashion_pgd_at", tmp_path, 40)
    assert _masked(report) == set()
    assert "masked" not in report["verdict"].lower()


def test_defensive_distillation_is_not(tmp_path) -> None:
    report = _audit("fashion_defensive_t40", tmp_path, 40)
    assert report["verdict"].startswith("Masked gradients (")
    assert {
        "vanishing_gradients",
        "tempered_logits_stronger",
        "stands_at_any_epsilon",
    } <= _masked(report)


@pytest.mark.slow
def test_the_numbers_of_the_first_200(tmp_path) -> None:
    """Official numbers of 200 images: FGSM 68.5, PGD 62.5, and 11.5 on logits / 40."""
    report = _audit("fashion_defensive_t40", tmp_path / "distilled", 200)
    assert report["clean"] == pytest.approx(0.835)
    assert report["attacks"]["fgsm"]["robust_accuracy"] == pytest.approx(0.685, abs=0.02)
    # The random start alone decides what falls where there is no gradient.
    assert report["attacks"]["pgd"]["robust_accuracy"] == pytest.approx(0.625, abs=0.05)
    tempered = _values(report)["tempered_logits_stronger"]
    assert tempered["temperature"] == pytest.approx(170.6 / 4, abs=0.1)
    assert tempered["tempered"] == pytest.approx(0.115, abs=0.02)
    assert "black_box_stronger" in _masked(report)
    honest = _audit("fashion_pgd_at", tmp_path / "honest", 200)
    assert honest["clean"] == pytest.approx(0.855)
    assert honest["attacks"]["pgd"]["robust_accuracy"] == pytest.approx(0.73, abs=0.01)
    assert _masked(honest) == set()
