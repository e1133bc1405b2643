"""The rows of `runs/compare/ablations.gin`: each builds and steps; neutral ones are equal."""

from __future__ import annotations

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.config import gin_files
from mtard_tf.testing import tiny_data

ROWS = (
    "mtard",
    "bmtard",
    "fixed_weights",
    "entropy_balance",
    "fixed_temperatures",
    "one_teacher",
    "three_teachers",
)
# Small students and one step of the attack: what is tested is the balance.
TINY = (
    "models.small_cnn.widths = (4,)",
    "models.small_cnn.dense = 4",
    *(
        f"{row}/distillers.{kind}.attack = @attacks.fgsm()"
        for row in ROWS
        for kind in ("mtard", "bmtard")
    ),
)


@pytest.fixture(scope="module")
def data():
    return tiny_data(8, 4, 4)


def _steps(data, name, *bindings):
    """Two steps of a row's student, from untrained teachers: weights, and logs of both."""
    gin_files.parse(["runs/compare/ablations.gin"], [*TINY, *bindings])
    stages = {stage.name: stage for stage in gin_files.experiment().stages}
    student = stages[f"{name}_s0"]
    teachers = {}
    for role, source in sorted(student.teachers.items()):
        keras.utils.set_random_seed(len(role))
        teachers[role] = stages[source].model(data.image_shape, data.num_classes)
    distiller = student.build(data, teachers, gin_files.experiment().threat, 7)
    batch = (
        tf.constant(data.train.images / 255.0, tf.float32),
        tf.constant(data.train.labels),
        tf.range(8, dtype=tf.int64),
    )
    logs = [distiller.train_step(batch) for _ in range(2)]
    return distiller.student.get_weights(), [{k: float(v) for k, v in row.items()} for row in logs]


def _equal(ours, theirs):
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def stepped(data):
    return {name: _steps(data, name) for name in ROWS}


def test_all_rows_share_set_epsilon_and_student():
    gin_files.parse(["runs/compare/ablations.gin"])
    described = gin_files.experiment()
    students = described.stages[3:]
    assert [stage.name for stage in students] == [f"{row}_s{i}" for i in (0, 1) for row in ROWS]
    for stage in students:
        with gin.config_scope(stage.scope):
            assert stage.model((28, 28, 1), 10).count_params() == 29_602
        assert stage.threat(described.threat).epsilon == pytest.approx(0.1, abs=1e-12)
    assert {stage.epochs for stage in students} == {6}


def test_what_each_balances(stepped):
    second = {name: logs[1] for name, (_, logs) in stepped.items()}
    for name, row in second.items():
        weights = [v for k, v in row.items() if k.startswith("weight_")]
        assert sum(weights) == pytest.approx(1.0, abs=1e-6), name
        moved = any(w != pytest.approx(1 / len(weights), abs=1e-7) for w in weights)
        assert moved == (name not in ("fixed_weights", "entropy_balance", "one_teacher")), name
    # The surer of two teachers is softened, from 1 upwards by two steps.
    for name in ("bmtard", "entropy_balance"):
        row = second[name]
        assert max(row["temperature_clean"], row["temperature_robust"]) == pytest.approx(1.004)
    fixed = [second["fixed_temperatures"][f"temperature_{role}"] for role in ("clean", "robust")]
    np.testing.assert_array_equal(fixed, [2.0, 1.0])
    assert "temperature_clean" not in second["mtard"]
    assert {k for k in second["three_teachers"] if k.startswith("kl_")} == {
        "kl_robust",
        "kl_half",
        "kl_clean",
    }


def test_one_teacher_is_its_own_term(stepped):
    for row in stepped["one_teacher"][1]:
        np.testing.assert_array_equal([row["loss"], row["weight_robust"]], [row["kl_robust"], 1.0])
        assert "kl_clean" not in row


def test_a_balance_of_rate_0_is_the_row_without_it(data, stepped):
    still = _steps(data, "bmtard", "bmtard/distillers.bmtard.temperature_rate = 0.0")
    _equal(still, stepped["mtard"])
    neither = _steps(
        data, "entropy_balance", "entropy_balance/distillers.bmtard.temperature_rate = 0.0"
    )
    _equal(neither, stepped["fixed_weights"])
    unweighed = _steps(data, "mtard", "mtard/distillers.mtard.weight_rate = 0.0")
    _equal(unweighed, stepped["fixed_weights"])
    at_one = "{'clean': 1.0, 'robust': 1.0}"
    by_hand = f"fixed_temperatures/distillers.bmtard.initial_temperatures = {at_one}"
    _equal(_steps(data, "fixed_temperatures", by_hand), stepped["mtard"])


def test_one_teacher_keeps_its_temperature(data):
    alone = (
        "one_teacher/Stage.distiller = @distillers.bmtard",
        "one_teacher/distillers.bmtard.teacher_views = {'robust': 'adversarial'}",
        "one_teacher/distillers.bmtard.initial_temperatures = {'robust': 3.0}",
    )
    _, logs = _steps(data, "one_teacher", *alone)
    found = [logs[1][f"{name}_robust"] for name in ("temperature", "weight")]
    np.testing.assert_array_equal(found, [3.0, 1.0])


def test_a_view_without_a_role_is_refused(data):
    with pytest.raises(ValueError, match=r"teacher_views is \{\}; give at least one role, each"):
        _steps(data, "one_teacher", "one_teacher/distillers.mtard.teacher_views = {}")
