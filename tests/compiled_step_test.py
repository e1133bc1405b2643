"""Training steps compiled by XLA: the plain ones, or one line that says why not."""

from __future__ import annotations

import dataclasses
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.attacks import seeds
from mtard_tf.attacks.pgd import PGD
from mtard_tf.distiller import compiled_step
from mtard_tf.experiment import stage_checks
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.adversarial_training.trades import Trades
from mtard_tf.plugins.multi_teacher.bmtard import BMTARD
from mtard_tf.running import checkpoints, stage_run
from mtard_tf.running.context import RunContext
from mtard_tf.schedules import CONSTANT
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)


def _net(shape=(8, 8, 3), classes=3):
    return small_cnn(shape, classes, widths=(4,), dense=4, batch_normalization=True)


def _bmtard(*args, **kwargs):
    return BMTARD(*args, attack=PGD(num_steps=2, relative_step_size=0.5), **kwargs)


def _trades(*args, **kwargs):
    return Trades(*args, attack=PGD(num_steps=2, relative_step_size=0.5), **kwargs)


def _stage(distiller, batch_size=16, **changes):
    return Stage(
        "net",
        distiller,
        _net,
        epochs=1,
        batch_size=batch_size,
        optimizer=sgd,
        learning_rate=0.05,
        learning_rate_schedule=CONSTANT,
        validation_attack=None,
        **changes,
    )


@pytest.fixture(scope="module")
def data():
    return tiny_data()


def _built(data, distiller, **changes):
    keras.utils.set_random_seed(1)
    teachers = {"clean": _net(), "robust": _net()} if distiller is _bmtard else {}
    paths = {role: f"./{role}.keras" for role in teachers}
    return _stage(distiller, teachers=paths, **changes).build(data, teachers, THREAT, 7)


def _two_steps(distiller, data):
    batch = [*compiled_step._batch(distiller, data, 16)]
    batches = tf.data.Dataset.from_tensors(tuple(batch)).repeat()
    distiller.fit(batches, steps_per_epoch=2, epochs=1, shuffle=False, verbose=0)
    return checkpoints.values(distiller)


@pytest.mark.parametrize("kind", [_bmtard, pytest.param(_trades, marks=pytest.mark.slow)])
def test_a_compiled_step_is_the_plain_one(data, kind) -> None:
    compiled, plain, said = _built(data, kind), _built(data, kind), []
    before = checkpoints.values(compiled)
    assert compiled_step.choose(True, compiled, data, 16, said.append)
    assert said[0].startswith("XLA compiles the step (first loss ") and len(said) == 1
    for path, value in checkpoints.values(compiled).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    for setting in (None, False):
        assert not compiled_step.choose(setting, plain, data, 16, said.append)
    assert compiled.jit_compile and plain.jit_compile is False and len(said) == 1
    ours, theirs = _two_steps(compiled, data), _two_steps(plain, data)
    moved = max(np.abs(theirs[path] - before[path]).max() for path in before)
    assert moved > 1e-2
    for path, value in theirs.items():
        np.testing.assert_allclose(ours[path], value, rtol=0, atol=5e-3, err_msg=path)


# Its teacher answers with a class more than the student.
ALL = sorted({*registry.names("distillers")} - {"extended_defensive_experimental"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_method_is_compiled_into_the_same_step(data, name) -> None:
    kind = registry.target("distillers", name)
    teachers = {role: _net() for role in kind.teacher_views}
    paths = {role: f"./{role}.keras" for role in teachers}
    distiller = _stage(kind, teachers=paths).build(data, teachers, THREAT, 7)
    difference = compiled_step._difference(distiller, compiled_step._batch(distiller, data, 16))
    assert difference[0] == ""
    loss, update = map(float, re.findall(r"(\S+)(?:,| apart)", difference[1]))
    assert loss < 1e-4 and update < 1e-2


def test_one_gpu_has_its_step_compiled(data, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0"])
    monkeypatch.setattr(compiled_step, "_difference", lambda *_: (asked.append(1), ("", ""))[1])
    distiller = _built(data, Natural)
    assert compiled_step.choose(None, distiller, data, 16, asked.append)
    assert asked == [1, "XLA compiles the step."]
    assert not compiled_step.choose(False, distiller, data, 16, asked.append)
    assert not distiller.jit_compile


class InPython(Natural):
    def terms(self, labels, student, teachers):
        (term,) = super().terms(labels, student, teachers).values()
        zeros = tf.numpy_function(np.zeros_like, [term], tf.float32)
        return {"cross_entropy": term + tf.ensure_shape(zeros, [None])}


class Random(Natural):
    def terms(self, labels, student, teachers):
        terms = super().terms(labels, student, teachers)
        drawn = tf.random.stateless_uniform(tf.shape(labels), tf.stack([1, tf.shape(labels)[0]]))
        return {k: v * drawn for k, v in terms.items()}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (InPython, "XLA does not compile the step (no kernel for PyFunc); it trains without."),
        (Random, "XLA computes another step (first loss "),
    ],
)
def test_what_xla_does_not_compute_trains_without_it(data, kind, message) -> None:
    distiller, said = _built(data, kind), []
    before = checkpoints.values(distiller)
    assert not compiled_step.choose(True, distiller, data, 16, said.append)
    (line,) = said
    assert line.startswith(message) and line.endswith("; it trains without.")
    assert not distiller.jit_compile
    for path, value in checkpoints.values(distiller).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)


def test_random_starts_are_the_same_under_xla() -> None:
    rows = seeds.image_seeds(7, tf.range(3, dtype=tf.int64))
    for draw, apart in ((seeds.uniform, 0), (seeds.normal, 1e-5)):
        plain, compiled = (
            tf.function(lambda s, draw=draw: draw(s, [5, 1]), autograph=False, jit_compile=jit)
            for jit in (None, True)
        )
        assert np.ptp(plain(rows)) > 0.1
        np.testing.assert_allclose(compiled(rows), plain(rows), rtol=0, atol=apart)


def test_a_stage_notes_that_xla_compiled_it(data, tmp_path, capsys) -> None:
    stage = _stage(Natural, jit_compile=True, batch_size=20)
    found = stage_run.train(stage, {}, tmp_path / "net", RunContext(data, THREAT), seed=1)
    assert found["computed_on"][0].endswith(", XLA")
    assert json.loads((tmp_path / "net" / "stage.json").read_text("utf-8")) == found
    assert "net: XLA compiles the step (first loss " in capsys.readouterr().err


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(ValueError, match="net/Stage.jit_compile is 'auto'; use None or False or T"):
        _stage(Natural, jit_compile="auto")
    stage = _stage(Natural, jit_compile=True)
    stage_checks.check_devices(stage)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        stage_checks.check_devices(dataclasses.replace(stage, jit_compile=None))
        with pytest.raises(ValueError) as caught:
            stage_checks.check_devices(stage)
    assert str(caught.value) == (
        "net/Stage.jit_compile is True; XLA compiles the step of one device only: leave it out."
    )
