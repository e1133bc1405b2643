"""Trainings that train nothing stop with one line; what is left of them is from before."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.processes import preemption
from mtard_tf.running import checkpoints, guard
from mtard_tf.running.checkpoints import Checkpoints
from mtard_tf.running.context import RunContext
from mtard_tf.running.guard import NonFinite, NothingTrained
from mtard_tf.running.stage_run import train
from mtard_tf.schedules import CONSTANT, Cosine, StepDecay, Warmup
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)


def _net(shape, classes):
    return small_cnn(shape, classes, widths=(2,), dense=4)


class Broken(Natural):
    """Its loss is not finite in the steps counted from 1 in `bad`."""

    bad = range(4, 100)

    def terms(self, labels, student, teachers):
        terms = dict(super().terms(labels, student, teachers))
        step = self.steps_done.value + 1
        bad = tf.reduce_any(tf.constant(list(self.bad), tf.int64) == step)
        return {name: term + tf.where(bad, float("nan"), 0.0) for name, term in terms.items()}


class Rooted(Natural):
    """Its loss is finite, its gradient never is."""

    def terms(self, labels, student, teachers):
        terms = dict(super().terms(labels, student, teachers))
        zero = tf.sqrt(0.0 * tf.reduce_sum(student["clean"], axis=1))
        return {name: term + zero for name, term in terms.items()}


class Steep(Natural):
    def terms(self, labels, student, teachers):
        terms = super().terms(labels, student, teachers)
        return {name: 1e6 * term for name, term in terms.items()}


STAGE = Stage(
    "net",
    Natural,
    _net,
    epochs=3,
    batch_size=16,  # 3 steps an epoch
    optimizer=sgd,
    learning_rate=0.05,
    learning_rate_schedule=CONSTANT,
    validation_attack=None,
)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


def _train(data, folder, **changes):
    stage = dataclasses.replace(STAGE, **changes)
    return train(stage, {}, folder, RunContext(data, THREAT), seed=7)


def test_skips_in_a_row_stop_and_no_checkpoint_is_written_meanwhile(data, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "SKIPS_IN_A_ROW", 5)
    for _ in range(2):  # the same command ends alike
        with pytest.raises(NonFinite) as caught:
            _train(data, tmp_path, distiller=Broken, on_non_finite="skip", checkpoint_every=2)
        message = str(caught.value)
        assert message.startswith(
            "net: 5 steps in a row were skipped, up to step 8 (batch 2 of epoch 3, seed 7): "
            "cross_entropy is not finite; the largest weight is "
        )
        assert message.endswith(
            ", so look at the teachers and at Stage.precision; the checkpoints are from before "
            "these steps."
        )
        # The beginning was kept until two later ones pushed it out: those of steps 2 and 3.
        steps = [path.name for path in sorted((tmp_path / "checkpoints").glob("state-*"))]
        assert steps == ["state-000000002.npz", "state-000000003.npz"]
    state = Checkpoints(tmp_path / "checkpoints").newest()
    for name, value in state.values.items():
        if value.dtype.kind == "f":
            np.testing.assert_array_less(np.abs(value), np.inf, name)


def test_a_checkpoint_that_was_due_at_a_skip_comes_after_it(data, tmp_path):
    class OnceBroken(Broken):
        bad = (3,)  # the end of the first epoch

    class _Preempted(preemption.Preemption):
        """Preempted after the second epoch."""

        asked = 0

        @property
        def received(self):
            self.asked += 1
            return self.asked > 5

        @received.setter
        def received(self, value):
            pass

    stage = dataclasses.replace(STAGE, distiller=OnceBroken, on_non_finite="skip")
    setting = RunContext(data, THREAT, preemption=_Preempted())
    with pytest.raises(preemption.Preempted, match="checkpointed at step 6"):
        train(stage, {}, tmp_path, setting, seed=7)
    steps = [path.name for path in sorted((tmp_path / "checkpoints").glob("state-*"))]
    assert steps == ["state-000000004.npz", "state-000000006.npz"]


def test_weights_that_a_step_spoils_are_not_kept(data, tmp_path):
    with pytest.raises(NonFinite) as caught:
        _train(data, tmp_path, distiller=Steep, learning_rate=1e38, epochs=1, batch_size=40)
    assert "is not finite after step 1 (batch 1 of epoch 1, seed 7); it is not saved." in str(
        caught.value
    )
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert names == ["state-000000000.npz"]


def test_a_student_without_finite_logits_is_no_evaluation_error(data, tmp_path):
    with pytest.raises(NonFinite) as caught:
        _train(data, tmp_path, learning_rate=1e30, epochs=1, batch_size=40)
    message = str(caught.value)
    assert message.startswith("net: small_cnn returned logits that are not finite on ")
    assert "after step 1 (batch 1 of epoch 1, seed 7); the largest weight is " in message
    assert "so lower the learning rate or warm up epsilon" in message


def test_overflows_in_a_row_stop(data, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "OVERFLOWS_IN_A_ROW", 4)
    with pytest.raises(NonFinite) as caught:
        _train(data, tmp_path, distiller=Rooted, precision="mixed_float16")
    assert str(caught.value).startswith(
        "net: loss scaling skipped 4 steps in a row, up to step 4 (batch 1 of epoch 2, seed 7): "
        "the gradients are not finite at any scale (now 2.0e+03). Use Stage.precision = "
    )


def test_a_short_stage_without_an_update_does_not_finish(data, tmp_path):
    for _ in range(2):
        with pytest.raises(NothingTrained) as caught:
            _train(data, tmp_path, distiller=Rooted, precision="mixed_float16", epochs=1)
        assert str(caught.value) == (
            "net: only 0 of 3 steps changed the weights; the others were skipped by loss scaling, "
            "as their gradients overflow in mixed_float16. Lower the learning rate, train for more "
            "steps, or use another Stage.precision."
        )
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert '"overflowed": 1.0' in rows[0] and not (tmp_path / "stage.json").exists()


@pytest.mark.parametrize(("batches", "left"), [(16, 9), (4, 1)])
def test_accumulation_that_would_lose_gradients_is_refused(data, batches, left):
    stage = dataclasses.replace(STAGE, gradient_accumulation_steps=batches)
    with pytest.raises(ValueError) as caught:
        stage.build(data, {}, THREAT, 7)
    assert str(caught.value) == (
        f"net/Stage.gradient_accumulation_steps is {batches}; of the stage's 9 batches (3 epochs), "
        f"the last {left} would make no update: give a divisor of 9, or epochs that are a multiple "
        f"of {batches}."
    )


@pytest.mark.parametrize(
    ("schedule", "found"),
    [
        (Cosine(2, final=-1.0), "-0.025 in epoch 2"),
        (Warmup(1, start=float("nan")), "nan in epoch 1"),
        (StepDecay((0,), factor=0.0), "0 throughout"),
    ],
)
def test_a_schedule_that_teaches_nothing_or_the_contrary_is_refused(data, schedule, found):
    stage = dataclasses.replace(STAGE, learning_rate_schedule=schedule)
    with pytest.raises(ValueError) as caught:
        stage.build(data, {}, THREAT, 7)
    assert str(caught.value) == (
        f"net/Stage.learning_rate_schedule is {schedule!r}, and the learning rate {found}; give "
        "factors of at least 0, not all 0."
    )


def test_a_loss_that_reaches_no_weight_is_named(data):
    def frozen(shape, classes):
        net = _net(shape, classes)
        net.trainable = False
        return net

    def cut(shape, classes):
        net = _net(shape, classes)
        return keras.Model(net.input, keras.layers.Lambda(tf.stop_gradient)(net.output))

    for model in (frozen, cut):
        distiller = dataclasses.replace(STAGE, model=model).build(data, {}, THREAT, 7)
        images = tf.zeros([2, 8, 8, 3])
        with pytest.raises(ValueError, match="No gradient reaches the weights of the student"):
            distiller.train_step((images, tf.zeros([2], tf.int32), tf.range(2, dtype=tf.int64)))


def test_the_first_state_is_the_beginning(data, tmp_path):
    """So that there is one from before the weights are spoilt, however early that is."""
    at_once = type("AtOnce", (Broken,), {"bad": range(1, 9)})
    with pytest.raises(NonFinite):
        _train(data, tmp_path, distiller=at_once)
    state = Checkpoints(tmp_path / "checkpoints").newest()
    fresh = checkpoints.values(
        dataclasses.replace(STAGE, distiller=at_once).build(data, {}, THREAT, 7)
    )
    assert state.values.keys() == fresh.keys()
    for path, value in fresh.items():
        np.testing.assert_array_equal(state.values[path], value)
