"""Catastrophic overfitting is noticed, told, and ends a stage with the student from before."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest

from mtard_tf.attacks.pgd import PGD
from mtard_tf.running.callbacks import Validation
from mtard_tf.running.guard import SINGLE_STEP, SINGLE_STEP_KEY, overfitted, single_step_alone
from mtard_tf.testing import tiny_data

DATA = tiny_data(4, 10, 4)
# Accuracy under PGD and under FGSM after each epoch.
COLLAPSE = [(0.3, 0.4), (0.4, 0.5), (0.1, 0.9), (0.0, 1.0)]


class Measured:
    """An evaluator of given accuracies of 10 images; its model's weight is the epoch."""

    def __init__(self, accuracies) -> None:
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        self._accuracies, self._epoch = accuracies, -1

    def clean(self, split, examples):
        self._epoch += 1
        self.model.set_weights([np.full((1, 1), self._epoch + 1.0)])
        return np.ones(10)

    def attacked(self, attack, split, examples):
        share = self._accuracies[self._epoch][attack is SINGLE_STEP]
        return np.arange(10) < round(10 * share)


def _validation(accuracies, folder, said, watch=True) -> Validation:
    validation = Validation(
        DATA.validation, Measured(accuracies), PGD(), folder, epochs=9, watch=watch, say=said.append
    )
    validation.set_model(types.SimpleNamespace(validated=lambda measured: None))
    return validation


@pytest.mark.parametrize(
    ("robust", "single", "found"),
    [(0.1, 0.9, True), (0.1, 0.5, True), (0.25, 0.9, False), (0.1, 0.4, False), (0.6, 0.9, False)],
)
def test_the_rule(robust, single, found) -> None:
    before = {"validation_robust": 0.4, SINGLE_STEP_KEY: 0.5, "epoch": 1}
    now = {"validation_robust": robust, SINGLE_STEP_KEY: single, "epoch": 2}
    assert bool(overfitted(before, now)) == found
    assert not overfitted({}, now)


def test_a_student_that_never_withstood_more_than_a_step_is_told_once() -> None:
    said: list[str] = []
    validation = _validation([(0.1, 0.6), (0.1, 0.6), (0.3, 0.6), (0.2, 0.4)], None, said)
    for epoch in range(4):
        validation.on_epoch_end(epoch)
    assert not validation.exhausted
    assert said == [
        "after epoch 1 accuracy is 10.0% under the validation's attack and 60.0% under FGSM: the "
        "student withstands a single step alone. Take a smaller attack step, warm up epsilon, or "
        "@distillers.n_fgsm."
    ]
    kept = {"validation_robust": 0.02, SINGLE_STEP_KEY: 0.2}  # low accuracies say nothing
    assert not single_step_alone(kept)


def test_a_collapse_ends_the_stage_with_the_student_before(tmp_path) -> None:
    said: list[str] = []
    validation = _validation(COLLAPSE, tmp_path, said)
    for epoch in range(3):
        assert not validation.exhausted
        logs: dict = {}
        validation.on_epoch_end(epoch, logs)
        assert logs[SINGLE_STEP_KEY] == COLLAPSE[epoch][1]
    assert validation.exhausted
    assert said == [
        "stops after epoch 3: catastrophic overfitting, for accuracy went from 40.0% to 10.0% "
        "under the validation's attack and from 50.0% to 90.0% under FGSM; the last student is "
        "that of epoch 2. Take a smaller attack step, fewer epochs, or @distillers.n_fgsm."
    ]
    for name in ("last", "best"):
        kept = keras.models.load_model(tmp_path / f"{name}.keras", compile=False)
        np.testing.assert_array_equal(kept.get_weights()[0], [[2.0]])
    assert validation.last["epoch"] == 2 and validation.last["overfitted_in"] == 3
    # A stage that was preempted there does not go on.
    resumed = _validation(COLLAPSE, None, said)
    resumed.restore(validation.notes)
    assert resumed.exhausted


def test_without_it_nothing_is_measured() -> None:
    said: list[str] = []
    validation = _validation(COLLAPSE, None, said, watch=False)
    for epoch in range(4):
        validation.on_epoch_end(epoch, logs := {})
        assert SINGLE_STEP_KEY not in logs
    assert not validation.exhausted and not said
