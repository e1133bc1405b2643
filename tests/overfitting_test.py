"""Catastrophic overfitting is noticed, told, and ends a stage with the student from before."""

from __future__ import annotations

import dataclasses
import types

import keras
import numpy as np
import pytest
from preempted import PreemptedAt

from mtard_tf.attacks.pgd import PGD
from mtard_tf.experiment.stage import Stage
from mtard_tf.measuring import overfitting
from mtard_tf.measuring.overfitting import (
    SINGLE_STEP,
    SINGLE_STEP_KEY,
    begins,
    single_step_alone,
)
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.adversarial_training.fgsm_rs import FGSMRS
from mtard_tf.processes.preemption import Preempted, Preemption
from mtard_tf.running import guard
from mtard_tf.running.callbacks import Validation
from mtard_tf.running.checkpoints import CheckpointError, Checkpoints
from mtard_tf.running.context import RunContext
from mtard_tf.running.stage_run import train
from mtard_tf.schedules import Cyclic
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

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
    looking = guard.Watch(said.append) if watch else None
    measured = Measured(accuracies)
    validation = Validation(DATA.validation, measured, PGD(), folder, epochs=9, watch=looking)
    validation.set_model(types.SimpleNamespace(validated=lambda measured: None))
    return validation


def test_a_fall_over_several_epochs_counts_from_the_best(tmp_path) -> None:
    said: list[str] = []
    fall = [(0.3, 0.5), (0.5, 0.6), (0.4, 0.6), (0.2, 0.7)]
    validation = _validation(fall, tmp_path, said)
    for epoch in range(4):
        assert not validation.exhausted
        validation.on_epoch_end(epoch)
    assert validation.exhausted
    assert "from 50.0% to 20.0% under the validation's attack and from 60.0% to 70.0%" in said[0]
    assert "the last student is that of epoch 3." in said[0]


def test_at_low_accuracies_a_fall_to_less_than_half_counts_where_a_single_step_alone_fails() -> (
    None
):
    before = {"validation_robust": 0.15, SINGLE_STEP_KEY: 0.3, "epoch": 4}
    for robust, single, found in ((0.05, 0.5, True), (0.05, 0.2, False), (0.1, 0.5, False)):
        now = {"validation_robust": robust, SINGLE_STEP_KEY: single, "epoch": 5}
        assert bool(begins(before, now)) == found


@pytest.mark.parametrize(
    ("robust", "single", "found"),
    [(0.1, 0.9, True), (0.1, 0.5, True), (0.25, 0.9, False), (0.1, 0.4, False), (0.6, 0.9, False)],
)
def test_the_rule(robust, single, found) -> None:
    before = {"validation_robust": 0.4, SINGLE_STEP_KEY: 0.5, "epoch": 1}
    now = {"validation_robust": robust, SINGLE_STEP_KEY: single, "epoch": 2}
    assert bool(begins(before, now)) == found
    assert not begins({}, now)


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


STAGE = Stage(
    "net",
    FGSMRS,
    lambda shape, classes: small_cnn(shape, classes, widths=(4,), dense=4),
    epochs=5,
    batch_size=16,  # 2 steps an epoch
    optimizer=sgd,
    learning_rate=0.05,
    learning_rate_schedule=Cyclic(6),
    on_overfitting="restart",
    checkpoint_every=1,
)


def _train(folder, preemption=None, **changes):
    """A training whose validations after epochs 3 and 5 are said to overfit."""
    context = RunContext(tiny_data(30), ThreatModel(), preemption=preemption or Preemption())
    return train(dataclasses.replace(STAGE, **changes), {}, folder, context, seed=7)


def _weights(folder, name="student"):
    model = keras.models.load_model(folder / f"{name}.keras", compile=False)
    return np.concatenate([w.ravel() for w in model.get_weights()])


def test_a_restart_goes_on_from_the_best_student_also_when_resumed(
    tmp_path, monkeypatch, capsys
) -> None:
    real = overfitting.begins
    collapsed = {"validation_robust": 0.1, SINGLE_STEP_KEY: 0.9}
    healthy = {"validation_robust": 0.5, SINGLE_STEP_KEY: 0.5}

    def said(best, now, last, goes_back):
        late = now["epoch"] in (3, 5)
        numbers = collapsed if late else healthy
        return real({**best, **healthy}, {**now, **numbers}, last, goes_back) if best else ""

    monkeypatch.setattr(overfitting, "begins", said)
    monkeypatch.setattr(overfitting, "single_step_alone", lambda now: "")
    whole = _train(tmp_path / "whole")
    assert whole["restarted_in"] == [3, 5] and whole["epochs"] == 5 and whole["steps"] == 10
    assert "overfitted_in" not in whole and "stopped_early" not in whole
    best = whole["best"]["epoch"]
    assert whole["last"] == whole["best"]  # the last epoch went back to it
    lines = [line for line in capsys.readouterr().err.splitlines() if "catastrophic" in line]
    assert lines[1] == (
        "net: goes back after epoch 5: catastrophic overfitting, for accuracy went from 50.0% to "
        "10.0% under the validation's attack and from 50.0% to 90.0% under FGSM; the student is "
        f"that of epoch {best} again, the best. Take a smaller attack step, fewer epochs, or "
        "@distillers.n_fgsm."
    )
    kept = tmp_path / "whole" / "checkpoints"
    assert not (kept / "best").exists()
    np.testing.assert_array_equal(_weights(kept, "last"), _weights(kept, "best"))
    # Cut off within the epoch after a restart.
    with pytest.raises(Preempted):
        _train(tmp_path / "cut", PreemptedAt(7))
    assert (tmp_path / "cut" / "checkpoints" / "best").exists()
    resumed = _train(tmp_path / "cut")
    assert resumed["restarted_in"] == [3, 5]
    np.testing.assert_array_equal(_weights(tmp_path / "cut"), _weights(tmp_path / "whole"))
    # A stage that goes back too often ends.
    monkeypatch.setattr(guard, "RESTARTS", 1)
    once = _train(tmp_path / "once")
    assert (once["restarted_in"], once["overfitted_in"]) == ([3], 5)
    # The state to go back to is gone.
    monkeypatch.setattr(Checkpoints, "newest", lambda self, say=print: None)
    with pytest.raises(CheckpointError, match="^The state of the best student is damaged or gone"):
        _train(tmp_path / "gone")


def test_a_restart_that_is_not_needed_changes_nothing(tmp_path) -> None:
    for what in ("restart", "ignore"):
        _train(tmp_path / what, on_overfitting=what, epochs=2)
    np.testing.assert_array_equal(_weights(tmp_path / "restart"), _weights(tmp_path / "ignore"))
