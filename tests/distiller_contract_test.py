"""What every distiller does, whichever family it is of; a new one is tested by being registered.

Each is built in the setting `fashion_mini` with tiny nets and images, trained for a few steps on
one batch, and looked at by all tests.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.config import gin_files
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.models.small_cnn import small_cnn

STEPS = 6
BATCH = 8
IMAGE_SHAPE = (8, 8, 1)
TINY = (
    "models.small_cnn.widths = (4,)",
    "WIDE = (4,)",
    "models.small_cnn.dense = 8",
    "models.small_cnn.batch_normalization = True",
    "models.defensive_cnn.widths = (4, 4)",
    "models.defensive_cnn.dense = 8",
    "models.defensive_cnn.form = 'bethgelab'",  # the other needs larger images
    "models.defensive_cnn.dropout = 0.0",  # a new net draws other units
    f"Stage.batch_size = {BATCH}",
    "Stage.learning_rate = 0.01",
    "Stage.epsilon_schedule = @schedules.Constant()",
)
INTROSPECTIVE = ("iad", "iad2", "adaiad")
# What a distiller needs beside its name.
FURTHER = {
    "densely_guided": (
        "student/Stage.teachers = {'assistant': 'assistant', 'teacher': 'clean_teacher'}",
    ),
    "extended_defensive_experimental": (
        "student/Stage.model = @models.defensive_cnn",
        "student/models.defensive_cnn.outlier_class = True",
    ),
}
NAMES = registry.names("distillers")


@dataclasses.dataclass
class Trained:
    """A distiller after `STEPS` steps on one batch."""

    distiller: Distiller
    teachers: dict[str, keras.Model]
    batch: tuple[tf.Tensor, ...]
    started: list[list[np.ndarray]]  # weights of each trained net before the first step
    taught: dict[str, list[np.ndarray]]  # weights of each teacher before the first step
    logs: list[dict[str, float]]
    traces: int


class Shapes:
    """Stands in for a data set: what a stage reads of one to build its distiller."""

    image_shape = IMAGE_SHAPE
    train = range(1000)

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes


def build(name: str, classes: int, *bindings: str) -> tuple[Distiller, dict[str, keras.Model]]:
    """The last stage's distiller, with untrained teachers."""
    one_shard = f"distillers.{name}.attack_shards = 1"  # two make the graph twice as large
    # Else these few steps would end before the student trusts itself.
    begin = [f"student/distillers.{name}.begin = 0"] if name in INTROSPECTIVE else []
    chosen = [f"student/Stage.distiller = @distillers.{name}", *FURTHER.get(name, ())]
    gin_files.parse(["settings/fashion_mini.gin"], [*TINY, *chosen, one_shard, *begin, *bindings])
    experiment = gin_files.experiment()
    *_, stage = experiment.stages
    teachers = {
        role: small_cnn(IMAGE_SHAPE, classes, widths=(4,), dense=16, batch_normalization=True)
        for role in stage.teachers
    }
    return stage.build(Shapes(classes), teachers, experiment.threat, seed=0), teachers


def batch_of(classes: int) -> tuple[tf.Tensor, ...]:
    """Images, labels, ids; without tables all teachers are asked."""
    random = np.random.RandomState(0)
    return (
        tf.constant(random.rand(BATCH, *IMAGE_SHAPE), tf.float32),
        tf.constant(random.randint(0, classes, BATCH), tf.int32),
        tf.range(BATCH, dtype=tf.int64),
    )


def numbers(logs) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}


@pytest.fixture(scope="module", params=NAMES)
def trained(request) -> Trained:
    distiller, teachers = build(request.param, 10)
    batch = batch_of(10)
    started = [model.get_weights() for model in distiller.trained_models]
    taught = {role: teacher.get_weights() for role, teacher in teachers.items()}
    step = tf.function(distiller.train_step, autograph=False)
    logs = [numbers(step(batch)) for _ in range(STEPS)]
    traces = step.experimental_get_tracing_count()
    return Trained(distiller, teachers, batch, started, taught, logs, traces)


def test_steps_lower_the_loss(trained):
    first, *_, last = (logs["loss"] for logs in trained.logs)
    assert last < first


def test_terms_are_named_and_finite(trained):
    terms = trained.logs[0].keys() - {"loss", "non_finite"}
    assert terms, "only the loss is logged: terms() must name what it is made of"
    for logs in trained.logs:
        assert all(np.isfinite(value) for value in logs.values()), logs
        assert logs["non_finite"] == 0


def test_trained_nets_move_and_teachers_stay_to_the_bit(trained):
    for model, before in zip(trained.distiller.trained_models, trained.started, strict=True):
        assert any(np.any(a != b) for a, b in zip(model.get_weights(), before, strict=True))
    for role, teacher in trained.teachers.items():
        for ours, before in zip(teacher.get_weights(), trained.taught[role], strict=True):
            np.testing.assert_array_equal(ours, before)


def test_the_second_step_is_not_traced_anew(trained):
    assert trained.traces == 1


def test_everything_that_moves_is_in_a_checkpoint(trained):
    held = {id(variable) for variable in trained.distiller.variables}
    for model in trained.distiller.trained_models:
        assert {id(variable) for variable in model.variables} <= held
    # Not the teachers, which have files of their own.
    for teacher in trained.teachers.values():
        assert not {id(variable) for variable in teacher.variables} & held


def test_get_config_makes_the_same_distiller(trained):
    distiller = trained.distiller
    student = keras.models.clone_model(distiller.student)
    again = type(distiller)(student, trained.teachers, **distiller.get_config())
    assert again.get_config() == distiller.get_config()
    for model, weights in zip(again.trained_models, trained.started, strict=True):
        model.set_weights(weights)
    again.compile(optimizer=keras.optimizers.SGD(), jit_compile=False)
    logs = numbers(again.train_step(trained.batch))
    assert logs == pytest.approx(trained.logs[0], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_classes_in_mixed_precision(name):
    distiller, _ = build(name, 100, "Stage.precision = 'mixed_bfloat16'")
    logs = numbers(distiller.train_step(batch_of(100)))  # not compiled: that takes longer
    assert all(np.isfinite(value) for value in logs.values()), logs
    for model in distiller.trained_models:
        assert model.layers[-1].compute_dtype == "bfloat16"
        assert {v.dtype for v in model.trainable_variables} == {"float32"}
