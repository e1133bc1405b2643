"""What an audit notes of its attacks' cost, and where a page shows it."""

from __future__ import annotations

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.square import Square
from mtard_tf.auditing import costs
from mtard_tf.auditing.batch_results import BatchRunner, ResultsFile
from mtard_tf.auditing.compiled import CompiledModel
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.image_data import Split
from mtard_tf.reporting import audit_view, pages
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel(epsilon=0.1)


def _model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, name="logits")]
    )


def _batch(count: int = 16) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    images = tf.constant(np.random.default_rng(0).random((count, 4, 4, 1), "float32"))
    return images, tf.zeros(count, tf.int32), tf.range(count, dtype=tf.int64)


@pytest.mark.parametrize(
    ("attack", "each"),
    [(FGSM(), 1), (PGD(num_steps=7), 7), (Square(num_queries=5, restarts=1), None)],
)
def test_every_image_that_goes_through_the_model_is_counted(attack, each) -> None:
    counted, uncounted = (CompiledModel(_model(), THREAT) for _ in range(2))
    uncounted.model.set_weights(counted.model.get_weights())
    counted.count_passes()
    images, labels, ids = _batch(16)
    found, _ = counted.attacked(attack, images, labels, ids)
    once = counted.passes()
    if each is not None:
        assert once == 16 * each
    assert 16 <= once <= 16 * 8
    counted.attacked(attack, images, labels, ids)
    assert counted.passes() == 2 * once
    # Counting changes no bit of what the attack finds.
    np.testing.assert_array_equal(found, uncounted.attacked(attack, images, labels, ids)[0])
    assert uncounted.passes() == 0


def test_costs_of_a_resumed_audit_are_the_sums_of_its_processes(tmp_path) -> None:
    images = np.zeros((8, 4, 4, 1), np.uint8)
    split = Split(images, np.zeros(8, np.int32))
    first = True

    def run(path: pathlib.Path) -> dict[str, costs.Cost]:
        stored = ResultsFile(path, {"model": "m"}, lambda line: None)
        runner = BatchRunner(Evaluator(_model(), THREAT, batch_size=4), split, stored, "m")

        def compute(images, labels, ids):
            if first and ids[0] == 4:
                raise KeyboardInterrupt
            return np.ones(len(ids), bool)

        try:
            runner.run("attack", "settings", compute)
        finally:
            stored.close()
        return runner.costs

    path = tmp_path / "progress.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(path)
    lines = path.read_text("utf-8").splitlines()
    begun = json.loads(lines[1])
    path.write_text("\n".join([lines[0], json.dumps(begun | {"cost": [30.0, 100]}), ""]), "utf-8")
    first = False
    cost = run(path)["attack"]
    assert cost.passes == 100 and 30 < cost.seconds < 31
    assert run(path)["attack"] == pytest.approx(cost)  # all of it read back


def test_what_is_noted() -> None:
    noted = costs.content({"pgd": costs.Cost(1.23456, 70).plus(costs.Cost(1, 2))})
    assert noted["attacks"] == {"pgd": pytest.approx({"seconds": 2.235, "passes": 72})}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", noted["date"])
    assert noted["device"].startswith("CPU, ") and "TensorFlow" in noted["made_by"]


def test_a_page_shows_time_and_queries_where_they_are_known(tmp_path) -> None:
    import fabricated_pages as fabricated

    report = fabricated.audit(tmp_path)
    right = round(report["clean"] * report["examples"])
    plain = pages.audit(tmp_path)
    assert "queries per image" not in plain
    timing = {
        "format": 1,
        "date": "2026-11-26T08:10:00+00:00",
        "made_by": "mtard_tf 0.1.0, TensorFlow 2.21.0",
        "device": "CPU, 2 cores",
        "attacks": {"fgsm": {"seconds": 75.4, "passes": 3 * right}},
    }
    (tmp_path / "timing.json").write_text(json.dumps(timing), "utf-8")
    page = pages.audit(tmp_path)
    assert '<td class="n">1 min 15 s</td><td class="n">3</td>' in page
    assert "2026-11-26 08:10:00 UTC" in page
    assert "mtard_tf 0.1.0, TensorFlow 2.21.0, CPU, 2 cores" in page
    rows = audit_view.view(report, {"clean": np.zeros(0, bool)}, timing)["waterfall"]
    assert rows == []
    (tmp_path / "timing.json").write_text("{", "utf-8")
    with pytest.raises(ValueError, match="timing.json is damaged"):
        pages.audit(tmp_path)
