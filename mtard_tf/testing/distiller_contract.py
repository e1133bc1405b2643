"""What holds for every distiller, of any family.

Each is built in the setting `fashion_mini` with tiny nets and images, trained for a few steps on
one batch, and examined by all tests.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.config import gin_files
from mtard_tf.data.image_data import ImageData, Split
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
    f"Stage.batch_size = {BATCH}",
    "Stage.attack_shards = 1",  # two make the graph twice as large
    "Stage.learning_rate = 0.01",
    "Stage.epsilon_schedule = @schedules.Constant()",
)


@dataclasses.dataclass
class Trained:
    """A distiller after `STEPS` steps on one batch.

    Attributes:
      distiller: the distiller.
      teachers: role -> model.
      batch: images `[8, 8, 8, 1]`, labels `[8]`, ids `[8]`.
      started: weights of each trained net before the first step.
      taught: weights of each teacher before the first step.
      logs: what each step returned.
      traces: how many times the step was traced.
    """

    distiller: Distiller
    teachers: dict[str, keras.Model]
    batch: tuple[tf.Tensor, ...]
    started: list[list[np.ndarray]]
    taught: dict[str, list[np.ndarray]]
    logs: list[dict[str, float]]
    traces: int


def shapes(classes: int) -> ImageData:
    """Black images: a stage reads sizes only of its data when it builds a distiller."""
    split = Split(np.zeros((1000, *IMAGE_SHAPE), np.uint8), np.zeros(1000, np.int32))
    return ImageData("black", tuple(map(str, range(classes))), split, split, split)


def build(name: str, classes: int, *bindings: str) -> tuple[Distiller, dict[str, keras.Model]]:
    """The distiller of the stage `student`, with untrained teachers."""
    chosen = f"student/Stage.distiller = @distillers.{name}"
    gin_files.parse(["settings/fashion_mini.gin"], [*TINY, chosen, *bindings])
    experiment = gin_files.experiment()
    *_, stage = experiment.stages
    keras.utils.set_random_seed(0)
    teachers = {
        role: small_cnn(IMAGE_SHAPE, classes, widths=(4,), dense=16, batch_normalization=True)
        for role in stage.teachers
    }
    return stage.build(shapes(classes), teachers, experiment.threat, seed=0), teachers


def batch_of(classes: int) -> tuple[tf.Tensor, ...]:
    """Images, labels, ids; without tables all teachers are asked."""
    random = np.random.RandomState(0)
    return (
        tf.constant(random.rand(BATCH, *IMAGE_SHAPE), tf.float32),
        tf.constant(random.randint(0, classes, BATCH), tf.int32),
        tf.range(BATCH, dtype=tf.int64),
    )


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}


class DistillerContract:
    """Subclass it as `TestMine` and name registered distillers.

    Attributes:
      names: as registered, without the kind: `("my_distiller",)`.
      bindings: name -> gin bindings that the distiller needs beside the setting `fashion_mini`,
        such as `"student/Stage.teachers = {'teacher': 'clean_teacher'}"`.
    """

    names: ClassVar[tuple[str, ...]] = ()
    bindings: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "distiller_name" in metafunc.fixturenames:
            metafunc.parametrize("distiller_name", self.names, scope="class")

    @classmethod
    def build(cls, name: str, classes: int, *more: str) -> tuple[Distiller, dict[str, Any]]:
        return build(name, classes, *cls.bindings.get(name, ()), *more)

    @classmethod
    @functools.lru_cache(maxsize=1)  # pytest runs a name's tests together
    def trained(cls, name: str) -> Trained:
        distiller, teachers = cls.build(name, 10)
        batch = batch_of(10)
        started = [model.get_weights() for model in distiller.trained_models]
        taught = {role: teacher.get_weights() for role, teacher in teachers.items()}
        step = tf.function(distiller.train_step, autograph=False)
        logs = [numbers(step(batch)) for _ in range(STEPS)]
        traces = step.experimental_get_tracing_count()
        return Trained(distiller, teachers, batch, started, taught, logs, traces)

    def test_steps_lower_the_loss(self, distiller_name: str) -> None:
        trained = self.trained(distiller_name)
        first, *_, last = (logs["loss"] for logs in trained.logs)
        assert last < first

    def test_terms_are_named_and_finite(self, distiller_name: str) -> None:
        trained = self.trained(distiller_name)
        terms = trained.logs[0].keys() - {"loss", "non_finite"}
        assert terms, "only the loss is logged: terms() must name what it is made of"
        for logs in trained.logs:
            np.testing.assert_array_less(np.abs([*logs.values()]), np.inf, str(logs))
            assert logs["non_finite"] == 0

    def test_trained_nets_move_and_teachers_stay_to_the_bit(self, distiller_name: str) -> None:
        trained = self.trained(distiller_name)
        for model, before in zip(trained.distiller.trained_models, trained.started, strict=True):
            assert any(np.any(a != b) for a, b in zip(model.get_weights(), before, strict=True))
        for role, teacher in trained.teachers.items():
            for ours, theirs in zip(teacher.get_weights(), trained.taught[role], strict=True):
                np.testing.assert_array_equal(ours, theirs)

    def test_the_second_step_is_not_traced_anew(self, distiller_name: str) -> None:
        trained = self.trained(distiller_name)
        assert trained.traces == 1

    def test_everything_that_moves_is_in_a_checkpoint(self, distiller_name: str) -> None:
        trained = self.trained(distiller_name)
        held = {id(variable) for variable in trained.distiller.variables}
        for model in trained.distiller.trained_models:
            assert {id(variable) for variable in model.variables} <= held
        # Not the teachers, which have files of their own.
        for teacher in trained.teachers.values():
            assert not {id(variable) for variable in teacher.variables} & held

    def test_what_the_stage_gives_reaches_the_distiller(self, distiller_name: str) -> None:
        context = self.trained(distiller_name).distiller.context
        assert context.attack_shards == 1 and context.steps_per_epoch == 1000 // BATCH

    def test_a_hundred_classes_in_mixed_precision(self, distiller_name: str) -> None:
        distiller, _ = self.build(distiller_name, 100, "Stage.precision = 'mixed_bfloat16'")
        inner = distiller.inner_attack
        if inner is not None and getattr(inner.attack, "num_steps", 0) > 2:
            inner.attack = dataclasses.replace(inner.attack, num_steps=2)  # type: ignore[type-var]
        logs = numbers(distiller.train_step(batch_of(100)))  # not compiled: that takes longer
        np.testing.assert_array_less(np.abs([*logs.values()]), np.inf, str(logs))
        for model in distiller.trained_models:
            assert model.layers[-1].compute_dtype == "bfloat16"
            assert {v.dtype for v in model.trainable_variables} == {"float32"}
