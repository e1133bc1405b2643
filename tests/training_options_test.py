"""Guards, mixed precision, accumulation and many steps per call, each against the plain step."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.batches import training_batches
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.precision import with_precision
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.multi_teacher.bmtard import BMTARD
from mtard_tf.running import checkpoints
from mtard_tf.running.callbacks import Validation
from mtard_tf.running.guard import Guard, NonFinite
from mtard_tf.schedules import CONSTANT
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)
STEPS = 3  # 40 images in batches of 16


def _net(shape=(8, 8, 3), classes=3):
    return small_cnn(shape, classes, widths=(4, 4), dense=8, batch_normalization=True)


def _no_batch_norm(shape, classes):
    return small_cnn(shape, classes, widths=(4, 4), dense=8)


STAGE = Stage(
    "student",
    BMTARD,
    _net,
    {"clean": "a.keras", "robust": "b.keras"},
    epochs=2,
    batch_size=16,
    optimizer=sgd,
    learning_rate=0.05,
    learning_rate_schedule=CONSTANT,
)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


def _build(data, **changes):
    keras.utils.set_random_seed(1)
    teachers = {"clean": _net(), "robust": _net()}
    stage = dataclasses.replace(STAGE, **changes)
    if stage.distiller is not BMTARD and not issubclass(stage.distiller, BMTARD):
        teachers = {}
    return stage.build(data, teachers, THREAT, 7)


def _fit(distiller, data, *callbacks, epochs=2):
    batches = training_batches(data, batch_size=16, epochs=epochs, seed=7)
    distiller.fit(
        batches, epochs=epochs, steps_per_epoch=STEPS, shuffle=False, verbose=0, callbacks=callbacks
    )
    return list(checkpoints.values(distiller).values())


class _Trace(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs, self.values = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))
        self.values.append(list(checkpoints.values(self.model).values()))


class NaNAtThirdStep(BMTARD):
    def terms(self, labels, student, teachers):
        terms = dict(super().terms(labels, student, teachers))
        bad = tf.where(self.steps_done.value == 2, float("nan"), 0.0)
        return terms | {"kl_robust": terms["kl_robust"] + bad}


class InfiniteGradientAtThirdStep(BMTARD):
    def terms(self, labels, student, teachers):
        terms = dict(super().terms(labels, student, teachers))
        # sqrt(0) is 0, its gradient is not finite.
        zero = 0.0 * tf.reduce_sum(student["clean"], axis=1)
        bad = tf.cond(self.steps_done.value == 2, lambda: tf.sqrt(zero), lambda: zero)
        return terms | {"kl_clean": terms["kl_clean"] + bad}


def test_a_loss_that_is_not_finite_stops_and_names_step_and_term(data):
    with pytest.raises(NonFinite) as caught:
        _fit(_build(data, distiller=NaNAtThirdStep), data, Guard("student", STEPS, 7))
    assert str(caught.value) == (
        "student: kl_robust is not finite at step 3 (batch 3 of epoch 1, seed 7). Lower the "
        "learning rate, warm up epsilon, or set Stage.on_non_finite = 'skip'; the same command "
        "resumes from the last checkpoint."
    )


def test_a_gradient_that_is_not_finite_stops(data):
    distiller = _build(data, distiller=InfiniteGradientAtThirdStep)
    with pytest.raises(NonFinite, match=r"student: \d+ gradients are not finite at step 3 "):
        _fit(distiller, data, Guard("student", STEPS, 7))


@pytest.mark.parametrize("kind", [NaNAtThirdStep, InfiniteGradientAtThirdStep])
def test_a_skipped_step_changes_nothing_but_the_count(data, kind):
    trace = _Trace()
    distiller = _build(data, distiller=kind, on_non_finite="skip")
    _fit(distiller, data, Guard("student", STEPS, 7), trace)
    np.testing.assert_array_equal([row["skipped"] for row in trace.logs], [0, 0, 1, 0, 0, 0])
    before, after = trace.values[1], trace.values[2]
    moved = [
        variable.path
        for variable, old, new in zip(checkpoints.variables(distiller), before, after, strict=True)
        if not np.array_equal(old, new)
    ]
    assert [path.rsplit("/")[-1] for path in moved] == ["steps_done"]
    for value in trace.values[-1]:
        np.testing.assert_array_less(np.abs(value), np.inf)


@pytest.fixture(scope="module")
def plain(data):
    """What two epochs without any option leave, and their trace."""
    trace = _Trace()
    return _fit(_build(data), data, trace), trace


def test_skipping_that_never_skips_is_the_plain_step(data, plain):
    guarded = _fit(_build(data, on_non_finite="skip"), data)
    for ours, theirs in zip(guarded, plain[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_three_steps_per_call_are_the_same_steps(data, plain):
    several = _fit(_build(data, steps_per_execution=3), data)
    for ours, theirs in zip(several, plain[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_accumulated_gradients_are_averaged(data):
    """Two batches make one step, by the mean of the steps that either would make alone."""
    plain = {"distiller": Natural, "teachers": {}, "model": _no_batch_norm}  # nothing but gradients
    first, second = training_batches(data, batch_size=16, epochs=1, seed=7).take(2)

    def moves(*batches, **changes):
        """How far each batch in turn has moved the first kernel from where it started."""
        distiller = _build(data, **plain, **changes)
        kernel = distiller.student.trainable_variables[0]
        start, found = np.asarray(kernel), []
        for batch in batches:
            distiller.train_step(batch)
            found.append(np.asarray(kernel) - start)
        return found

    [one], [two] = moves(first), moves(second)
    before, after = moves(first, second, gradient_accumulation_steps=2)
    np.testing.assert_array_equal(before, np.zeros_like(before))  # nothing applied yet
    assert np.abs(one - two).max() > 1e-4
    np.testing.assert_allclose(after, (one + two) / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("mixed_bfloat16", 0.05), ("mixed_float16", 0.02)]
)
def test_mixed_precision_stays_near_float32(data, plain, precision, tolerance):
    trace = _Trace()
    distiller = _build(data, precision=precision)
    _fit(distiller, data, trace, epochs=1)
    assert distiller.student.layers[-1].compute_dtype == precision.removeprefix("mixed_")
    assert {v.dtype for v in distiller.student.trainable_variables} == {"float32"}
    ours, theirs = trace.logs[0], plain[1].logs[0]
    for name in ("loss", "kl_clean", "kl_robust", "entropy_clean", "temperature_clean"):
        assert ours[name] == pytest.approx(theirs[name], rel=tolerance), name
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer) == (
        precision == "mixed_float16"
    )


def test_a_net_in_another_precision_has_the_same_weights_and_near_logits():
    net = _net()
    images = np.random.RandomState(0).rand(4, 8, 8, 3).astype(np.float32)
    assert with_precision(net, "float32") is net
    mixed = with_precision(net, "mixed_bfloat16")
    back = with_precision(mixed, "float32")
    np.testing.assert_array_equal(back(images), net(images))
    assert mixed(images).dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(mixed(images), tf.float32), net(images), atol=0.05)


def test_a_student_at_chance_is_said(data):
    said = []
    distiller = _build(data)
    dead = [np.zeros_like(weight) for weight in distiller.student.get_weights()]
    distiller.student.set_weights(dead)
    validation = Validation(
        data.validation, Evaluator(distiller.student, THREAT), None, None, epochs=2, say=said.append
    )
    validation.set_model(distiller)
    validation.on_epoch_end(0, {})
    assert said == [
        "the student is at chance after epoch 1 (33.3% of validation images, the largest class is "
        "33.3%); 0 steps are few: give more Stage.epochs, or a smaller Stage.batch_size."
    ]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("precision", "float64", "student/Stage.precision is 'float64'; use 'float32' or"),
        ("on_non_finite", "ignore", "Stage.on_non_finite is 'ignore'; use 'stop' or 'skip'."),
        ("checkpoint_every", 0, "Stage.checkpoint_every is 0; give a whole number, at least 1."),
        ("gradient_accumulation_steps", 0, "accumulation_steps is 0; give a whole number"),
    ],
)
def test_refused_options(field, value, message):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(STAGE, **{field: value})
    assert message in str(caught.value)
