"""Teachers' weights that climb W-Robust on validation, in place of the loss balance."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest

from mtard_tf.config import gin_files
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.plugins.multi_teacher.climbing import climbed_weights
from mtard_tf.plugins.multi_teacher.mtard import MTARD
from mtard_tf.running import experiment_run
from mtard_tf.testing import tiny_data

ROBUST_FIRST = np.array([True, False])


def test_the_direction_is_kept_while_the_score_rises_then_turned_and_halved() -> None:
    weights, step, last, path = np.array([0.5, 0.5]), 0.1, float("nan"), []
    for score in (0.60, 0.62, 0.61, 0.61, 0.58):
        weights, step = climbed_weights(
            weights, ROBUST_FIRST, step=step, score=score, last_score=last
        )
        last = score
        path.append([*weights, step])
    expected = [
        [0.6, 0.4, 0.1],  # nothing to compare with
        [0.7, 0.3, 0.1],
        [0.65, 0.35, -0.05],  # fell
        [0.6, 0.4, -0.05],  # did not
        [0.625, 0.375, 0.025],
    ]
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-12)


def test_weights_stay_in_their_bounds_and_views_share_theirs_as_before() -> None:
    weights, _ = climbed_weights(
        np.array([0.9, 0.1]), ROBUST_FIRST, step=0.2, score=0.5, last_score=0.4
    )
    np.testing.assert_allclose(weights, [0.95, 0.05], rtol=0, atol=1e-12)
    three, _ = climbed_weights(
        np.array([0.2, 0.5, 0.3]),
        np.array([True, False, True]),
        step=-0.1,
        score=0.5,
        last_score=0.4,
    )
    np.testing.assert_allclose(three, [0.16, 0.6, 0.24], rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def teachers():
    return {"clean": _net(), "robust": _net()}


def _net():
    data = tiny_data(4, 2, 2)
    return small_cnn(data.image_shape, data.num_classes, widths=(2,), dense=2)


def test_the_loss_balance_alone_keeps_no_state_of_it(teachers) -> None:
    kept = [v.path.split("/")[-1] for v in MTARD(_net(), teachers).non_trainable_variables]
    assert "balance_weights" in kept and "climb" not in kept
    assert not MTARD(_net(), teachers).follows_validation


def test_another_target_or_a_view_without_weight_is_refused(teachers) -> None:
    with pytest.raises(ValueError, match="^balance_target is 'best'; give 'pace' or 'w_robust'.$"):
        MTARD(_net(), teachers, balance_target="best")
    weights = {"clean": 1.0, "robust": 0.0}
    with pytest.raises(ValueError, match="adversarial images have weight 0; give teachers of both"):
        MTARD(_net(), teachers, balance_target="w_robust", initial_weights=weights)


def test_a_run_takes_a_step_after_each_validation_also_when_resumed_and_needs_one(
    tiny_run, tmp_path
) -> None:
    run_dir = tmp_path / "climbing"
    for teacher in ("clean_teacher", "robust_teacher"):
        shutil.copytree(tiny_run / teacher, run_dir / teacher)
    bindings = [
        "Stage.checkpoint_every = 2",
        "student/Stage.epochs = 3",
        "student/distillers.bmtard.balance_target = 'w_robust'",
    ]
    gin_files.parse([str(tiny_run / "config.gin")], bindings)
    stopped = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: 1 // (2 - epoch))
    with pytest.raises(ZeroDivisionError):
        experiment_run.run(
            gin_files.experiment(), run_dir, gin_files.text(), only=["student"], callbacks=[stopped]
        )
    experiment_run.run(gin_files.experiment(), run_dir, gin_files.text())  # resumes
    lines = (run_dir / "student" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "epoch"]
    weights, step, last = np.array([0.5, 0.5]), 0.1, float("nan")
    expected = []
    for row in rows:
        expected.append(weights)
        score = row["validation_w_robust"]
        weights, step = climbed_weights(
            weights, ROBUST_FIRST, step=step, score=score, last_score=last
        )
        last = score
    found = [[row["weight_robust"], row["weight_clean"]] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert [row["epoch"] for row in rows] == [1, 2, 3] and found[2] != found[1] != found[0]

    gin_files.parse(
        [str(tiny_run / "config.gin")], [*bindings, "student/Stage.validation_attack = None"]
    )
    with pytest.raises(ValueError, match="student/Stage.validation_attack is None; set one: the"):
        experiment_run.run(gin_files.experiment(), tmp_path / "none", gin_files.text())
