"""Weight perturbation, averaging, label smoothing, step sizes and patience, each by its numbers."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from preempted import PreemptedAt

from mtard_tf.attacks.autoattack import AutoAttack
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.data.batches import training_batches
from mtard_tf.distiller.averaging import EMA, SWA
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.inner_attack import with_step_scaled
from mtard_tf.distiller.weight_perturbation import WeightPerturbation, perturbed
from mtard_tf.experiment.stage import Stage
from mtard_tf.losses import cross_entropy
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import CoupledSGD, sgd
from mtard_tf.plugins.adversarial_distillation.ard import ARD
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.adversarial_training.trades import Trades
from mtard_tf.plugins.multi_teacher.bmtard import BMTARD
from mtard_tf.processes.preemption import Preempted, Preemption
from mtard_tf.running import checkpoints
from mtard_tf.running.averaged_student import BatchStatistics, validated_student
from mtard_tf.running.callbacks import Validation
from mtard_tf.running.context import RunContext
from mtard_tf.running.stage_run import train
from mtard_tf.schedules import CONSTANT, Constant, Warmup
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)
STEPS = 3  # 40 images in batches of 16


def _net(shape=(8, 8, 3), classes=3):
    return small_cnn(shape, classes, widths=(4,), dense=4, batch_normalization=True)


def _bmtard(*args, **kwargs):
    return BMTARD(*args, attack=FGSM(), **kwargs)


STAGE = Stage(
    "student",
    Natural,
    _net,
    epochs=2,
    batch_size=16,
    optimizer=sgd,
    learning_rate=0.05,
    learning_rate_schedule=CONSTANT,
    validation_attack=None,
    attack_shards=1,
)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


class _Trace(keras.callbacks.Callback):
    """The student's trained weights, and the logs, after each step; all values after an epoch."""

    def __init__(self):
        super().__init__()
        self.weights, self.logs, self.epochs = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(list(checkpoints.values(self.model).values()))

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append([v.numpy() for v in self.model.student.trainable_variables])
        self.logs.append(dict(logs))


def _fit(data, *callbacks, epochs=2, teachers=(), **changes):
    keras.utils.set_random_seed(1)
    teachers = {role: _net() for role in teachers}
    distiller = dataclasses.replace(STAGE, **changes).build(data, teachers, THREAT, 7)
    batches = training_batches(data, batch_size=16, epochs=epochs, seed=7)
    distiller.fit(
        batches, epochs=epochs, steps_per_epoch=STEPS, shuffle=False, verbose=0, callbacks=callbacks
    )
    return distiller


def _equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# Adversarial weight perturbation.


def test_a_perturbation_by_hand():
    # |w| = 5 and g points along (0, 1): w moves by 0.1 * 5. A vector stays; so does a layer whose
    # gradient is 0; and everything where one gradient is not finite.
    w, b, g = tf.constant([[3.0, 4.0]]), tf.constant([1.0, 1.0]), tf.constant([[0.0, 7.0]])
    moved = perturbed([w, b, w], [g, b, tf.zeros_like(w)], 0.1)
    np.testing.assert_allclose(moved[0], [[3.0, 4.5]], rtol=1e-6)
    _equal(moved[1:], [b, w])
    _equal(perturbed([w], [g], 0.0), [w])
    _equal(perturbed([w, w], [g, g * float("nan")], 0.1), [w, w])


