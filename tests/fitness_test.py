"""A teacher's fitness: numbers of nets whose answers are known, the command, and a stage's note."""

from __future__ import annotations

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from mtard_tf.commands import plan as command
from mtard_tf.commands import requests
from mtard_tf.data.image_data import Split
from mtard_tf.models.model_files import file_digest
from mtard_tf.planning import fitness
from mtard_tf.planning.flops import PlanError
from mtard_tf.running.teacher_check import FITNESS, Fitness, known_fitness, note_fitness
from mtard_tf.threat import ThreatModel

# Grey values, of class 1 above 0.5 and class 0 below; the last one is labelled wrongly.
VALUES, LABELS = (0.1, 0.45, 0.55, 0.9, 0.9), (0, 0, 1, 1, 0)
IMAGES = np.round(255 * np.array(VALUES)).astype(np.uint8).reshape(5, 1, 1, 1)
SPLIT = Split(IMAGES, np.array(LABELS, np.int32))
THREAT = ThreatModel(epsilon=0.2)


def _threshold(at: float, slope: float = 10.0) -> keras.Model:
    """Logits (0, slope (x - at))."""
    net = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    net.set_weights([np.array([[0.0, slope]]), np.array([0.0, -slope * at])])
    return net


def _entropy(values, at, slope) -> np.ndarray:
    p = 1 / (1 + np.exp(-slope * (np.array(values) - at)))
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


def test_numbers_of_nets_that_compare_with_a_threshold() -> None:
    on_reference = fitness.attacked(_threshold(0.5), SPLIT, THREAT)
    # 0.1 moves to 0.3, 0.45 to 0.65, 0.55 to 0.35, 0.9 to 0.7; the wrong one to 1.
    moved = [0.3, 0.65, 0.35, 0.7, 1.0]
    np.testing.assert_allclose(on_reference.images.ravel(), moved, atol=2e-3)
    np.testing.assert_array_equal(on_reference.lost, [False, True, True, False, True])
    found = fitness.measure(_threshold(0.68, 2.0), SPLIT, THREAT, on_reference)
    # Clean: 0.1, 0.45 and 0.9. Attacked itself: 0.9 - 0.2 stands, 0.45 + 0.2 as well.
    assert (found.clean, found.robust, found.transferred) == (0.6, 0.6, 0.6)
    values = IMAGES.ravel() / 255
    entropies = _entropy(values, 0.68, 2.0)
    assert found.entropy == pytest.approx(entropies.mean(), rel=1e-5)
    assert found.entropy_lost == pytest.approx(entropies[[1, 2, 4]].mean(), rel=1e-5)
    assert (found.lost, found.examples) == (0.6, 5)
    flat = fitness.measure(_threshold(0.5, 0.0), SPLIT, THREAT)
    assert flat.entropy == pytest.approx(math.log(2), rel=1e-6)
    assert flat.transferred is flat.entropy_lost is flat.lost is None


def test_a_reference_that_loses_nothing_has_no_entropy_there() -> None:
    easy = Split(IMAGES[[0, 3]], SPLIT.labels[[0, 3]])
    none = fitness.attacked(_threshold(0.5), easy, THREAT)
    assert fitness.measure(_threshold(0.5), easy, THREAT, none).entropy_lost is None


def test_the_command_measures_the_teachers_of_a_run_and_a_stage_says_it(
    tiny_run, tmp_path, capsys
) -> None:
    config, kept = (str(tiny_run / "config.gin"),), tiny_run
    asked = requests.Plan(config, teachers=True, run_dir=str(kept), reference="student", examples=4)
    rows = [line for line in command.run(asked).splitlines() if line.startswith("| robust")]
    assert len(rows) == 1 and rows[0].endswith("| 4 |") and " - " not in rows[0]
    known = known_fitness(kept)
    digest = file_digest(kept / "robust_teacher" / "student.keras")
    assert list(known) == [digest] and known[digest]["examples"] == 4
    stage = _Stage("student", {"robust": "robust_teacher"})
    capsys.readouterr()
    note_fitness(stage, kept, {"robust": digest})
    expected = Fitness(**known[digest]).line("student: teacher 'robust' (robust_teacher)")
    assert capsys.readouterr().err == f"{expected}\n"
    note_fitness(stage, kept, {"robust": "another"})
    note_fitness(stage, tmp_path, {"robust": digest})
    (kept / FITNESS).write_text(json.dumps({"teachers": {digest: {"clean": "high"}}}))
    note_fitness(stage, kept, {"robust": digest})
    assert capsys.readouterr().err == ""


@dataclasses.dataclass
class _Stage:
    name: str
    teachers: dict[str, str]


def test_a_line() -> None:
    measured = Fitness(500, 0.91, 0.5, 0.75, 0.8, 1.25, 0.4)
    assert measured.line("a") == (
        "a, on 500 validation images: clean 91.0%, under PGD-20 50.0%, entropy 0.75; 80.0% on "
        "attacks on the reference student, entropy 1.25 on the 40.0% that it loses."
    )
    assert dataclasses.replace(measured, transferred=None, entropy_lost=None).line("a") == (
        "a, on 500 validation images: clean 91.0%, under PGD-20 50.0%, entropy 0.75."
    )


def test_refusals(tiny_run, tmp_path) -> None:
    config = (str(tiny_run / "config.gin"),)
    with pytest.raises(PlanError, match="^--run_dir and --reference go with --teachers; add it"):
        command.run(requests.Plan(config, reference="student"))
    alone = ("Experiment.stages = ('clean_teacher',)",)
    with pytest.raises(PlanError, match="^No stage has a teacher 'robust', so there is none"):
        command.run(requests.Plan(config, alone, teachers=True))
    with pytest.raises(ValueError, match="student.keras is missing; run the stage 'robust_teac"):
        command.run(requests.Plan(config, teachers=True, run_dir=str(tmp_path)))