def _softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_perturbed_steps_equal_numpy():
    """Cross-entropy of a linear net, momentum and weight decay, in float64."""
    rate, momentum, decay, gamma, batch = 0.5, 0.9, 0.01, 0.2, 5
    random = np.random.RandomState(0)
    student = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    w, b = random.randn(4, 3), random.randn(3)
    student.set_weights([w, b])
    context = TrainingContext(weight_perturbation=WeightPerturbation(gamma, 1), steps_per_epoch=2)
    distiller = Natural(student, context=context)
    distiller.compile(optimizer=CoupledSGD(rate, momentum, decay), jit_compile=False)
    step = tf.function(distiller.train_step, autograph=False)
    buffers = [np.zeros_like(w), np.zeros_like(b)]
    for number in range(4):
        images = random.rand(batch, 2, 2, 1).astype(np.float32)
        labels = random.randint(0, 3, batch).astype(np.int32)
        x = images.reshape(batch, -1).astype(np.float64)

        def gradient(w, b, x=x, labels=labels):
            p = _softmax(x @ w + b)
            loss = -np.log(p[np.arange(batch), labels]).mean()
            p[np.arange(batch), labels] -= 1
            return loss, x.T @ p / batch, p.sum(0) / batch

        _, g, _ = gradient(w, b)
        on = number >= 2  # from epoch 1 on
        at = w + on * gamma * np.linalg.norm(w) * g / np.linalg.norm(g)
        loss, *gradients = gradient(at, b)
        logs = step((images, labels, np.arange(batch, dtype=np.int64)))
        np.testing.assert_allclose(logs["loss"], loss, rtol=1e-5)
        assert not on or loss > gradient(w, b)[0]
        for variable, g, buffer in zip((w, b), gradients, buffers, strict=True):
            buffer[:] = momentum * buffer + g + decay * variable
            variable -= rate * buffer
        np.testing.assert_allclose(student.get_weights()[0], w, atol=1e-5)
        np.testing.assert_allclose(student.get_weights()[1], b, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_perturbed_step_moves_balance_and_statistics_once(data, precision):
    """Until the perturbation begins, steps with it are those without it, to the bit."""
    common = {"distiller": _bmtard, "teachers": ("clean", "robust"), "precision": precision}
    plain, later = _Trace(), _Trace()
    _fit(data, plain, epochs=2, **common)
    moved = _fit(
        data, later, epochs=2, weight_perturbation=0.5, **common, weight_perturbation_start=1
    )
    _equal(later.epochs[0], plain.epochs[0])
    # The first perturbed step: temperatures move by one rate, from teachers that are not perturbed.
    on, off = later.logs[STEPS], plain.logs[STEPS]
    for role in ("clean", "robust"):
        np.testing.assert_array_equal(on[f"temperature_{role}"], off[f"temperature_{role}"])
        assert on[f"kl_{role}"] != off[f"kl_{role}"]
    assert moved.step == 2 * STEPS
    assert not np.array_equal(later.weights[STEPS][0], plain.weights[STEPS][0])
    np.testing.assert_array_less([row["loss"] for row in later.logs], np.inf)


def test_weights_are_put_back_where_nothing_is_applied(data):
    """Two batches make one step, so after the first the student is the one that was built."""
    trace = _Trace()
    keras.utils.set_random_seed(1)
    start = dataclasses.replace(STAGE).build(data, {}, THREAT, 7).student.get_weights()[:1]
    _fit(data, trace, epochs=1, gradient_accumulation_steps=2, weight_perturbation=0.5)
    _equal(trace.weights[0][:1], start)
    assert not np.array_equal(trace.weights[1][0], start[0])


# Averaging.


@pytest.mark.parametrize("start", [0, 1])
def test_ema_and_swa_equal_numpy(data, start):
    """Worked on the weights that the steps left, those before `start` epochs are over left out."""
    for rule in (EMA(decay=0.75, start=start), SWA(start=start)):
        trace = _Trace()
        distiller = _fit(data, trace, epochs=3, averaging=rule)
        if isinstance(rule, EMA):
            entering = trace.weights[STEPS * start :]
            expected = entering[0]
            for weights in entering[1:]:
                expected = [0.75 * a + 0.25 * w for a, w in zip(expected, weights, strict=True)]
        else:
            ends = trace.weights[STEPS - 1 :: STEPS][start:]
            expected = [np.mean(each, axis=0) for each in zip(*ends, strict=True)]
        assert int(distiller.averages.taken.numpy()) == (
            STEPS * (3 - start) if isinstance(rule, EMA) else 3 - start
        )
        for ours, theirs in zip(distiller.averages.values, expected, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6, atol=1e-7)


def test_before_it_begins_the_average_is_the_student(data):
    for rule in (EMA(start=1), SWA(start=1)):
        distiller = _fit(data, epochs=1, averaging=rule)
        student = [v.numpy() for v in distiller.student.trainable_variables]
        _equal([v.numpy() for v in distiller.averages.values], student)


def test_steps_that_change_nothing_do_not_enter_the_average(data):
    """Two batches an update: after 3 of them, one update was averaged."""
    distiller = _fit(data, epochs=1, gradient_accumulation_steps=2, averaging=EMA(decay=0.5))
    assert int(distiller.averages.taken.numpy()) == 1


def test_an_average_changes_no_step(data):
    plain = _fit(data)
    averaged = _fit(data, averaging=EMA())
    _equal(averaged.student.get_weights(), plain.student.get_weights())
    _equal(
        [v.numpy() for v in averaged.optimizer.variables],
        [v.numpy() for v in plain.optimizer.variables],
    )
    assert len(averaged.variables) == len(plain.variables) + len(
        plain.student.trainable_variables
    ) + 1  # fmt: skip


def test_batch_statistics_equal_numpy():
    """BatchNorm first: its statistics are those of the images, by batches of 3 and 2."""
    inputs = keras.Input((2, 2, 2))
    conv = keras.layers.Conv2D(3, 1)
    hidden = keras.layers.BatchNormalization()(conv(keras.layers.BatchNormalization()(inputs)))
    net = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(hidden)))
    images = np.random.RandomState(0).rand(5, 2, 2, 2).astype(np.float32)
    batches = [images[:3], images[3:]]
    kernel = conv.get_weights()[0][0, 0]
    found = BatchStatistics(net).over(
        [tf.constant(b) for b in batches],
        [v.numpy() for v in net.trainable_variables],
        [v.numpy() for v in net.non_trainable_variables],
    )
    expected = np.zeros((2, 2)), np.zeros((2, 3))
    for batch in batches:
        flat = batch.reshape(-1, 2)
        hidden = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3) @ kernel
        for total, values in zip(expected, (flat, hidden), strict=True):
            total += len(batch) / 5 * np.stack([values.mean(0), values.var(0, ddof=1)])
    assert sorted(found) == [0, 1, 2, 3]
    for i in range(4):
        np.testing.assert_allclose(found[i], expected[i // 2][i % 2], rtol=1e-4, atol=1e-5)
    # The net itself did not move.
    _equal(net.layers[1].get_weights()[2:], [np.zeros(2), np.ones(2)])


def test_the_validated_student_has_averages_and_their_statistics(data):
    distiller = _fit(data, averaging=EMA(decay=0.5, batch_norm_examples=20))
    setting = {"batch_size": 16, "seed": 7, "strategy": tf.distribute.get_strategy()}
    model, refresh = validated_student(distiller, data, **setting)
    refresh()
    _equal(
        [v.numpy() for v in model.trainable_variables],
        [v.numpy() for v in distiller.averages.values],
    )
    first = model.get_weights()
    refresh()
    _equal(model.get_weights(), first)
    statistics = [v.numpy() for v in model.non_trainable_variables]
    theirs = [v.numpy() for v in distiller.student.non_trainable_variables]
    assert not any(np.array_equal(a, b) for a, b in zip(statistics, theirs, strict=True))
    plain = _fit(data, epochs=1)
    assert validated_student(plain, data, **setting)[0] is plain.student


# Whole stages: what is saved, resuming and patience.


def _train(stage, folder, data, preemption=None):
    setting = RunContext(data, THREAT, preemption=preemption or Preemption())
    return train(stage, {}, folder, setting, seed=7)


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_averaged_student_is_what_is_saved(data, tmp_path, select):
    changes = {"averaging": EMA(decay=0.5), "epochs": 1, "select": select}
    _train(dataclasses.replace(STAGE, **changes), tmp_path, data)
    saved = keras.models.load_model(tmp_path / "student.keras", compile=False).get_weights()
    distiller = _fit(data, epochs=1, averaging=EMA(decay=0.5))
    model, refresh = validated_student(
        distiller, data, batch_size=16, seed=7, strategy=tf.distribute.get_strategy()
    )
    refresh()
    _equal(saved, model.get_weights())
    assert any(
        np.abs(ours - theirs).max() > 1e-2
        for ours, theirs in zip(saved, distiller.student.get_weights(), strict=True)
    )


def test_a_stage_that_is_cut_off_ends_in_the_same_average(data, tmp_path):
    stage = dataclasses.replace(
        STAGE, averaging=EMA(decay=0.9), weight_perturbation=0.01, checkpoint_every=1
    )
    _train(stage, tmp_path / "whole", data)
    with pytest.raises(Preempted):
        _train(stage, tmp_path / "broken", data, PreemptedAt(4))
    _train(stage, tmp_path / "broken", data)
    ours, theirs = (
        keras.models.load_model(tmp_path / name / "student.keras", compile=False).get_weights()
        for name in ("broken", "whole")
    )
    _equal(ours, theirs)
    for name in ("metrics.jsonl", "stage.json"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_patience_ends_a_stage_and_survives_a_cut(data, tmp_path, capsys):
    """At a rate of next to 0 no validation beats the first; patience 2 ends after epoch 3."""
    stage = dataclasses.replace(STAGE, epochs=9, learning_rate=1e-30, patience=2)
    # BatchNorm's statistics would move the accuracy.
    stage = dataclasses.replace(
        stage, model=lambda s, c: small_cnn(s, c, widths=(4,), dense=4, batch_normalization=False)
    )
    whole = _train(stage, tmp_path / "whole", data)
    assert whole["epochs"] == 3 and whole["steps"] == 9 and whole["best"]["epoch"] == 1
    assert whole["stopped_early"] == {"planned_epochs": 9, "patience": 2}
    assert (
        "student: stops after epoch 3 of 9: none of the last 2 validations was better than that of "
        "epoch 1." in capsys.readouterr().err
    )
    # Cut off at the end of epoch 2, and once more at the very end of epoch 3.
    for asked in (5, 2):
        with pytest.raises(Preempted):
            _train(stage, tmp_path / "broken", data, PreemptedAt(asked))
    assert _train(stage, tmp_path / "broken", data) == whole


def test_patience_waits_for_the_average(data, tmp_path):
    """Epoch 4 is the first that is averaged; patience 2 counts the validations of 5 and 6."""
    stage = dataclasses.replace(STAGE, epochs=9, learning_rate=1e-30, patience=2)
    stage = dataclasses.replace(
        stage,
        averaging=SWA(start=3),
        model=lambda s, c: small_cnn(s, c, widths=(4,), dense=4, batch_normalization=False),
    )
    assert _train(stage, tmp_path / "run", data)["epochs"] == 6


def test_validations_before_patience_ends(data):
    validation = Validation(data.validation, None, None, None, epochs=9, patience=2)
    assert validation.notes == {"best": {}, "last": {}, "worse": 0} and not validation.exhausted
    validation.restore({"best": {}, "last": {}, "worse": 2})
    assert validation.exhausted


# Labels and step sizes.


def test_smoothed_cross_entropy_by_hand():
    # p = (3/4, 1/4), label 0, smoothing 0.2: y = (0.9, 0.1); 0.9 log(4/3) + 0.1 log 4 = 0.397543.
    logits, labels = tf.constant([[np.log(3.0), 0.0]], tf.float32), tf.constant([0])
    smoothed = cross_entropy(logits, labels, smoothing=0.2)
    np.testing.assert_allclose(smoothed, [0.397543], atol=1e-6)
    _equal([cross_entropy(logits, labels, smoothing=0.0)], [cross_entropy(logits, labels)])


def test_smoothing_is_of_the_terms_and_not_of_the_attack(data):
    images, labels = (
        tf.constant(data.train.images[:4] / 255.0, tf.float32),
        tf.constant([0, 1, 2, 0]),
    )
    seeds = tf.zeros([4, 2], tf.int32)
    keras.utils.set_random_seed(3)
    net = _net()
    hard, smooth = Trades(net), Trades(net, label_smoothing=0.3)
    _equal(smooth.perturb(images, labels, seeds, {}), hard.perturb(images, labels, seeds, {}))
    logits = tf.random.stateless_normal([4, 3], [0, 1])
    views = {"clean": logits, "adversarial": logits}
    np.testing.assert_allclose(
        smooth.terms(labels, views, {})["cross_entropy"],
        cross_entropy(logits, labels, smoothing=0.3),
    )


def test_scheduled_step_size_and_epsilon(data):
    images, labels = (
        tf.constant(data.train.images[:4] / 255.0, tf.float32),
        tf.constant([0, 1, 2, 0]),
    )
    seeds = tf.zeros([4, 2], tf.int32)
    keras.utils.set_random_seed(3)
    net = _net()
    # Started at the image itself the divergence of TRADES has no slope.
    half = PGD(num_steps=2, relative_step_size=0.125, start="gaussian")
    whole = PGD(num_steps=2, relative_step_size=0.25, start="gaussian")
    scaled = with_step_scaled(whole, tf.constant(0.5))
    _equal(
        [scaled(net, images, labels, threat=THREAT, seeds=seeds)],
        [half(net, images, labels, threat=THREAT, seeds=seeds)],
    )
    steps = [whole.relative_step_size, with_step_scaled(FGSM(), 0.5).relative_step_size]
    np.testing.assert_array_equal(steps, [0.25, 0.5])
    # In a distiller: epoch 1 of a warm-up over 2 is half of the step, at the same epsilon.
    scheduled = Trades(
        net, attack=whole, context=TrainingContext(THREAT, step_size_schedule=Warmup(2))
    )
    scheduled.steps_done.assign(1)
    plain = Trades(net, attack=half, context=TrainingContext(THREAT, step_size_schedule=Constant()))
    _equal(
        [scheduled.perturb(images, labels, seeds, {})], [plain.perturb(images, labels, seeds, {})]
    )
    # So with epsilon: half of 0.1, and the whole once the warm-up is over.
    growing = Trades(net, attack=whole, context=TrainingContext(THREAT, Warmup(2)))
    for epoch, epsilon in ((1, 0.05), (2, 0.1), (7, 0.1)):
        growing.steps_done.assign(epoch)
        context = TrainingContext(ThreatModel("linf", epsilon))
        fixed = Trades(net, attack=whole, context=context)
        moved = growing.perturb(images, labels, seeds, {})
        _equal([moved], [fixed.perturb(images, labels, seeds, {})])
        largest = np.abs(moved - images).max()
        assert largest == pytest.approx(0.5 * epsilon, rel=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _stage(patience=0), "student/Stage.patience is 0; give a whole number of validat"),
        (lambda: _stage(weight_perturbation=-1.0), "weight_perturbation is -1.0; give a share"),
        (lambda: _stage(weight_perturbation=float("nan")), "weight_perturbation is nan; give"),
        (lambda: _stage(weight_perturbation_start=0.5), "perturbation_start is 0.5; give a whole"),
        (
            lambda: _stage(epochs=6, weight_perturbation=0.1, weight_perturbation_start=6),
            "weight_perturbation_start is 6; the stage ends after 6 epochs, before it begins",
        ),
        (
            lambda: _stage(epochs=6, averaging=SWA(start=215)),
            "batch_norm_examples=None); the stage ends after 6 epochs, before it begins: start",
        ),
        (lambda: _stage(gradient_matching=-1.0), "gradient_matching is -1.0; give a weight (1 in"),
        (
            lambda: _stage(on_overfitting="stop", validation_attack=None),
            "Stage.on_overfitting is 'stop'; set Stage.validation_attack, under which it shows.",
        ),
        (lambda: _stage(averaging=EMA), "give @averaging.EMA() or @averaging.SWA(), with (), or"),
        (lambda: _stage(step_size_schedule=Warmup), "Stage.step_size_schedule is a factory; write"),
        (lambda: EMA(decay=1.0), "EMA.decay is 1.0; give a number from 0 to below 1."),
        (lambda: SWA(start=-1), "SWA.start is -1; give a whole number of epochs."),
        (lambda: EMA(batch_norm_examples=0), "EMA.batch_norm_examples is 0; give a whole number"),
        (lambda: Natural(_net(), label_smoothing=1.0), "label_smoothing is 1.0; give a number"),
        (lambda: ARD(_net(), {"robust": _net()}, label_smoothing=0.1), "label_smoothing is 0.1, b"),
        (
            lambda: Trades(
                _net(),
                attack=AutoAttack(),
                context=TrainingContext(step_size_schedule=Warmup(2)),
            ),
            "Trades's attack has no relative_step_size for Stage.step_size_schedule to scale; take",
        ),
    ],
)  # fmt: skip
def test_refusals(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def _stage(**changes):
    return dataclasses.replace(STAGE, **changes)
